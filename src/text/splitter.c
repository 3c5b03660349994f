/* splitter.c: splits text by the pre-tokeniser's pattern into matches and what lies between them, as the reference library's "Isolated" does.
 *
 * PCRE2 does the matching, with its JIT compiler where the system allows it. Patterns come from files and texts from anybody, so stack, memory and steps
 * are bounded, and a pattern that needs more is an error. PCRE2 counts steps anew at each place where a match may begin; so that a text's steps can be
 * summed, patterns are compiled as anchored and the places are gone through here. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"

/* A place where FREE_STEPS do costs nothing, so that an ordinary pattern on an ordinary text is not matched twice; what takes more, such as a long run of
 * spaces, comes out of the text's budget. */
enum { HEAP_KIB = 65536, FREE_STEPS = 1024, STEPS = 1 << 20, STEPS_PER_BYTE = 64 };

struct fm_splitter {
    pcre2_code *code;
    bool drop_gaps;
};

int fm_splitter_open(fm_splitter **splitter, const char *pattern, const char *path, fm_error *err) {
    char *words = NULL;
    int code = fm_pattern_translate(&words, pattern, path, err);
    *splitter = NULL;
    if (code) return code;
    fm_splitter *s = calloc(1, sizeof *s);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!s || !context) {
        code = fm_fail(err, FM_ENOMEM, "%s: no memory for the pre-tokeniser's pattern", path);
    } else {
        int problem = 0;
        size_t at = 0;
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        s->code = pcre2_compile((PCRE2_SPTR)words, PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &problem, &at, context);
        if (!s->code) {
            char message[128] = "";
            pcre2_get_error_message(problem, (PCRE2_UCHAR *)message, sizeof message);
            code = fm_fail(err, FM_EUNSUPPORTED, "%s: the pre-tokeniser's pattern: %s", path, message);
        }
    }
    pcre2_compile_context_free(context);
    free(words);
    if (code) {
        fm_splitter_close(&s);
        return code;
    }
    pcre2_jit_compile(s->code, PCRE2_JIT_COMPLETE); /* refused: matching interprets */
    *splitter = s;
    return 0;
}

void fm_splitter_close(fm_splitter **splitter) {
    if (!*splitter) return;
    pcre2_code_free((*splitter)->code);
    free(*splitter);
    *splitter = NULL;
}

void fm_splitter_drop_gaps(fm_splitter *splitter) { splitter->drop_gaps = true; }

size_t fm_splitter_memory_bytes(const fm_splitter *splitter) {
    size_t bytes = 0, jit = 0;
    if (!splitter) return 0;
    pcre2_pattern_info(splitter->code, PCRE2_INFO_SIZE, &bytes);
    pcre2_pattern_info(splitter->code, PCRE2_INFO_JITSIZE, &jit);
    return sizeof *splitter + bytes + jit;
}

int fm_split_open(fm_split *split, const fm_splitter *splitter, fm_error *err) {
    *split = (fm_split){.splitter = splitter};
    if (!splitter) return 0;
    split->match = pcre2_match_data_create(1, NULL);
    split->limits = pcre2_match_context_create(NULL);
    if (!split->match || !split->limits) {
        fm_split_close(split);
        return fm_fail(err, FM_ENOMEM, "no memory to split a text");
    }
    pcre2_set_heap_limit(split->limits, HEAP_KIB);
    return 0;
}

void fm_split_close(fm_split *split) {
    if (split->match) pcre2_match_data_free(split->match);
    if (split->limits) pcre2_match_context_free(split->limits);
    *split = (fm_split){0};
}

void fm_split_allow(fm_split *split, size_t n) { split->steps = STEPS + (uint64_t)STEPS_PER_BYTE * n; }

void fm_split_begin(fm_split *split, const char *text, size_t n) {
    split->text = text;
    split->n = n;
    split->search = split->done = 0;
    split->held_start = split->held_stop = 0;
    split->last_match = SIZE_MAX;
}

static int hand_out(fm_split *split, size_t start, size_t stop, const char **piece, size_t *n) {
    *piece = split->text + start;
    *n = stop - start;
    return 1;
}

/* A match that begins at split->search: 1 and its end, 0 or an error. */
static int match_here(fm_split *split, size_t *stop, fm_error *err) {
    int found = PCRE2_ERROR_MATCHLIMIT;
    for (uint64_t limit = FREE_STEPS; found == PCRE2_ERROR_MATCHLIMIT && limit <= UINT32_MAX; limit *= 8) {
        if (limit > FREE_STEPS) {
            if (limit > split->steps) break;
            split->steps -= limit;
        }
        pcre2_set_match_limit(split->limits, (uint32_t)limit);
        found = pcre2_match(split->splitter->code, (PCRE2_SPTR)split->text, split->n, split->search, PCRE2_NO_UTF_CHECK, split->match, split->limits);
    }
    if (found == PCRE2_ERROR_NOMATCH) return 0;
    if (found < 0) {
        char message[128] = "";
        pcre2_get_error_message(found, (PCRE2_UCHAR *)message, sizeof message);
        return fm_fail(err, FM_EUNSUPPORTED, "the pre-tokeniser's pattern fails at byte %zu of a text of %zu: %s", split->search, split->n, message);
    }
    *stop = pcre2_get_ovector_pointer(split->match)[1];
    return 1;
}

/* The next match from split->search on that is not an empty one right behind the last: 1, 0 or an error. */
static int next_match(fm_split *split, size_t *start, size_t *stop, fm_error *err) {
    while (split->splitter && split->search <= split->n) {
        *start = split->search;
        int found = match_here(split, stop, err), length = 1;
        if (found < 0) return found;
        if (found && (*start < *stop || *stop != split->last_match)) {
            split->search = split->last_match = *stop;
            return 1;
        }
        if (split->search < split->n) fm_utf8_read(split->text + split->search, &length);
        split->search += (size_t)length;
    }
    return 0;
}

int fm_split_next(fm_split *split, const char **piece, size_t *n, fm_error *err) {
    if (split->held_start < split->held_stop) {
        size_t start = split->held_start;
        split->held_start = split->held_stop;
        return hand_out(split, start, split->held_stop, piece, n);
    }
    for (;;) {
        size_t start = 0, stop = 0, done = split->done;
        int found = next_match(split, &start, &stop, err);
        if (found < 0) return found;
        if (found == 0) start = stop = split->n;
        split->done = stop;
        if (start > done && !(split->splitter && split->splitter->drop_gaps)) {
            split->held_start = start;
            split->held_stop = stop;
            return hand_out(split, done, start, piece, n);
        }
        if (stop > start) return hand_out(split, start, stop, piece, n);
        if (found == 0) return 0;
    }
}
