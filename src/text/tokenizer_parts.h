/* text/tokenizer_parts.h: the parts that the tokenizer is made of, for text/tokenizer*.c and their tests only.
 *
 * Each part knows nothing of the others: unicode (UTF-8, NFC), added tokens (cutting them out of a text), splitter (the
 * pre-tokeniser's regular expression), bpe (merging the bytes of one piece). */
#ifndef FM_TEXT_TOKENIZER_PARTS_H
#define FM_TEXT_TOKENIZER_PARTS_H

#include "text/tokenizer.h"

/* ---- unicode.c: UTF-8 and NFC --------------------------------------------------------------------------------------- */

enum { FM_UTF8_VALID, FM_UTF8_INVALID, FM_UTF8_UNFINISHED };

/* Looks at the start of text [n], n > 0: VALID with the length of the character, INVALID with the length of the maximal part that U+FFFD
 * stands for, or UNFINISHED when all n bytes are the start of a character. */
int fm_utf8_look(const char *text, size_t n, int *length);
/* The character at text, which is valid UTF-8, and its length. */
int32_t fm_utf8_read(const char *text, int *length);
/* Writes c, returns the bytes written (1 to 4). */
int fm_utf8_write(int32_t c, char *out);

/* Text with invalid parts replaced: *out is text itself when it is valid, else malloc'd (*owned). */
int fm_utf8_repair(const char *text, size_t n, const char **out, size_t *n_out, char **owned, fm_error *err);

/* NFC of valid UTF-8: *out is text itself where that is plain to see, else malloc'd (*owned). Linear whatever the text. */
int fm_nfc(const char *text, size_t n, const char **out, size_t *n_out, char **owned, fm_error *err);

/* White_Space of Unicode. */
bool fm_is_space(int32_t c);
/* A character of words, \w: alphabetic, a mark, a decimal digit, connector punctuation, a join control. */
bool fm_is_word(int32_t c);

typedef struct fm_range {
    int32_t first, last;
} fm_range;

/* unicode_tables.c; each ends with {0, -1}. */
extern const fm_range fm_space_ranges[];
extern const fm_range fm_new_letters[], fm_new_marks[], fm_new_numbers[], fm_new_punctuation[], fm_new_symbols[]; /* of \p{L} … */
extern const fm_range fm_new_upper[], fm_new_lower[], fm_new_modifiers[], fm_new_other_letters[];                 /* of \p{Lu}, Ll, Lm, Lo */
extern const fm_range fm_inert_ranges[];

/* ---- added_tokens.c ------------------------------------------------------------------------------------------------- */

typedef struct fm_added_token {
    const char *text;
    size_t n; /* > 0 */
    int32_t id;
    bool special, single_word, lstrip, rstrip;
} fm_added_token;

/* Tokens in the order of their bytes, and where each first byte's begin. */
typedef struct fm_added_set {
    fm_added_token *tokens;
    int n_tokens;
    char *text; /* what the tokens point into */
    size_t text_bytes;
    int first[257];
} fm_added_set;

/* Copies tokens [n]; of two with the same text the first counts. */
int fm_added_set_open(fm_added_set *set, const fm_added_token *tokens, int n, fm_error *err);
void fm_added_set_close(fm_added_set *set);

typedef struct fm_added_cut { /* zeroed at the start of a text */
    size_t scan;              /* matching goes on here */
    size_t stop;              /* end of the last token found; with rstrip, of the white space after it */
    size_t spaces_until;      /* white space is known to reach from stop to here */
} fm_added_cut;

/* Finds the next token in text [n] (leftmost, longest, tokens do not overlap). Returns it and sets *start and cut->stop; the plain text before it is
 * from the old cut->stop to *start (empty if that is not below). NULL: none; *start is n. */
const fm_added_token *fm_added_next(const fm_added_set *set, const char *text, size_t n, bool special, fm_added_cut *cut, size_t *start);

/* ---- spaces.c ------------------------------------------------------------------------------------------------------- */

#define FM_SPACE_MARK "\xe2\x96\x81" /* U+2581 */

enum { FM_PREFIX_NONE, FM_PREFIX_ADD, FM_PREFIX_NEED /* unless it begins with one */ };

/* Text with marks for spaces, and one before it: *out is text itself when nothing changes, else malloc'd (*owned). */
int fm_spaces_mark(const char *text, size_t n, int prefix, const char **out, size_t *n_out, char **owned, fm_error *err);
/* The bytes of a vocabulary entry in which spaces are marked, or which is a byte, <0xNN>; out has room for n. */
size_t fm_spaces_plain(const char *text, size_t n, char *out);

/* ---- splitter.c ----------------------------------------------------------------------------------------------------- */

typedef struct fm_splitter fm_splitter;

/* Translates and compiles an Oniguruma pattern, which splits text into matches and what lies between. FM_EUNSUPPORTED for a construct outside the part of
 * the language in which both engines agree. */
int fm_splitter_open(fm_splitter **splitter, const char *pattern, const char *path, fm_error *err);
/* What lies between matches is left out. */
void fm_splitter_drop_gaps(fm_splitter *splitter);
void fm_splitter_close(fm_splitter **splitter);
size_t fm_splitter_memory_bytes(const fm_splitter *splitter);

typedef struct fm_split { /* one text being split */
    const fm_splitter *splitter;
    void *match;  /* pcre2_match_data */
    void *limits; /* pcre2_match_context */
    const char *text;
    size_t n, search, done, last_match;
    uint64_t steps;               /* the matcher may still take */
    size_t held_start, held_stop; /* a match behind the piece that was handed out; empty: none */
} fm_split;

int fm_split_open(fm_split *split, const fm_splitter *splitter, fm_error *err);
void fm_split_close(fm_split *split);
/* The steps of a text of n bytes, which may be divided into several that are split one after the other. */
void fm_split_allow(fm_split *split, size_t n);
/* Begins with text [n], valid UTF-8. */
void fm_split_begin(fm_split *split, const char *text, size_t n);
/* The next piece: 1, 0 at the end, or an error. */
int fm_split_next(fm_split *split, const char **piece, size_t *n, fm_error *err);

/* pattern.c: the pattern in PCRE2's words, malloc'd. */
int fm_pattern_translate(char **out, const char *pattern, const char *path, fm_error *err);

/* ---- bpe.c ---------------------------------------------------------------------------------------------------------- */

#define FM_NO_RANK UINT32_MAX

typedef struct fm_merge {
    int32_t left, right;
    uint32_t rank; /* FM_NO_RANK: an empty place */
    int32_t id;
} fm_merge;

typedef struct fm_char_id {
    int32_t c, id; /* c -1: an empty place */
} fm_char_id;

typedef struct fm_bpe {
    fm_merge *merges; /* open addressing */
    uint32_t mask;
    int32_t byte_ids[256]; /* -1: a byte that UTF-8 does not have */
    fm_char_id *chars;     /* open addressing; NULL: merging begins with bytes. Else with characters, and with the bytes of those that are not here */
    uint32_t char_mask;
} fm_bpe;

/* Room for n merges. */
int fm_bpe_open(fm_bpe *bpe, size_t n, fm_error *err);
void fm_bpe_close(fm_bpe *bpe);
/* left and right become id; a pair that comes again takes the new rank. */
void fm_bpe_add(fm_bpe *bpe, fm_merge merge);
/* Room for n characters, from now on what merging begins with. */
int fm_bpe_open_chars(fm_bpe *bpe, size_t n, fm_error *err);
void fm_bpe_add_char(fm_bpe *bpe, int32_t c, int32_t id);

typedef struct fm_symbol {
    int32_t id, prev, next; /* -1: none */
    uint32_t rank;          /* of the merge with the next one */
    int32_t merged;         /* what that merge gives */
} fm_symbol;

typedef struct fm_bpe_work { /* zeroed at first; grows */
    fm_symbol *symbols;
    uint64_t *heap; /* rank << 32 | position */
    size_t capacity, n_heap;
} fm_bpe_work;

void fm_bpe_work_close(fm_bpe_work *work);
/* Merges bytes [n] into ids, which has room for n; returns their number. O(n log n). */
int fm_bpe_merge(const fm_bpe *bpe, fm_bpe_work *work, const char *bytes, size_t n, int32_t *ids, fm_error *err);

#define FM_MAX_SPLITTERS 8

/* What normalisation makes of text: as fm_nfc gives it. */
int fm_tokenizer_normalize(const fm_tokenizer *tokenizer, const char *text, size_t n, const char **out, size_t *n_out, char **owned, fm_error *err);

/* ---- the tokenizer -------------------------------------------------------------------------------------------------- */

typedef struct fm_vocabulary {
    char *text;        /* the bytes of all entries, by id */
    uint32_t *offsets; /* [max_id + 2] into text */
    int max_id, n_entries;
    uint32_t *slots; /* hash of bytes to id + 1; 0: empty. NULL unless whole pieces are looked up (ignore_merges) */
    uint32_t mask;
} fm_vocabulary;

/* Fills slots with the ids for which in is true. */
int fm_vocabulary_index(fm_vocabulary *v, const bool *in, fm_error *err);

struct fm_tokenizer {
    fm_vocabulary vocabulary;
    fm_bpe bpe;
    fm_added_set raw, normalized;             /* cut out before and after normalisation */
    fm_splitter *splitters[FM_MAX_SPLITTERS]; /* [n_splitters] each splits the pieces of the one before */
    int n_splitters;
    bool nfc;
    /* SentencePiece's form: the vocabulary is of characters, with U+2581 for spaces. */
    bool characters, marks_spaces; /* marks_spaces: the normaliser does it, else the pre-tokeniser */
    int normal_prefix;             /* FM_PREFIX_…: of the normaliser */
    bool piece_prefix, first_only; /* the pre-tokeniser adds a mark: to each text between added tokens, or only at the very beginning */
};

#endif
