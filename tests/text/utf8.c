/* utf8.c: the UTF-8 stream gives the same whatever the portions, and replaces what Python's decode(errors="replace") does. */
#include "test.h"
#include "text/tokenizer_parts.h"

#define R "\xef\xbf\xbd"

static const struct {
    const char *in, *out;
} cases[] = {
    {"plain", "plain"},
    {"h\xc3\xa9", "h\xc3\xa9"},
    {"\xe4\xbd\xa0\xf0\x9f\x98\x80", "\xe4\xbd\xa0\xf0\x9f\x98\x80"},
    {"\x80", R},
    {"\xbf\xbf", R R},
    {"\xc0\x80", R R},
    {"\xc1\xbf", R R},
    {"\xc3", R},
    {"a\xc3(", "a" R "("},
    {"\xe2\x82", R},
    {"\xe2\x28\xa1", R "(" R},
    {"\xe2\x82(", R "("},
    {"\xed\xa0\x80", R R R},          /* a surrogate */
    {"\xed\x9f\xbf", "\xed\x9f\xbf"}, /* the last before them */
    {"\xee\x80\x80", "\xee\x80\x80"}, /* the first after them */
    {"\xf0\x9f\x98", R},              /* the longest unfinished one */
    {"\xf0\x9f(\x80", R "(" R},
    {"\xf0\x80\x80\x80", R R R R},            /* overlong */
    {"\xf0\x90\x80\x80", "\xf0\x90\x80\x80"}, /* U+10000 */
    {"\xf4\x8f\xbf\xbf", "\xf4\x8f\xbf\xbf"}, /* U+10FFFF */
    {"\xf4\x90\x80\x80", R R R R},            /* one more */
    {"\xf5\x80\x80\x80", R R R R},
    {"\xff\xfe", R R},
    {"\xe0\x80\x80", R R R},
    {"\xe0\xa0", R},
    {"\xe0\xa0\xe0\xa0\x80", R "\xe0\xa0\x80"},
    {"\xf0\x9f\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
    {"\xc3\xe4\xbd\xf0\x9f\x98", R R R},
    {"\xe4\xbd\xa0\xe4\xbd", "\xe4\xbd\xa0" R},
};

/* Feeds text in portions that end where the bits of cuts are set; checks the room promised and that only whole characters come. */
static size_t stream(const char *text, size_t n, uint64_t cuts, char *out) {
    fm_utf8_stream s = {0};
    size_t n_out = 0, start = 0;
    for (size_t i = 0; i < n; i++) {
        if (i + 1 < n && !(cuts >> (i % 64) & 1)) continue;
        size_t portion = i + 1 - start, room = 3 * (portion + 4);
        char *piece = malloc(room);
        size_t got = fm_utf8_feed(&s, text + start, portion, piece);
        const char *same;
        char *owned;
        size_t n_same;
        CHECK(got <= room, "%zu bytes came of %zu", got, portion);
        MUST(fm_utf8_repair(piece, got, &same, &n_same, &owned, err));
        CHECK(owned == NULL, "not whole characters came after %zu bytes", i + 1);
        free(owned);
        memcpy(out + n_out, piece, got);
        n_out += got;
        free(piece);
        start = i + 1;
    }
    n_out += fm_utf8_finish(&s, out + n_out);
    CHECK(fm_utf8_finish(&s, out + n_out) == 0, "a second finish gives something");
    return n_out;
}

static void check_repair(const char *text, size_t n, const char *expected, size_t n_expected) {
    const char *out;
    char *owned;
    size_t n_out;
    MUST(fm_utf8_repair(text, n, &out, &n_out, &owned, err));
    CHECK(n_out == n_expected && !memcmp(out, expected, n_out), "repair gives %zu bytes, not %zu", n_out, n_expected);
    free(owned);
}

/* Random bytes from the corners of the tables, every way to cut them. */
static void check_random(void) {
    static const uint8_t corners[] = {0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf,
                                      0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef, 0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff};
    uint64_t seed = 1;
    for (int round = 0; round < 3000; round++) {
        char text[10], whole[64], parts[64];
        size_t n = 1 + test_random(&seed) % sizeof text;
        for (size_t i = 0; i < n; i++) text[i] = (char)corners[test_random(&seed) % sizeof corners];
        size_t n_whole = stream(text, n, 0, whole);
        check_repair(text, n, whole, n_whole);
        for (uint64_t cuts = 1; cuts < (uint64_t)1 << (n - 1); cuts += 1 + (n > 6) * (test_random(&seed) % 7)) {
            size_t n_parts = stream(text, n, cuts, parts);
            CHECK(n_parts == n_whole && !memcmp(parts, whole, n_whole), "cuts %llx of %zu bytes change the text", (unsigned long long)cuts, n);
        }
    }
}

/* Every character there is comes through, and is read and written alike. */
static void check_characters(void) {
    for (int32_t c = 0; c < 0x110000; c++) {
        char text[8], out[64];
        int length, n = fm_utf8_write(c, text);
        bool surrogate = c >= 0xd800 && c < 0xe000;
        int verdict = fm_utf8_look(text, (size_t)n, &length);
        if ((verdict == FM_UTF8_VALID) == surrogate || (!surrogate && (length != n || fm_utf8_read(text, &length) != c || length != n))) {
            CHECK(false, "U+%04x is not read as written", (unsigned)c);
        }
        if (c % 257 == 0 && !surrogate) {
            size_t n_out = stream(text, (size_t)n, UINT64_MAX, out);
            CHECK(n_out == (size_t)n && !memcmp(out, text, n_out), "U+%04x does not come through byte by byte", (unsigned)c);
        }
    }
}

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = strlen(cases[i].in), n_expected = strlen(cases[i].out);
        char out[64];
        for (uint64_t cuts = 0; cuts < (uint64_t)1 << (n - 1); cuts++) {
            size_t n_out = stream(cases[i].in, n, cuts, out);
            CHECK(n_out == n_expected && !memcmp(out, cases[i].out, n_out), "case %zu, cuts %llx", i, (unsigned long long)cuts);
        }
        check_repair(cases[i].in, n, cases[i].out, n_expected);
    }
    check_random();
    check_characters();
    return TEST_END();
}
