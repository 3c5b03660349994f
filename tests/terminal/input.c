/* tests/terminal/input.c: which lines make one message. The editor itself is tested in a terminal, tests/cli/test_chat_tmux.py. */
#include "cli/chat/input.h"

#include "test.h"

static const char *const cases[][2] = {
    {"hello\n", "hello"},
    {"\n", ""},
    {"one\\\ntwo\\\nthree\n", "one\ntwo\nthree"},
    {"a path C:\\\\\n", "a path C:\\\\"},
    {"\"\"\"\none\n\ntwo\\\n\"\"\"\n", "one\n\ntwo\\"},
    {"\"\"\"one\ntwo\"\"\"\n", "one\ntwo"},
    {"\"\"\"one line\"\"\"\n", "one line"},
    {"see:\\\n```c\nint x; \\\n/quit\n```\n", "see:\n```c\nint x; \\\n/quit\n```"},
    {"```\n\n```\n", "```\n\n```"},
    {"```inline``` is no block\n", "```inline``` is no block"},
    {"/help\\\n", "/help\\"},
    {"not first\\\n/help\n", "not first\n/help"},
};

int main(void) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct draft m = {0};
        char lines[256], *line = lines, *next;
        bool whole = false;

        snprintf(lines, sizeof lines, "%s", cases[i][0]);
        for (; (next = strchr(line, '\n')); line = next + 1) {
            CHECK(!whole, "case %zu is whole before '%s'", i, line);
            *next = '\0';
            whole = fm_draft_add(&m, line);
        }
        CHECK(whole && strcmp(m.text ? m.text : "", cases[i][1]) == 0, "case %zu: '%s'", i, m.text);
        free(m.text);
    }
    struct draft pasted = {0}; /* lines in one piece */
    CHECK(!fm_draft_add(&pasted, "```\nx") && fm_draft_add(&pasted, "```"), "a block that is pasted in part");
    CHECK(strcmp(pasted.text, "```\nx\n```") == 0, "%s", pasted.text);
    free(pasted.text);
    return TEST_END();
}
