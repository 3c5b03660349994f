/* text/tokenizer.h: text to token ids and back, by a Hugging Face tokenizer.json of the byte-level BPE kind.
 *
 * In this order, as the `tokenizers` library does it: added tokens with normalized=false are cut out of the raw text (leftmost,
 * longest), the rest is normalised (NFC), added tokens with normalized=true are cut out, each piece is split by the pre-tokeniser's
 * regular expression, mapped byte by byte to the byte-level alphabet, and merged by rank. The Unicode versions are that library's: 16 in patterns, 9 in
 * NFC. What a post-processor would put around a text is not added, and nothing is truncated or padded. */
#ifndef FM_TEXT_TOKENIZER_H
#define FM_TEXT_TOKENIZER_H

#include "base/error.h"

typedef struct fm_tokenizer fm_tokenizer;

/* Reads path. FM_EFORMAT with path and place for what is malformed (ids twice, merges of unknown tokens …), FM_EUNSUPPORTED, by
 * name, for a model, normaliser, pre-tokeniser or option that this does not implement. */
int fm_tokenizer_open(fm_tokenizer **tokenizer, const char *path, fm_error *err);
/* The same from memory; path is for messages. */
int fm_tokenizer_parse(fm_tokenizer **tokenizer, const char *json, size_t bytes, const char *path, fm_error *err);
void fm_tokenizer_close(fm_tokenizer **tokenizer);

int fm_tokenizer_n_entries(const fm_tokenizer *tokenizer); /* vocabulary and added tokens */
int fm_tokenizer_max_id(const fm_tokenizer *tokenizer);    /* -1: none */
size_t fm_tokenizer_memory_bytes(const fm_tokenizer *tokenizer);

/* Text to ids; *ids is malloc'd. Invalid UTF-8 is replaced by U+FFFD, as Python's decode(errors="replace") does it. With special,
 * strings of added tokens in the text become those tokens; without, only added tokens that are not marked special do.
 * Time O(n log n) in text_bytes whatever the text; FM_EINVAL above 128 MiB, FM_EUNSUPPORTED if a hostile pattern takes too many steps. Memory while it
 * runs: 4 bytes a token, and 40 a byte of the longest piece. Returns the number of ids. Safe from several threads at once. */
int fm_tokenizer_encode(const fm_tokenizer *tokenizer, const char *text, size_t text_bytes, bool special, int32_t **ids, fm_error *err);

/* The bytes that id stands for (added tokens: their text); not necessarily whole characters. Returns their number, 0 for an id without
 * an entry. *bytes is the tokenizer's. */
int fm_tokenizer_bytes(const fm_tokenizer *tokenizer, int32_t id, const char **bytes);
/* The id of an added token or vocabulary entry with exactly this text; -1: none. Looks through all of them. */
int32_t fm_tokenizer_find(const fm_tokenizer *tokenizer, const char *text);

typedef struct fm_special { /* a token marked special in a text */
    size_t start, stop;     /* bytes; with the white space that it takes in */
    int32_t id;
} fm_special;

/* The special tokens of text in order, as encode with special would find them; *found is malloc'd. Returns their number. What lies between, encoded without
 * special, and they, are the ids of the whole text. text is valid UTF-8. */
int fm_tokenizer_specials(const fm_tokenizer *tokenizer, const char *text, size_t text_bytes, fm_special **found, fm_error *err);
/* Whether text [text_bytes], more than 0, begins with a special token, or is the unfinished beginning of one. */
bool fm_tokenizer_begins_special(const fm_tokenizer *tokenizer, const char *text, size_t text_bytes);

/* Streams text: bytes of tokens go in, whole characters come out. */
typedef struct fm_utf8_stream {
    uint8_t pending[4];
    int n_pending;
} fm_utf8_stream;

/* Appends n bytes; writes to out (room for 3 * (n + 4) bytes) what is complete: valid UTF-8, with U+FFFD for each maximal invalid part. Returns
 * the bytes written. */
size_t fm_utf8_feed(fm_utf8_stream *stream, const char *bytes, size_t n, char *out);
/* What is left at the end: U+FFFD for an unfinished character, else nothing. out has room for 4 bytes. */
size_t fm_utf8_finish(fm_utf8_stream *stream, char *out);

#endif
