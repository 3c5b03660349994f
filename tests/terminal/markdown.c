/* tests/terminal/markdown.c: what Markdown looks like, and that it does not depend on how the text was cut. */
#include "cli/chat/markdown.h"

#include <locale.h>

#include "test.h"

struct shown {
    char bytes[65536];
    size_t n;
    int torn; /* pieces that end within a control sequence */
};

static void keep(void *user, const char *bytes, size_t n) {
    struct shown *s = user;
    size_t escape = n;

    if (s->n + n >= sizeof s->bytes) abort();
    memcpy(s->bytes + s->n, bytes, n);
    s->n += n;
    s->bytes[s->n] = 0;
    for (size_t i = 0; i < n; i++)
        if (bytes[i] == '\033') escape = i;
    if (escape < n && !memchr(bytes + escape, 'm', n - escape)) s->torn++;
}

/* Cut at random places, after `first` bytes at first. */
static void show(struct shown *s, const char *text, size_t n, size_t first, uint64_t *random) {
    struct markdown m = {.write = keep, .user = s};

    s->n = 0;
    s->torn = 0;
    s->bytes[0] = 0;
    for (size_t at = 0; at < n;) {
        size_t piece = at == 0 && first ? first : random ? 1 + test_random(random) % 7 : n;
        if (piece > n - at) piece = n - at;
        fm_markdown_feed(&m, text + at, piece);
        at += piece;
    }
    fm_markdown_end(&m);
}

/* Attributes of the expected text are written as {b}, {d}, {i}, {u}, {c}, several as {bi}, and {} for plain. */
static void expand(char *out, const char *text) {
    for (; *text; text++) {
        if (*text != '{') {
            *out++ = *text;
            continue;
        }
        out += sprintf(out, "\033[0");
        for (text++; *text != '}'; text++) out += sprintf(out, ";%s", *text == 'b' ? "1" : *text == 'd' ? "2" : *text == 'i' ? "3" : *text == 'u' ? "4" : "36");
        out += sprintf(out, "m");
    }
    *out = 0;
}

static const char *const cases[][2] = {
    {"plain text\nof two lines\n", "plain text\nof two lines\n"},
    {"# One\n## Two *it*\n####### seven\n#tag\n", "{bu}One{}\n{b}Two {bi}it{}\n####### seven\n#tag\n"},
    {"- a\n* b\n  + c\n1. d\n-5\n", "\xe2\x80\xa2 a\n\xe2\x80\xa2 b\n  \xe2\x80\xa2 c\n1. d\n-5\n"},
    {"a **bold** b *it* c ***both*** d", "a {b}bold{} b {i}it{} c {bi}both{} d"},
    {"**bold *both* bold**", "{b}bold {bi}both{b} bold{}"},
    {"`code` and ``a ` b`` and `` `x` ``", "{c}code{} and {c}a ` b{} and {c}`x`{}"},
    {"**`x`** and **a `**` b**", "{bc}x{} and {b}a {bc}**{b} b{}"},
    {"5 * 3 * 2, 2**3, snake_case_name, __init__", "5 * 3 * 2, 2**3, snake_case_name, {b}init{}"},
    {"**never closed\nnext*\n", "**never closed\nnext*\n"},
    {"`never closed\n`x`\n", "`never closed\n{c}x{}\n"},
    {"\\*not\\* \\`it\\` \\(x\\) C:\\dir", "*not* `it` \\(x\\) C:\\dir"},
    {"```c\nint *a; // **x**\n  ``\n```\n*after*\n", "{d}```c{}\n{c}int *a; // **x**{}\n{c}  ``{}\n{d}```{}\n{i}after{}\n"},
    {"~~~\n```\n~~~~\nx", "{d}~~~{}\n{c}```{}\n{d}~~~~{}\nx"},
    {"```\ncode\n```", "{d}```{}\n{c}code{}\n{d}```{}"},
    {"  ```\n  a\n\n  ```\n", "{d}  ```{}\n{c}  a{}\n\n{d}  ```{}\n"},
    {"```not a fence``` here\n", "{c}not a fence{} here\n"},
    {"> quote *it*\n> - x\n>\n", "{d}\xe2\x94\x82{} quote {i}it{}\n{d}\xe2\x94\x82{} \xe2\x80\xa2 x\n{d}\xe2\x94\x82{}\n"},
    {"\033[31mred\033[0m \x07 \x7f \xc2\x9b\x32J \xff \xe2\x80\xae \xe2\x82", "\\x1b[31mred\\x1b[0m \\x07 \\x7f \\x9b2J \\xff \\u202e \\xe2\\x82"},
    {"\xf0\x9f\x98\x80 **\xc3\xa4\xc3\xb6** \xe4\xbd\xa0\r\n", "\xf0\x9f\x98\x80 {b}\xc3\xa4\xc3\xb6{} \xe4\xbd\xa0\\x0d\n"},
    {"| a | **b** |\n|---|---|\n", "| a | {b}b{} |\n|---|---|\n"},
};

static void test_cases(void) {
    static struct shown whole, cut;
    char expected[4096];
    uint64_t random = 1;

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *text = cases[i][0];
        size_t n = strlen(text);
        expand(expected, cases[i][1]);
        show(&whole, text, n, 0, NULL);
        CHECK(strcmp(whole.bytes, expected) == 0, "case %zu: %s\nshown    %s\nexpected %s", i, text, whole.bytes, expected);
        for (size_t first = 1; first <= n; first++) {
            show(&cut, text, n, first, first % 2 ? &random : NULL);
            CHECK(strcmp(cut.bytes, whole.bytes) == 0 && !cut.torn, "case %zu cut at %zu\n%s\n%s", i, first, cut.bytes, whole.bytes);
        }
    }
}

/* Texts of the pieces that matter, in any order. */
static void test_any_split(void) {
    static const char *const pieces[] = {
        "*",  "**",  "_",   "`",     "``", "```",      "~~~",      "\n",   "\n\n",          " ",    "  ",          "# ", "- ", "> ", "a", "bc", "1. ",
        "\\", "---", "***", "\033[", "\t", "\xc3\xa4", "\xe2\x80", "\xff", "word and more", "\x9b", "\xe4\xbd\xa0"};
    static struct shown whole, cut;
    uint64_t random = 7;
    char text[4096];

    for (int round = 0; round < 4000; round++) {
        size_t n = 0;
        int count = 1 + (int)(test_random(&random) % (round % 50 ? 40 : 300));
        for (int i = 0; i < count; i++) {
            const char *piece = pieces[test_random(&random) % (sizeof pieces / sizeof *pieces)];
            if (n + strlen(piece) < sizeof text) n += (size_t)sprintf(text + n, "%s", piece);
        }
        show(&whole, text, n, 0, NULL);
        show(&cut, text, n, 0, &random);
        CHECK(whole.n == cut.n && memcmp(whole.bytes, cut.bytes, cut.n) == 0 && !whole.torn && !cut.torn, "round %d: %s\n%s\n%s", round, text, whole.bytes,
              cut.bytes);
        for (size_t i = 0; i < whole.n; i++) {
            unsigned char c = (unsigned char)whole.bytes[i];
            bool ours = c == '\033' && whole.bytes[i + 1] == '[' && whole.bytes[i + 2] == '0';
            CHECK(c >= 0x20 || c == '\n' || c == '\t' || ours, "round %d: a control character %02x at %zu", round, c, i);
        }
    }
}

/* What is shown before the line ends: all but what may still change. */
static void test_streaming(void) {
    static struct shown s;
    struct markdown m = {.write = keep, .user = &s};

    s.n = 0;
    fm_markdown_feed(&m, "Hello wor", 9);
    CHECK(s.n == 9, "%zu bytes", s.n);
    fm_markdown_feed(&m, "ld **bo", 7);
    CHECK(s.n == 12, "%zu bytes", s.n);
    fm_markdown_feed(&m, "ld** x", 6);
    CHECK(strncmp(s.bytes + 12, "\033[0;1mbold", 10) == 0 && s.bytes[s.n - 1] == 'x', "%s", s.bytes);
    fm_markdown_end(&m);
}

/* An opening marker that is not closed holds nothing for long. */
static void test_limit(void) {
    static struct shown s;
    struct markdown m = {.write = keep, .user = &s};

    s.n = 0;
    fm_markdown_feed(&m, "**", 2);
    for (int i = 0; i < 1000; i++) fm_markdown_feed(&m, "word ", 5);
    CHECK(s.n + MARKDOWN_HELD + 8 >= 5002 && strncmp(s.bytes, "**word", 6) == 0, "%zu bytes", s.n);
    fm_markdown_end(&m);
    CHECK(s.n == 5002, "%zu bytes", s.n);
}

int main(void) {
    setlocale(LC_CTYPE, "C.UTF-8");
    test_cases();
    test_any_split();
    test_streaming();
    test_limit();
    return TEST_END();
}
