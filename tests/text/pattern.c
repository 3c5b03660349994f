/* pattern.c: how a pre-tokeniser's pattern splits text, where Oniguruma and PCRE2 differ, and what is refused. */
#include "test.h"
#include "text/tokenizer_parts.h"

/* Splits text and joins the pieces with '|'. */
static void check_split(const char *pattern, const char *text, size_t n, const char *expected) {
    fm_splitter *splitter;
    fm_split split;
    char joined[512];
    size_t at = 0, n_piece;
    const char *piece;
    fm_error error = {0};
    int found;
    MUST(fm_splitter_open(&splitter, pattern, "test", err));
    MUST(fm_split_open(&split, splitter, err));
    fm_split_begin(&split, text, n);
    while ((found = fm_split_next(&split, &piece, &n_piece, &error)) > 0) {
        CHECK(n_piece > 0, "an empty piece of '%s'", text);
        if (at > 0) joined[at++] = '|';
        memcpy(joined + at, piece, n_piece);
        at += n_piece;
    }
    CHECK(found == 0, "%s", error.message);
    CHECK(at == strlen(expected) && !memcmp(joined, expected, at), "%s splits '%s' to '%.*s', not '%s'", pattern, text, (int)at, joined, expected);
    fm_split_close(&split);
    fm_splitter_close(&splitter);
}

#define SPLIT(pattern, text, expected) check_split(pattern, text, sizeof(text) - 1, expected)

static const struct {
    const char *pattern, *what;
} refused[] = {
    {"a(?<=b)", "a kind of group"},
    {"(?<n>a)", "a kind of group"},
    {"(?m:a)", "a kind of group"},
    {"(?#x)", "a kind of group"},
    {"(a", "a group without an end"},
    {"a)", "a ')' too many"},
    {"[a", "a class without an end"},
    {"[a\\", "an escape"},
    {"[]a]", "an empty class"},
    {"[a[b]]", "a class inside a class"},
    {"[[:alpha:]]", "a class inside a class"},
    {"[a&&b]", "an intersection of classes"},
    {"[\\s-z]", "a '-' between sets"},
    {"[a-\\s]", "a range up to a set"},
    {"[z-a]", "a range that runs backwards"},
    {"[a\\P{L}]", "a negated property in a class"},
    {"\\p{Han}", "a property that is no category"},
    {"\\p{C}", "a property that is no category"},
    {"\\p{L", "a property that is no category"},
    {"\\pL", "a property without braces"},
    {"(?i:\\p{Lu})", "a two-letter category regardless of case"},
    {"(?i:'ss)", "a sequence that folds to one character"},
    {"(?i:\xc3\xa4)", "a character outside ASCII regardless of case"},
    {"\\h", "an escape"},
    {"\\b", "an escape"},
    {"\\w", "an escape"},
    {"\\1", "an escape"},
    {"a\\", "an escape"},
    {"a{,3}", "such a '{'"},
    {"a{2}+", "such a '{'"},
    {"a{x}", "such a '{'"},
    {"a]", "an unescaped"},
    {"^a", "an unescaped"},
    {"a}", "an unescaped"},
    {"*a", "pattern"},
    {"a{2000000}", "pattern"},
    {"(((((((((((((((((((((((((((((((((a)))))))))))))))))))))))))))))))))", "groups nested too deep"},
};

/* What would take for ever ends as an error that says where. */
static void check_hostile(const char *pattern) {
    fm_splitter *splitter;
    fm_split split;
    static char text[20000];
    const char *piece;
    size_t n;
    fm_error error = {0};
    int found;
    memset(text, 'a', sizeof text);
    MUST(fm_splitter_open(&splitter, pattern, "test", err));
    MUST(fm_split_open(&split, splitter, err));
    fm_split_begin(&split, text, sizeof text);
    while ((found = fm_split_next(&split, &piece, &n, &error)) > 0) continue;
    CHECK(found == FM_EUNSUPPORTED && strstr(error.message, "of a text of 20000"), "%s gives %d: %s", pattern, found, error.message);
    fm_split_close(&split);
    fm_splitter_close(&splitter);
}

int main(void) {
    static const char qwen[] =
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
    SPLIT(qwen, "", "");
    SPLIT(qwen, "I'LL say: it's  42!\r\n\n  ok", "I|'LL| say|:| it|'s| | |4|2|!\r\n\n| | ok");
    SPLIT(qwen, "a\xc2\x85\xc2\x85z", "a|\xc2\x85|\xc2\x85z");                     /* U+0085 is white space */
    SPLIT(qwen, "a \xe1\xa0\x8e b", "a| \xe1\xa0\x8e| b");                         /* U+180E is none, as in Oniguruma */
    SPLIT(qwen, "a \xe2\x80\x8b\xef\xbb\xbf b", "a| \xe2\x80\x8b\xef\xbb\xbf| b"); /* nor are U+200B and U+FEFF */
    SPLIT(qwen, "it'\xc5\xbf x", "it|'\xc5\xbf| x");                               /* the long s is an s */
    SPLIT(qwen, "!\xe1\xb2\x89!", "!\xe1\xb2\x89|!");                              /* U+1C89, a letter since Unicode 16 */
    SPLIT(qwen,
          "1\xf0\x90\xb5\x80"
          "2",
          "1|\xf0\x90\xb5\x80|2"); /* U+10D40, a digit since Unicode 16 */
    SPLIT("[\\p{M}]",
          "a\xe0\xa2\x97"
          "b",
          "a|\xe0\xa2\x97|b"); /* U+0897, a mark since Unicode 16 */
    SPLIT("\\P{L}+", "a\xe1\xb2\x89!?b", "a\xe1\xb2\x89|!?|b");
    SPLIT("\\p{^L}+", "a!?b", "a|!?|b");
    SPLIT("[^\\S\\n]+", "a \t\nb\xc2\xa0", "a| \t|\nb|\xc2\xa0"); /* \S in a class is written out */
    SPLIT("\\S", "a \xe1\xa0\x8e", "a| |\xe1\xa0\x8e");
    SPLIT("b*", "abba", "a|bb|a"); /* empty matches split and are dropped */
    SPLIT("b*", "xyz", "x|y|z");
    SPLIT("b*", "\xc3\xa9\xc3\xa9", "\xc3\xa9|\xc3\xa9");
    SPLIT("x", "abc", "abc");
    SPLIT(".", "a\nb\r", "a|\n|b|\r"); /* all but the line feed */
    SPLIT("a{2,3}", "aaaaa", "aaa|aa");
    SPLIT("a++a|b?+b", "aaab", "aaab"); /* gives nothing back */
    SPLIT("[a\\-c]", "abc-", "a|b|c|-");
    SPLIT("[a-]", "ab-", "a|b|-");
    SPLIT("[-a]", "-ba", "-|b|a");
    SPLIT("[\\^#.]| #", "^a. #", "^|a|.| #");
    SPLIT("(ab)+|(?:cd)*e", "ababcdcde", "abab|cdcde");
    SPLIT("a\0b", "xax", "x|a|x"); /* the pattern ends at its first 0 */
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        fm_splitter *splitter;
        fm_error err = {0};
        int code = fm_splitter_open(&splitter, refused[i].pattern, "some.json", &err);
        CHECK(code == FM_EUNSUPPORTED && !splitter, "%s gives %d", refused[i].pattern, code);
        CHECK(strstr(err.message, "some.json") && strstr(err.message, refused[i].what), "%s: %s", refused[i].pattern, err.message);
        fm_splitter_close(&splitter);
    }
    check_hostile("(?:a|a)*[bc]|a");
    check_hostile("(?:a*a*)*[bc]|a");
    check_hostile("a*a*a*a*[bc]|a");
    return TEST_END();
}
