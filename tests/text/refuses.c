/* refuses.c: what is wrong with a tokenizer.json, or not supported, is refused by name; what makes no difference is not. Each case changes one place of
 * tests/text/cases/tiny.json. */
#include <jansson.h>

#include "test.h"
#include "text/tokenizer.h"

#define TINY TEST_SOURCE_ROOT "/tests/text/cases/tiny.json"
#define SPLIT(rest)                                                                                                                                            \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\"," rest "},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}"

struct change {
    const char *place, *value; /* NULL: the place is taken out */
    int code;                  /* 0: accepted */
    const char *what;
};

static const struct change cases[] = {
    {"version", "\"1.0\"", 0, ""},
    {"normalizer", "null", 0, ""},
    {"normalizer", NULL, 0, ""},
    {"normalizer", "{\"type\":\"NFC\"}", 0, ""},
    {"normalizer", "{\"type\":\"NFKC\"}", FM_EUNSUPPORTED, "normalizer NFKC"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"Lowercase\"}]}", FM_EUNSUPPORTED, "normalizer Lowercase"},
    {"normalizer", "{\"type\":\"Sequence\",\"normalizers\":7}", FM_EFORMAT, "normalizer.normalizers"},
    {"normalizer", "[]", FM_EUNSUPPORTED, "normalizer without a type"},
    {"pre_tokenizer", "null", FM_EUNSUPPORTED, "pre_tokenizer null"},
    {"pre_tokenizer", "{\"type\":\"Metaspace\"}", FM_EUNSUPPORTED, "pre_tokenizer Metaspace"},
    {"pre_tokenizer", "{\"type\":\"Sequence\",\"pretokenizers\":[]}", FM_EUNSUPPORTED, "Sequence of none"},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a+\"},\"behavior\":\"Isolated\",\"invert\":false"), 0, ""},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"String\":\"a\"},\"behavior\":\"Isolated\",\"invert\":false"), FM_EUNSUPPORTED, "no Regex"},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\",\"invert\":false"), FM_EUNSUPPORTED, "behavior Removed"},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\",\"invert\":true"), FM_EUNSUPPORTED, "invert"},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a(?<!b)\"},\"behavior\":\"Isolated\",\"invert\":false"), FM_EUNSUPPORTED, "a kind of group at byte 1"},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Removed\",\"invert\":true"), 0, ""},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"Digits\"},{\"type\":\"Punctuation\""), 0,
     ""},
    {"pre_tokenizer", SPLIT("\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Isolated\"},{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\""), FM_EUNSUPPORTED,
     "Punctuation with behavior Contiguous"},
    {"pre_tokenizer.use_regex", "false", 0, ""},
    {"pre_tokenizer.add_prefix_space", "true", FM_EUNSUPPORTED, "add_prefix_space"},
    {"pre_tokenizer.add_prefix_space", NULL, FM_EUNSUPPORTED, "add_prefix_space"}, /* on where it is not said */
    {"decoder", "null", FM_EUNSUPPORTED, "decoder null"},
    {"decoder", "{\"type\":\"WordPiece\"}", FM_EUNSUPPORTED, "decoder WordPiece"},
    {"post_processor", "null", 0, ""},
    {"post_processor", "{\"type\":\"TemplateProcessing\"}", 0, ""},
    {"post_processor", "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},{\"type\":\"TemplateProcessing\"}]}", 0, ""},
    {"post_processor", "{\"type\":\"BertProcessing\"}", FM_EUNSUPPORTED, "post_processor BertProcessing"},
    {"post_processor", "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"BertProcessing\"}]}", FM_EUNSUPPORTED, "post_processor BertProcessing"},
    {"model", NULL, FM_EFORMAT, "no model"},
    {"model.type", "\"Unigram\"", FM_EUNSUPPORTED, "model Unigram"},
    {"model.type", NULL, FM_EUNSUPPORTED, "model without a type"},
    {"model.dropout", "0.1", FM_EUNSUPPORTED, "BPE dropout"},
    {"model.dropout", "0.0", 0, ""},
    {"model.continuing_subword_prefix", "\"##\"", FM_EUNSUPPORTED, "BPE continuing_subword_prefix"},
    {"model.end_of_word_suffix", "\"</w>\"", FM_EUNSUPPORTED, "BPE end_of_word_suffix"},
    {"model.unk_token", "\"<unk>\"", 0, ""}, /* nothing is unknown when every byte has an entry */
    {"model.byte_fallback", "true", 0, ""},
    {"model.ignore_merges", "false", 0, ""},
    {"model.vocab", "[]", FM_EFORMAT, "model.vocab"},
    {"model.vocab.A", NULL, FM_EFORMAT, "byte 0x41"},
    {"model.vocab.\xc4\x80", NULL, FM_EFORMAT, "byte 0x00"},
    {"model.vocab.\xc3\xb5", NULL, 0, ""}, /* 0xf5 is in no UTF-8 */
    {"model.vocab.A", "\"65\"", FM_EFORMAT, "id of 'A'"},
    {"model.vocab.A", "-1", FM_EFORMAT, "id of 'A'"},
    {"model.vocab.A", "1.5", FM_EFORMAT, "id of 'A'"},
    {"model.vocab.A", "4194304", FM_EFORMAT, "id of 'A'"},
    {"model.vocab.A", "4194303", 0, ""},
    {"model.vocab.A", "66", FM_EFORMAT, "have the same id 66"},
    {"model.vocab.the", NULL, FM_EFORMAT, "'the' is not in the vocabulary"},
    {"model.merges", NULL, FM_EFORMAT, "model.merges is not a list"},
    {"model.merges", "[]", 0, ""},
    {"model.merges.0", "\"ab\"", FM_EFORMAT, "model.merges[0] is not a pair"},
    {"model.merges.1", "\"a b c\"", FM_EFORMAT, "model.merges[1] is not a pair"},
    {"model.merges.2", "[\"a\"]", FM_EFORMAT, "model.merges[2] is not a pair"},
    {"model.merges.2", "[\"a\",\"b\",\"c\"]", FM_EFORMAT, "model.merges[2] is not a pair"},
    {"model.merges.2", "[\"a\",7]", FM_EFORMAT, "model.merges[2] is not a pair"},
    {"model.merges.2", "[\"a\",\"b\"]", 0, ""},
    {"model.merges.2", "7", FM_EFORMAT, "model.merges[2] is not a pair"},
    {"model.merges.3", "\"a q\"", FM_EFORMAT, "model.merges[3]: 'aq' is not in the vocabulary"},
    {"model.merges.3", "\"qq q\"", FM_EFORMAT, "model.merges[3]: 'qq' is not in the vocabulary"},
    {"added_tokens", "{}", FM_EFORMAT, "added_tokens is not a list"},
    {"added_tokens", NULL, 0, ""},
    {"added_tokens.0.content", NULL, FM_EFORMAT, "added_tokens[0] has no content"},
    {"added_tokens.1.content", "\"\"", FM_EFORMAT, "added_tokens[1] has no content"},
    {"added_tokens.1.id", NULL, FM_EFORMAT, "id of '<left>'"},
    {"added_tokens.1.id", "65", FM_EFORMAT, "'A' and '<left>' have the same id 65"},
    {"added_tokens.0.content", "\"A\"", FM_EFORMAT, "'A' has id"},
};

/* The same of tests/text/cases/mixtral.json, SentencePiece's form. */
#define MIXTRAL TEST_SOURCE_ROOT "/tests/text/cases/mixtral.json"
#define METASPACE(rest) "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\"" rest "}"
static const struct change of_characters[] = {
    {"normalizer", "{\"type\":\"NFC\"}", FM_EUNSUPPORTED, "pre_tokenizer null"}, /* nothing marks spaces then */
    {"normalizer.normalizers.0.prepend", "\"_\"", FM_EUNSUPPORTED, "normalizer Prepend of _"},
    {"normalizer.normalizers.1.content", "\"_\"", FM_EUNSUPPORTED, "normalizer Replace of"},
    {"normalizer.normalizers.1.pattern", "{\"Regex\":\" \"}", FM_EUNSUPPORTED, "normalizer Replace of a pattern"},
    {"normalizer.normalizers.1", "{\"type\":\"NFC\"}", FM_EUNSUPPORTED, "normalizer that goes on with NFC"},
    {"normalizer.normalizers.0", "{\"type\":\"NFC\"}", 0, ""},
    {"normalizer.normalizers.0", "{\"type\":\"NFKC\"}", FM_EUNSUPPORTED, "normalizer NFKC"},
    {"pre_tokenizer", METASPACE(""), FM_EUNSUPPORTED, "pre_tokenizer Metaspace"}, /* both */
    {"pre_tokenizer", "{\"type\":\"ByteLevel\"}", FM_EUNSUPPORTED, "pre_tokenizer ByteLevel"},
    {"decoder.decoders.1", "{\"type\":\"Fuse\"}", FM_EUNSUPPORTED, "decoder Sequence without ByteFallback"},
    {"decoder.decoders.0.content", "\"\"", FM_EUNSUPPORTED, "decoder Replace of"},
    {"decoder.decoders.0", "{\"type\":\"WordPiece\"}", FM_EUNSUPPORTED, "decoder WordPiece"},
    {"decoder", "{\"type\":\"ByteLevel\"}", FM_EUNSUPPORTED, "normalizer Prepend"},
    {"model.byte_fallback", "false", FM_EUNSUPPORTED, "BPE of characters without byte_fallback"},
    {"model.ignore_merges", "true", FM_EUNSUPPORTED, "BPE of characters with ignore_merges"},
    {"model.vocab.<0x41>", NULL, FM_EFORMAT, "byte 0x41 ('<0x41>')"},
    {"model.vocab.<0xFF>", NULL, 0, ""},
};

/* And of metaspace.json, whose pre-tokeniser marks spaces. */
#define OF_METASPACE TEST_SOURCE_ROOT "/tests/text/cases/metaspace.json"
static const struct change of_metaspace[] = {
    {"pre_tokenizer", METASPACE(",\"prepend_scheme\":\"always\",\"split\":true"), 0, ""},
    {"pre_tokenizer", METASPACE(",\"add_prefix_space\":false"), 0, ""},
    {"pre_tokenizer", METASPACE(",\"prepend_scheme\":\"last\""), FM_EUNSUPPORTED, "Metaspace with prepend_scheme last"},
    {"pre_tokenizer.replacement", "\"_\"", FM_EUNSUPPORTED, "Metaspace with _"},
    {"pre_tokenizer", "null", FM_EUNSUPPORTED, "pre_tokenizer null"},
};

/* Follows place, names and numbers between dots, to what holds its last part. */
static json_t *follow(json_t *at, const char *place, char *last) {
    for (const char *dot; (dot = strchr(place, '.')); place = dot + 1) {
        snprintf(last, 64, "%.*s", (int)(dot - place), place);
        at = json_is_array(at) ? json_array_get(at, strtoul(last, NULL, 10)) : json_object_get(at, last);
    }
    snprintf(last, 64, "%s", place);
    return at;
}

static void check_case(const json_t *good, const struct change *change, size_t i) {
    json_t *root = json_deep_copy(good), *value = change->value ? json_loads(change->value, JSON_DECODE_ANY, NULL) : NULL;
    char last[64];
    json_t *holder = follow(root, change->place, last);
    int failed = json_is_array(holder) ? json_array_set_new(holder, strtoul(last, NULL, 10), value)
                 : value               ? json_object_set_new(holder, last, value)
                                       : json_object_del(holder, last) && strcmp(last, "normalizer");
    CHECK(!failed, "case %zu does not apply", i);
    char *text = json_dumps(root, 0);
    fm_tokenizer *tokenizer = (fm_tokenizer *)1;
    fm_error err = {0};
    int code = fm_tokenizer_parse(&tokenizer, text, strlen(text), "dir/some.json", &err);
    CHECK(code == change->code && (code == 0) == (tokenizer != NULL), "%s = %s gives %d: %s", change->place, change->value, code, err.message);
    CHECK(code == 0 || (strstr(err.message, "dir/some.json: ") == err.message && strstr(err.message, change->what)), "%s = %s: %s", change->place,
          change->value ? change->value : "nothing", err.message);
    fm_tokenizer_close(&tokenizer);
    free(text);
    json_decref(root);
}

static void check_text(const char *text, const char *what) {
    fm_tokenizer *tokenizer;
    fm_error err = {0};
    int code = fm_tokenizer_parse(&tokenizer, text, strlen(text), "some.json", &err);
    CHECK(code == FM_EFORMAT && !tokenizer && strstr(err.message, what), "'%s' gives %d: %s", text, code, err.message);
}

static void check_changes(const char *path, const struct change *changes, size_t n) {
    json_t *good = json_load_file(path, 0, NULL);
    CHECK(good, "%s cannot be read", path);
    for (size_t i = 0; i < n && good; i++) check_case(good, &changes[i], i);
    json_decref(good);
}

int main(void) {
    fm_tokenizer *tokenizer;
    fm_error error = {0};
    check_changes(TINY, cases, sizeof cases / sizeof *cases);
    check_changes(MIXTRAL, of_characters, sizeof of_characters / sizeof *of_characters);
    check_changes(OF_METASPACE, of_metaspace, sizeof of_metaspace / sizeof *of_metaspace);
    check_text("", "some.json: line 1");
    check_text("{\n\"a\": }", "some.json: line 2");
    check_text("{\"a\": 1, \"a\": 2}", "duplicate");
    check_text("\xff", "some.json: line 1");
    CHECK(fm_tokenizer_open(&tokenizer, "no/such/tokenizer.json", &error) == FM_EIO && !tokenizer, "%s", error.message);
    CHECK(strstr(error.message, "no/such/tokenizer.json"), "%s", error.message);
    return TEST_END();
}
