/* nfc.c: normalisation form C. Whole texts are in the cases; here are literal ones, what is taken as plain without a look, and runs of marks. */
#include <utf8proc.h>

#include "test.h"
#include "text/tokenizer_parts.h"

static const struct {
    const char *in, *out;
} cases[] = {
    {"", ""},
    {"plain, h\xc3\xa9", "plain, h\xc3\xa9"},
    {"e\xcc\x81", "\xc3\xa9"},                                                /* e + acute */
    {"q\xcc\x81", "q\xcc\x81"},                                               /* has no composed form */
    {"a\xcc\x81\xcc\xa3", "\xe1\xba\xa1\xcc\x81"},                            /* the dot below first, then it composes */
    {"a\xcc\x80\xcc\x81", "\xc3\xa0\xcc\x81"},                                /* of one class: their order stays */
    {"e\xcc\xb4\xcc\x81", "\xc3\xa9\xcc\xb4"},                                /* an overlay between does not block */
    {"\xe2\x84\xab", "\xc3\x85"},                                             /* Angstrom is a letter */
    {"\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81"},                 /* Hangul */
    {"\xea\xb0\x80\xe1\x86\xa8", "\xea\xb0\x81"},                             /* a syllable and its final */
    {"\xea\xb0\x80\xe1\x86\xa7", "\xea\xb0\x80\xe1\x86\xa7"},                 /* U+11A7 is no final */
    {"\xe0\xa4\x95\xe0\xa4\xbc", "\xe0\xa4\x95\xe0\xa4\xbc"},                 /* composing it is excluded */
    {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},                             /* and so its composed form comes apart */
    {"\xcd\x84", "\xcc\x88\xcc\x81"},                                         /* U+0344 */
    {"\xcc\x81\x65", "\xcc\x81\x65"},                                         /* a mark on nothing */
    {"\xf0\x91\xa4\xb5\xf0\x91\xa4\xb0", "\xf0\x91\xa4\xb5\xf0\x91\xa4\xb0"}, /* U+11938 came after the library's Unicode */
    {"a\xe0\xa7\xbe\xcc\x81", "a\xe0\xa7\xbe\xcc\x81"},                       /* so did the class of U+09FE: it blocks */
};

static void check(const char *in, size_t n, const char *expected, size_t n_expected) {
    const char *out;
    char *owned;
    size_t n_out;
    MUST(fm_nfc(in, n, &out, &n_out, &owned, err));
    CHECK(n_out == n_expected && !memcmp(out, expected, n_out), "'%s' gives '%.*s', not '%s'", in, (int)n_out, out, expected);
    free(owned);
}

/* fm_nfc hands a text of plain characters back without a look at its neighbours. Then none may be decomposed, reordered, or the second of a pair. */
static void check_plain(void) {
    static bool second[0x110000];
    int n_plain = 0;
    for (int32_t c = 0; c < 0x110000; c++) {
        int32_t parts[8];
        int length = (int)utf8proc_decompose_char(c, parts, 8, UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, NULL);
        for (int i = 1; i < length; i++) second[parts[i]] = true;
    }
    for (int32_t c = 0; c < 0x110000; c++) {
        char text[12];
        const char *out;
        char *owned;
        size_t n_out;
        if (c >= 0xd800 && c < 0xe000) continue;
        int n = fm_utf8_write(c, text);
        MUST(fm_nfc(text, (size_t)n, &out, &n_out, &owned, err));
        if (!owned) {
            n_plain++;
            CHECK(utf8proc_get_property(c)->combining_class == 0 && !second[c], "U+%04x is not plain", (unsigned)c);
            memcpy(text + n, "\xf0\x9d\x85\xa5", 5); /* U+1D165, a mark that composes with nothing, makes it look */
            check(text, (size_t)n + 4, text, (size_t)n + 4);
        }
        free(owned);
    }
    CHECK(n_plain > 30000, "%d plain characters", n_plain);
}

/* Many marks in the order that sorts worst: in time, and as two utf8proc calls give them. */
static void check_run(void) {
    enum { PAIRS = 200000 };
    char *text = malloc(1 + 4 * PAIRS), *expected = malloc(4 * PAIRS + 3);
    text[0] = 'a';
    for (int i = 0; i < PAIRS; i++) {
        memcpy(text + 1 + 2 * i, "\xcc\x81", 2);           /* acute, class 230 */
        memcpy(text + 1 + 2 * (PAIRS + i), "\xcc\xa3", 2); /* dot below, 220 */
    }
    memcpy(expected, "\xe1\xba\xa1", 3); /* takes one dot */
    for (int i = 0; i < PAIRS - 1; i++) memcpy(expected + 3 + 2 * i, "\xcc\xa3", 2);
    for (int i = 0; i < PAIRS; i++) memcpy(expected + 3 + 2 * (PAIRS - 1 + i), "\xcc\x81", 2);
    const char *out;
    char *owned;
    size_t n_out;
    MUST(fm_nfc(text, 1 + 4 * PAIRS, &out, &n_out, &owned, err));
    CHECK(n_out == 3 + 2 * (2 * PAIRS - 1) && !memcmp(out, expected, n_out), "%zu bytes", n_out);
    free(owned);
    free(text);
    free(expected);
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check(cases[i].in, strlen(cases[i].in), cases[i].out, strlen(cases[i].out));
    check("a\0e\xcc\x81\0", 6, "a\0\xc3\xa9\0", 5);
    check_plain();
    check_run();
    return TEST_END();
}
