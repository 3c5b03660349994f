/* tokenizer_json.c: reads tokenizer.json into a tokenizer, and refuses by name what would make it answer differently from the reference library.
 *
 * truncation, padding and post_processor concern what a caller may want around a text (cutting it, adding tokens); encoding does none of it. */
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "text/tokenizer_parts.h"

#define MAX_FILE_BYTES ((size_t)256 << 20)

/* Ids index tables, so a wild one must not size them. */
enum { MAX_ID = (1 << 22) - 1, MAX_ADDED_BYTES = 4096 };

/* GPT-2's, which ByteLevel means by use_regex. */
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

typedef struct entry {
    const char *text; /* NULL: no entry */
    bool added;       /* text is as it is, not in the byte-level alphabet */
} entry;

typedef struct loader {
    fm_tokenizer *t;
    const char *path;
    fm_error *err;
    json_t *vocab, *added; /* borrowed from the document */
    entry *entries;        /* [max_id + 1] */
    bool *mapped;          /* [max_id + 1]: a vocabulary entry in the byte-level alphabet */
    int16_t byte_of[324];  /* byte of a character of the alphabet, or -1 */
    int16_t char_of[256];
} loader;

/* ---- small readers ---- */

static const char *type_of(const json_t *object) {
    const char *type = json_string_value(json_object_get(object, "type"));
    return type ? type : json_is_null(object) || !object ? "null" : "without a type";
}

static bool is_type(const json_t *object, const char *type) { return !strcmp(type_of(object), type); }

static int refuse(loader *l, const char *what, const char *which) {
    return fm_fail(l->err, FM_EUNSUPPORTED, "%s: %s %.100s is not supported", l->path, what, which);
}

/* A key that must be absent, null, false, 0 or "" where it would change the answer. */
static int must_be_off(loader *l, const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    const char *string = json_string_value(value);
    if (!value || json_is_null(value) || json_is_false(value) || (string && !*string) || (json_is_number(value) && json_number_value(value) == 0)) return 0;
    return refuse(l, type_of(object), key);
}

static bool flag(const json_t *object, const char *key, bool otherwise) {
    const json_t *value = json_object_get(object, key);
    return value ? json_is_true(value) : otherwise;
}

/* ---- the byte-level alphabet ---- */

/* Printable bytes of Latin-1 are themselves; the others are the characters from U+0100 on, in order. */
static void make_alphabet(loader *l) {
    int next = 256;
    memset(l->byte_of, -1, sizeof l->byte_of);
    for (int b = 0; b < 256; b++) {
        bool printable = (b > 32 && b < 127) || (b > 160 && b != 173);
        l->char_of[b] = (int16_t)(printable ? b : next++);
        l->byte_of[l->char_of[b]] = (int16_t)b;
    }
}

/* Text in the alphabet to bytes, room for strlen(text) of them; false, and text as it is, if it has other characters. */
static bool to_bytes(const loader *l, const char *text, char *out, size_t *n_out) {
    size_t n = strlen(text), n_bytes = 0;
    int length;
    for (size_t at = 0; at < n; at += (size_t)length) {
        int32_t c = fm_utf8_read(text + at, &length);
        int byte = c < 324 ? l->byte_of[c] : -1;
        if (byte < 0) {
            memcpy(out, text, n);
            *n_out = n;
            return false;
        }
        out[n_bytes++] = (char)byte;
    }
    *n_out = n_bytes;
    return true;
}

/* ---- vocabulary ---- */

static int read_id(loader *l, const char *text, const json_t *value, int *id) {
    json_int_t x = json_is_integer(value) ? json_integer_value(value) : -1;
    if (x < 0 || x > MAX_ID) return fm_fail(l->err, FM_EFORMAT, "%s: the id of '%.100s' is not a number from 0 to %d", l->path, text, MAX_ID);
    *id = (int)x;
    return 0;
}

static int find_max_id(loader *l) {
    const char *text;
    json_t *value;
    size_t i;
    int code, id = 0, max_id = -1;
    json_object_foreach(l->vocab, text, value) {
        if ((code = read_id(l, text, value, &id))) return code;
        if (id > max_id) max_id = id;
    }
    json_array_foreach(l->added, i, value) {
        text = json_string_value(json_object_get(value, "content"));
        if (!text || !*text || strlen(text) > MAX_ADDED_BYTES) {
            return fm_fail(l->err, FM_EFORMAT, "%s: added_tokens[%zu] has no content of 1 to %d bytes", l->path, i, MAX_ADDED_BYTES);
        }
        if ((code = read_id(l, text, json_object_get(value, "id"), &id))) return code;
        if (id > max_id) max_id = id;
    }
    l->t->vocabulary.max_id = max_id;
    return 0;
}

static int add_entry(loader *l, const char *text, int id, bool added) {
    if (l->entries[id].text) { return fm_fail(l->err, FM_EFORMAT, "%s: '%.100s' and '%.100s' have the same id %d", l->path, l->entries[id].text, text, id); }
    l->entries[id] = (entry){text, added};
    l->t->vocabulary.n_entries++;
    return 0;
}

/* An added token may repeat a vocabulary entry; then both must say the same id. */
static int collect_entries(loader *l) {
    const char *text;
    json_t *value;
    size_t i;
    int code;
    json_object_foreach(l->vocab, text, value) {
        if ((code = add_entry(l, text, (int)json_integer_value(value), false))) return code;
    }
    json_array_foreach(l->added, i, value) {
        text = json_string_value(json_object_get(value, "content"));
        int id = (int)json_integer_value(json_object_get(value, "id"));
        const json_t *known = json_object_get(l->vocab, text);
        if (!known) {
            if ((code = add_entry(l, text, id, true))) return code;
        } else if (json_integer_value(known) != id) {
            return fm_fail(l->err, FM_EFORMAT, "%s: the added token '%.100s' has id %d, and %d in the vocabulary", l->path, text, id,
                           (int)json_integer_value(known));
        }
    }
    return 0;
}

static int build_vocabulary(loader *l) {
    fm_vocabulary *v = &l->t->vocabulary;
    int code = find_max_id(l);
    if (code) return code;
    size_t n = (size_t)v->max_id + 1, total = 0;
    l->entries = calloc(n + 1, sizeof *l->entries);
    l->mapped = calloc(n + 1, sizeof *l->mapped);
    v->offsets = malloc((n + 1) * sizeof *v->offsets);
    if (!l->entries || !l->mapped || !v->offsets) return fm_fail(l->err, FM_ENOMEM, "%s: no memory for %zu vocabulary entries", l->path, n);
    if ((code = collect_entries(l))) return code;
    for (size_t id = 0; id < n; id++) total += l->entries[id].text ? strlen(l->entries[id].text) : 0;
    v->text = malloc(total + 1);
    if (!v->text) return fm_fail(l->err, FM_ENOMEM, "%s: no memory for %zu bytes of vocabulary", l->path, total);
    uint32_t at = 0;
    for (size_t id = 0; id < n; id++) {
        const entry *e = &l->entries[id];
        size_t n_bytes = 0;
        v->offsets[id] = at;
        if (e->text && !e->added) {
            if (l->t->characters)
                n_bytes = fm_spaces_plain(e->text, strlen(e->text), v->text + at);
            else
                l->mapped[id] = to_bytes(l, e->text, v->text + at, &n_bytes);
        } else if (e->text) {
            n_bytes = strlen(e->text);
            memcpy(v->text + at, e->text, n_bytes);
        }
        at += (uint32_t)n_bytes;
    }
    v->offsets[n] = at;
    char *fit = realloc(v->text, at + 1);
    if (fit) v->text = fit;
    return 0;
}

/* Every byte of UTF-8 must have an entry, so no text is left out and nothing is unknown. */
static int find_byte_ids(loader *l) {
    for (int b = 0; b < 256; b++) {
        char text[8] = "";
        if (l->t->characters)
            snprintf(text, sizeof text, "<0x%02X>", (unsigned)b);
        else
            text[fm_utf8_write(l->char_of[b], text)] = 0;
        const json_t *id = json_object_get(l->vocab, text);
        bool in_utf8 = b < 0xf5 && b != 0xc0 && b != 0xc1;
        if (!id && in_utf8) return fm_fail(l->err, FM_EFORMAT, "%s: the vocabulary has no entry for the byte 0x%02x ('%s')", l->path, b, text);
        l->t->bpe.byte_ids[b] = id ? (int32_t)json_integer_value(id) : -1;
    }
    return 0;
}

/* Entries of one character, which merging begins with. */
static int find_char_ids(loader *l) {
    const char *text;
    json_t *value;
    size_t n = 0;
    int code = 0;
    for (int fill = 0; fill < 2 && !code; fill++) {
        json_object_foreach(l->vocab, text, value) {
            int length = 0;
            int32_t c = *text ? fm_utf8_read(text, &length) : 0;
            if (!length || text[length]) continue;
            if (fill) fm_bpe_add_char(&l->t->bpe, c, (int32_t)json_integer_value(value));
            n += !fill;
        }
        if (!fill) code = fm_bpe_open_chars(&l->t->bpe, n, l->err);
    }
    return code;
}

/* ---- merges ---- */

/* "a b" or ["a", "b"] into parts[0] and parts[1], which point into room. */
static int split_merge(loader *l, const json_t *merge, size_t rank, char **room, size_t *n_room, const char *parts[2]) {
    const char *line = json_string_value(merge), *first = json_string_value(json_array_get(merge, 0)), *second = json_string_value(json_array_get(merge, 1));
    const char *space = line ? strchr(line, ' ') : NULL;
    if (line ? !space || strchr(space + 1, ' ') : !first || !second || json_array_size(merge) != 2) {
        return fm_fail(l->err, FM_EFORMAT, "%s: model.merges[%zu] is not a pair", l->path, rank);
    }
    size_t n_first = line ? (size_t)(space - line) : strlen(first);
    if (line) second = space + 1;
    size_t n = n_first + strlen(second);
    if (2 * n + 4 > *n_room) {
        char *larger = realloc(*room, 4 * n + 256);
        if (!larger) return fm_fail(l->err, FM_ENOMEM, "%s: no memory for model.merges[%zu]", l->path, rank);
        *room = larger;
        *n_room = 4 * n + 256;
    }
    char *to = *room; /* both together, then the first alone */
    memcpy(to, line ? line : first, n_first);
    memcpy(to + n_first, second, n - n_first + 1);
    memcpy(to + n + 1, to, n_first);
    to[n + 1 + n_first] = 0;
    parts[0] = to + n + 1;
    parts[1] = second;
    return 0;
}

static int id_of(loader *l, const char *text, size_t rank, int32_t *id) {
    const json_t *value = json_object_get(l->vocab, text);
    if (!value) return fm_fail(l->err, FM_EFORMAT, "%s: model.merges[%zu]: '%.100s' is not in the vocabulary", l->path, rank, text);
    *id = (int32_t)json_integer_value(value);
    return 0;
}

static int read_merges(loader *l, const json_t *merges) {
    size_t n = json_array_size(merges), i, n_room = 0;
    char *room = NULL;
    json_t *merge;
    if (!json_is_array(merges)) return fm_fail(l->err, FM_EFORMAT, "%s: model.merges is not a list", l->path);
    if (n > MAX_ID) return fm_fail(l->err, FM_EFORMAT, "%s: model.merges has %zu entries, at most %d", l->path, n, MAX_ID);
    int code = fm_bpe_open(&l->t->bpe, n, l->err);
    if (code) return code;
    json_array_foreach(merges, i, merge) {
        const char *line = json_string_value(merge), *parts[2] = {NULL, NULL};
        fm_merge m = {.rank = (uint32_t)i};
        if (line && !strncmp(line, "#version", 8)) continue;
        if ((code = split_merge(l, merge, i, &room, &n_room, parts))) break;
        if ((code = id_of(l, parts[0], i, &m.left)) || (code = id_of(l, parts[1], i, &m.right)) || (code = id_of(l, room, i, &m.id))) break;
        fm_bpe_add(&l->t->bpe, m);
    }
    free(room);
    return code;
}

static int read_model(loader *l, const json_t *model) {
    static const char *const off[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    int code = 0;
    if (!json_is_object(model)) return fm_fail(l->err, FM_EFORMAT, "%s: there is no model", l->path);
    if (!is_type(model, "BPE")) return refuse(l, "model", type_of(model));
    for (int i = 0; i < 3; i++) {
        if ((code = must_be_off(l, model, off[i]))) return code;
    }
    l->vocab = json_object_get(model, "vocab");
    if (!json_is_object(l->vocab)) return fm_fail(l->err, FM_EFORMAT, "%s: model.vocab is not an object", l->path);
    if ((code = build_vocabulary(l))) return code;
    if (l->t->characters && !flag(model, "byte_fallback", false)) return refuse(l, "BPE of characters without", "byte_fallback");
    if (l->t->characters && flag(model, "ignore_merges", false)) return refuse(l, "BPE of characters with", "ignore_merges");
    if ((code = find_byte_ids(l)) || (l->t->characters && (code = find_char_ids(l)))) return code;
    if ((code = read_merges(l, json_object_get(model, "merges")))) return code;
    return flag(model, "ignore_merges", false) ? fm_vocabulary_index(&l->t->vocabulary, l->mapped, l->err) : 0;
}

/* ---- the other parts ---- */

static int next_splitter(loader *l, const char *pattern) {
    fm_tokenizer *t = l->t;
    if (t->n_splitters == FM_MAX_SPLITTERS) return refuse(l, "pre_tokenizer of more parts than", "eight");
    int code = fm_splitter_open(&t->splitters[t->n_splitters], pattern, l->path, l->err);
    if (!code) t->n_splitters++;
    return code;
}

/* SentencePiece's: a mark before the text, and marks for spaces. */
static int read_marks(loader *l, const json_t *part) {
    const char *before = json_string_value(json_object_get(part, "prepend")), *content = json_string_value(json_object_get(part, "content"));
    const char *pattern = json_string_value(json_object_get(json_object_get(part, "pattern"), "String"));
    if (!l->t->characters) return refuse(l, "normalizer", type_of(part));
    if (is_type(part, "Prepend")) {
        if (!before || strcmp(before, FM_SPACE_MARK)) return refuse(l, "normalizer Prepend of", before ? before : "nothing");
        l->t->normal_prefix = FM_PREFIX_ADD;
        return 0;
    }
    if (!pattern || strcmp(pattern, " ") || !content || strcmp(content, FM_SPACE_MARK))
        return refuse(l, "normalizer Replace of", pattern ? pattern : "a pattern");
    l->t->marks_spaces = true;
    return 0;
}

static int read_normalizer_part(loader *l, const json_t *part) {
    if (is_type(part, "Prepend") || is_type(part, "Replace")) return read_marks(l, part);
    if (!is_type(part, "NFC")) return refuse(l, "normalizer", type_of(part));
    if (l->t->marks_spaces || l->t->normal_prefix) return refuse(l, "normalizer that goes on with", "NFC");
    l->t->nfc = true;
    return 0;
}

static int read_normalizer(loader *l, const json_t *normalizer) {
    const json_t *list = is_type(normalizer, "Sequence") ? json_object_get(normalizer, "normalizers") : NULL, *part;
    size_t i;
    int code = 0;
    if (list && !json_is_array(list)) return fm_fail(l->err, FM_EFORMAT, "%s: normalizer.normalizers is not a list", l->path);
    json_array_foreach(list, i, part) {
        if ((code = read_normalizer_part(l, part))) return code;
    }
    if (!list && !is_type(normalizer, "null")) code = read_normalizer_part(l, normalizer);
    if (!code && l->t->normal_prefix && !l->t->marks_spaces) return refuse(l, "normalizer Prepend without", "Replace");
    return code;
}

/* Isolated: matches, and what lies between. Removed and inverted: matches only. */
static int read_split(loader *l, const json_t *split) {
    const char *pattern = json_string_value(json_object_get(json_object_get(split, "pattern"), "Regex"));
    const char *behavior = json_string_value(json_object_get(split, "behavior"));
    bool invert = flag(split, "invert", false), removed = behavior && !strcmp(behavior, "Removed");
    if (!pattern) return refuse(l, "pre_tokenizer Split with a pattern that is no", "Regex");
    if (!behavior || (strcmp(behavior, "Isolated") && !(removed && invert)))
        return refuse(l, "pre_tokenizer Split with behavior", behavior ? behavior : "null");
    if (invert && !removed) return refuse(l, "pre_tokenizer Split with", "invert");
    int code = next_splitter(l, pattern);
    if (!code && removed) fm_splitter_drop_gaps(l->t->splitters[l->t->n_splitters - 1]);
    return code;
}

static int read_byte_level(loader *l, const json_t *part) {
    if (flag(part, "add_prefix_space", true)) return refuse(l, "pre_tokenizer ByteLevel with", "add_prefix_space");
    return flag(part, "use_regex", true) ? next_splitter(l, gpt2_pattern) : 0;
}

static int read_punctuation(loader *l, const json_t *part) {
    const char *behavior = json_string_value(json_object_get(part, "behavior"));
    if (behavior && strcmp(behavior, "Isolated")) return refuse(l, "pre_tokenizer Punctuation with behavior", behavior);
    return next_splitter(l, "[!-/:-@\\[-`{-~\\p{P}]");
}

static int read_metaspace(loader *l, const json_t *part) {
    const char *mark = json_string_value(json_object_get(part, "replacement")), *scheme = json_string_value(json_object_get(part, "prepend_scheme"));
    if (!l->t->characters || l->t->marks_spaces) return refuse(l, "pre_tokenizer", "Metaspace");
    if (!mark || strcmp(mark, FM_SPACE_MARK)) return refuse(l, "pre_tokenizer Metaspace with", mark ? mark : "no replacement");
    if (!scheme) scheme = flag(part, "add_prefix_space", true) ? "always" : "never";
    if (strcmp(scheme, "always") && strcmp(scheme, "first") && strcmp(scheme, "never")) return refuse(l, "pre_tokenizer Metaspace with prepend_scheme", scheme);
    l->t->piece_prefix = strcmp(scheme, "never") != 0;
    l->t->first_only = !strcmp(scheme, "first");
    return flag(part, "split", true) ? next_splitter(l, FM_SPACE_MARK "[^" FM_SPACE_MARK "]*|[^" FM_SPACE_MARK "]+") : 0;
}

static int read_pre_tokenizer(loader *l, const json_t *pre) {
    const json_t *list = is_type(pre, "Sequence") ? json_object_get(pre, "pretokenizers") : NULL;
    size_t n = list ? json_array_size(list) : 1;
    if (l->t->characters) {
        if (l->t->marks_spaces && is_type(pre, "null")) return 0;
        return is_type(pre, "Metaspace") ? read_metaspace(l, pre) : refuse(l, "pre_tokenizer", type_of(pre));
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *part = list ? json_array_get(list, i) : pre;
        bool last = i + 1 == n;
        int code = is_type(part, "Split") && !last         ? read_split(l, part)
                   : is_type(part, "Digits") && !last      ? next_splitter(l, flag(part, "individual_digits", false) ? "\\p{N}" : "\\p{N}+")
                   : is_type(part, "Punctuation") && !last ? read_punctuation(l, part)
                   : is_type(part, "ByteLevel")            ? read_byte_level(l, part)
                                                           : refuse(l, "pre_tokenizer", type_of(part));
        if (code) return code;
        if (is_type(part, "ByteLevel") && !last) return refuse(l, "pre_tokenizer that goes on after", "ByteLevel");
    }
    return n > 0 ? 0 : refuse(l, "pre_tokenizer", "Sequence of none");
}

/* Marks become spaces and <0xNN> bytes; a space at the very beginning, which was added, is the caller's to take off. */
static int read_char_decoder(loader *l, const json_t *decoder) {
    static const char *const parts[] = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"};
    const json_t *list = json_object_get(decoder, "decoders"), *part;
    bool fallback = false;
    size_t i;
    json_array_foreach(list, i, part) {
        size_t k = 0;
        while (k < sizeof parts / sizeof *parts && !is_type(part, parts[k])) k++;
        if (k == sizeof parts / sizeof *parts) return refuse(l, "decoder", type_of(part));
        const char *pattern = json_string_value(json_object_get(json_object_get(part, "pattern"), "String")),
                   *content = json_string_value(json_object_get(part, "content"));
        if (is_type(part, "Replace") && (!pattern || strcmp(pattern, FM_SPACE_MARK) || !content || strcmp(content, " ")))
            return refuse(l, "decoder Replace of", pattern ? pattern : "a pattern");
        fallback |= is_type(part, "ByteFallback");
    }
    return fallback ? 0 : refuse(l, "decoder Sequence without", "ByteFallback");
}

static int read_ends(loader *l, const json_t *root) {
    const json_t *post = json_object_get(root, "post_processor"), *decoder = json_object_get(root, "decoder"), *part;
    const json_t *list = is_type(post, "Sequence") ? json_object_get(post, "processors") : NULL;
    size_t i;
    json_array_foreach(list, i, part) {
        if (!is_type(part, "ByteLevel") && !is_type(part, "TemplateProcessing")) return refuse(l, "post_processor", type_of(part));
    }
    if (!list && !is_type(post, "null") && !is_type(post, "ByteLevel") && !is_type(post, "TemplateProcessing"))
        return refuse(l, "post_processor", type_of(post));
    if (l->t->characters) return read_char_decoder(l, decoder);
    return is_type(decoder, "ByteLevel") ? 0 : refuse(l, "decoder", type_of(decoder));
}

/* Tokens that are sought after normalisation are sought in their normalised form. Special ones come first, as where two become the same text. */
static int read_added(loader *l) {
    size_t n = json_array_size(l->added), i;
    fm_added_token *raw = calloc(n + 1, sizeof *raw), *normalized = calloc(n + 1, sizeof *normalized);
    char **owned = calloc(n + 1, sizeof *owned);
    int n_raw = 0, n_normalized = 0, code = 0;
    if (!raw || !normalized || !owned) code = fm_fail(l->err, FM_ENOMEM, "%s: no memory for %zu added tokens", l->path, n);
    for (int pass = 0; pass < 2 && !code; pass++) {
        json_t *value;
        json_array_foreach(l->added, i, value) {
            const char *text = json_string_value(json_object_get(value, "content"));
            fm_added_token token = {.text = text, .n = strlen(text), .id = (int32_t)json_integer_value(json_object_get(value, "id"))};
            token.special = flag(value, "special", false);
            token.single_word = flag(value, "single_word", false);
            token.lstrip = flag(value, "lstrip", false);
            token.rstrip = flag(value, "rstrip", false);
            if (token.special != (pass == 0)) continue;
            if (flag(value, "normalized", !token.special)) {
                if ((code = fm_tokenizer_normalize(l->t, token.text, token.n, &token.text, &token.n, &owned[i], l->err))) break;
                normalized[n_normalized++] = token;
            } else {
                raw[n_raw++] = token;
            }
        }
    }
    if (!code) code = fm_added_set_open(&l->t->raw, raw, n_raw, l->err);
    if (!code) code = fm_added_set_open(&l->t->normalized, normalized, n_normalized, l->err);
    for (i = 0; owned && i < n; i++) free(owned[i]);
    free(owned);
    free(raw);
    free(normalized);
    return code;
}

static int read_root(loader *l, const json_t *root) {
    int code;
    l->added = json_object_get(root, "added_tokens");
    if (l->added && !json_is_array(l->added)) return fm_fail(l->err, FM_EFORMAT, "%s: added_tokens is not a list", l->path);
    make_alphabet(l);
    l->t->characters = is_type(json_object_get(root, "decoder"), "Sequence");
    if ((code = read_normalizer(l, json_object_get(root, "normalizer")))) return code;
    if ((code = read_pre_tokenizer(l, json_object_get(root, "pre_tokenizer")))) return code;
    if ((code = read_ends(l, root))) return code;
    if ((code = read_model(l, json_object_get(root, "model")))) return code;
    return read_added(l);
}

int fm_tokenizer_parse(fm_tokenizer **tokenizer, const char *json, size_t bytes, const char *path, fm_error *err) {
    json_error_t problem;
    *tokenizer = NULL;
    json_t *root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!root) return fm_fail(err, FM_EFORMAT, "%s: line %d, column %d: %s", path, problem.line, problem.column, problem.text);
    loader l = {.t = calloc(1, sizeof *l.t), .path = path, .err = err};
    int code = FM_ENOMEM;
    if (!l.t) {
        fm_fail(err, FM_ENOMEM, "%s: no memory for a tokenizer", path);
    } else {
        l.t->vocabulary.max_id = -1;
        code = read_root(&l, root);
    }
    free(l.entries);
    free(l.mapped);
    json_decref(root);
    if (code) fm_tokenizer_close(&l.t);
    *tokenizer = l.t;
    return code;
}

int fm_tokenizer_open(fm_tokenizer **tokenizer, const char *path, fm_error *err) {
    char *json;
    size_t bytes;
    *tokenizer = NULL;
    int code = fm_file_read_text(&json, &bytes, path, MAX_FILE_BYTES, err);
    if (code) return code;
    code = fm_tokenizer_parse(tokenizer, json, bytes, path, err);
    free(json);
    fm_memory_trim(); /* the document took ten times what is kept of it */
    return code;
}
