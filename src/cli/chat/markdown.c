/* cli/chat/markdown.c: headings, lists, quotes, rules, code blocks by lines; bold, italic and code in them. It knows no terminal but the numbers of attributes. */
#include "cli/chat/markdown.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

enum { BOLD = 1, DIM = 2, ITALIC = 4, UNDERLINED = 8, CODE = 16 };
/* At the beginning of a line; within one; in the line that opens a code block, as long as it is held, and after; at the beginning of a line of code; within one. */
enum { BEGIN, INLINE, FENCE, FENCE_REST, CODE_BEGIN, CODE_LINE };

/* ---- writing ---- */

static void flush(struct markdown *m) {
    if (m->n_out) m->write(m->user, m->out, (size_t)m->n_out);
    m->n_out = 0;
}

static void put(struct markdown *m, const char *bytes, int n) {
    if (m->n_out + n > MARKDOWN_OUT) flush(m);
    memcpy(m->out + m->n_out, bytes, (size_t)n); /* n is at most what is held */
    m->n_out += n;
}

static void set_style(struct markdown *m, int style) {
    char text[32];

    if (style == m->style) return;
    m->style = style;
    put(m, text,
        snprintf(text, sizeof text, "\033[0%s%s%s%s%sm", style & BOLD ? ";1" : "", style & DIM ? ";2" : "", style & ITALIC ? ";3" : "",
                 style & UNDERLINED ? ";4" : "", style & CODE ? ";36" : ""));
}

static void emit(struct markdown *m, const char *bytes, int n, int style) {
    if (n == 0) return;
    set_style(m, style);
    put(m, bytes, n);
}

static void new_line(struct markdown *m) {
    set_style(m, 0);
    put(m, "\n", 1);
    m->before = '\n';
    m->base = 0;
}

static void drop(struct markdown *m, int n) {
    if (n > 0) m->before = m->held[n - 1];
    memmove(m->held, m->held + n, (size_t)(m->n_held -= n));
}

/* ---- within a line ---- */

static int run_of(const char *s, int n, int at) {
    int end = at;

    while (end < n && s[end] == s[at]) end++;
    return end - at;
}

static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\t'; }
static bool is_word(char c) { return isalnum((unsigned char)c) || (c & 0x80); }

/* The end of the code that begins at s[at] with a run of backticks; 0: there is none. */
static int code_end(const char *s, int n, int at) {
    int length = run_of(s, n, at);

    for (int i = at + length; i < n; i++) {
        if (s[i] != '`') continue;
        int closing = run_of(s, n, i);
        if (closing == length) return i + closing;
        i += closing - 1;
    }
    return 0;
}

/* Where the run that closes the one of `length` at s[at] begins; 0: there is none. whole: nothing comes after s. */
static int closing_run(const char *s, int n, int at, bool whole) {
    int length = run_of(s, n, at);

    for (int i = at + length; i < n; i++) {
        int end = s[i] == '`' ? code_end(s, n, i) : 0;
        if (end) {
            i = end - 1;
        } else if (s[i] == '\\') {
            i++;
        } else if (s[i] == s[at]) {
            int closing = run_of(s, n, i), after = i + closing;
            bool known = after < n || whole; /* else it may go on */
            if (known && closing == length && !is_space(s[i - 1]) && (s[at] == '*' || after == n || !is_word(s[after]))) return i;
            i += closing - 1;
        }
    }
    return 0;
}

static void show_code(struct markdown *m, const char *s, int n, int style) {
    int length = run_of(s, n, 0), begin = length, end = n - length;

    /* `` `x` `` has a space at each side that does not count. */
    if (end - begin > 2 && s[begin] == ' ' && s[end - 1] == ' ') begin++, end--;
    emit(m, s + begin, end - begin, style | CODE);
}

static bool opens(const char *s, int n, int at, char before) {
    int after = at + run_of(s, n, at);

    return after < n && !is_space(s[after]) && after - at <= 3 && (s[at] == '*' || !is_word(before));
}

static bool escapes(char c) { return c && strchr("\\*_`#~>!|", c) != NULL; }

static void show_whole(struct markdown *m, const char *s, int n, char before, int style);

/* Shows the mark-up that s [n] begins with and returns its bytes; 0: it is text; -1: that is not known yet. whole: nothing that comes after s changes it. */
static int mark_up(struct markdown *m, const char *s, int n, char before, int style, bool whole) {
    static const int styles[4] = {0, ITALIC, BOLD, BOLD | ITALIC};
    int length = run_of(s, n, 0), end, unknown = whole ? 0 : -1;

    switch (s[0]) {
    case '\\':
        if (n < 2) return unknown;
        if (!escapes(s[1])) return 0;
        emit(m, s + 1, 1, style);
        return 2;
    case '`':
        if ((end = code_end(s, n, 0)) == 0 || (end == n && !whole)) return unknown; /* the closing run may go on */
        show_code(m, s, end, style);
        return end;
    case '*':
    case '_':
        if (length == n) return unknown;
        if (!opens(s, n, 0, before) || (style & styles[length]) == styles[length]) return 0;
        if ((end = closing_run(s, n, 0, whole)) == 0) return unknown;
        show_whole(m, s + length, end - length, s[0], style | styles[length]);
        return end + length;
    default: return 0;
    }
}

/* Bytes that are shown as they are where s [n] begins with no mark-up: a marker with its run. */
static int text_length(const char *s, int n) { return s[0] == '*' || s[0] == '_' || s[0] == '`' ? run_of(s, n, 0) : 1; }

/* A phrase between markers. Phrases in it are of another style, so that this goes at most 3 deep. */
static void show_whole(struct markdown *m, const char *s, int n, char before, int style) {
    for (int i = 0; i < n;) {
        int taken = mark_up(m, s + i, n - i, i ? s[i - 1] : before, style, true);
        if (taken == 0) emit(m, s + i, taken = text_length(s + i, n - i), style);
        i += taken;
    }
}

/* Shows what is certain of the held bytes; all of them if the line is over, or the first in any case if there are too many. */
static void settle(struct markdown *m, bool line_over) {
    while (m->n_held > 0) {
        int taken = mark_up(m, m->held, m->n_held, m->before, m->base, line_over);
        if (taken < 0 && m->n_held < MARKDOWN_HELD) return;
        if (taken <= 0) emit(m, m->held, taken = text_length(m->held, m->n_held), m->base);
        drop(m, taken);
    }
}

/* ---- the beginning of a line ---- */

static void show_rule(struct markdown *m) {
    for (int i = 0; i < 24; i++) {
        set_style(m, DIM);
        put(m, "\xe2\x94\x80", 3);
    }
    m->n_held = 0;
}

/* A run of # - * + _ > at s, with what is known after it. Returns true if the line's kind is known; else more bytes are needed. */
static bool begin_marker(struct markdown *m, int indent, bool line_over) {
    const char *s = m->held + indent;
    int n = m->n_held - indent, run = run_of(s, n, 0);

    if (s[0] == '>') {
        emit(m, m->held, indent, 0);
        set_style(m, DIM);
        put(m, "\xe2\x94\x82", 3);
        drop(m, indent + 1);
        m->before = '\n';
        return false; /* what stands in the quote may be a list */
    }
    if (run == n) {
        if (!line_over) return n > 80;
        if (run >= 3 && strchr("-*_", s[0])) show_rule(m);
        return true;
    }
    if (s[run] != ' ') return true;
    if (s[0] == '#' && run <= 6) {
        m->base = run == 1 ? BOLD | UNDERLINED : BOLD;
        drop(m, indent + run + 1);
        m->before = '\n';
    } else if (run == 1 && strchr("-*+", s[0])) {
        emit(m, m->held, indent, 0);
        set_style(m, 0);
        put(m, "\xe2\x80\xa2 ", 4);
        drop(m, indent + 2);
        m->before = '\n';
    }
    return true;
}

/* Bytes of a fence of at least 3 that the line, without its indentation, begins with. */
static int fence_of(const char *s, int n) {
    int run = n > 0 && (s[0] == '`' || s[0] == '~') ? run_of(s, n, 0) : 0;
    return run >= 3 ? run : 0;
}

/* Looks at the held beginning of a line. line_over: its newline comes next. */
static void begin_line(struct markdown *m, bool line_over) {
    int indent = 0, n;
    char c;

    while (indent < m->n_held && m->held[indent] == ' ') indent++;
    if ((n = m->n_held - indent) == 0) {
        if (line_over || indent > 80) m->state = INLINE;
        return;
    }
    c = m->held[indent];
    if (c == '`' || c == '~') {
        int run = run_of(m->held + indent, n, 0);
        if (run == n && !line_over && n < 80) return;
        if (run < 3) {
            m->state = INLINE;
        } else {
            m->fence = c;
            m->fence_length = run;
            m->state = FENCE;
        }
    } else if (!strchr("#-*+_>", c) || begin_marker(m, indent, line_over)) {
        m->state = INLINE;
    }
}

/* ---- code ---- */

/* The line that opens a code block, held as a whole, unless a backtick in it shows that it is none. */
static void open_fence(struct markdown *m, bool line_over) {
    int indent = 0;

    while (m->held[indent] == ' ') indent++;
    if (m->fence == '`' && memchr(m->held + indent + m->fence_length, '`', (size_t)(m->n_held - indent - m->fence_length))) {
        m->state = INLINE;
        settle(m, line_over);
        return;
    }
    if (!line_over && m->n_held < MARKDOWN_HELD) return;
    emit(m, m->held, m->n_held, DIM);
    m->n_held = 0;
    m->state = line_over ? CODE_BEGIN : FENCE_REST;
}

/* The beginning of a line in a code block: is it the closing fence? */
static void begin_code(struct markdown *m, bool line_over) {
    int indent = 0, run, end;

    while (indent < m->n_held && m->held[indent] == ' ') indent++;
    run = indent < m->n_held && m->held[indent] == m->fence ? run_of(m->held, m->n_held, indent) : 0;
    for (end = indent + run; end < m->n_held && m->held[end] == ' ';) end++;
    if (end == m->n_held && !line_over && m->n_held < 80) return;
    if (end == m->n_held && run >= m->fence_length && fence_of(m->held + indent, run)) {
        emit(m, m->held, m->n_held, DIM);
        m->state = BEGIN;
    } else {
        emit(m, m->held, m->n_held, CODE);
        m->state = CODE_LINE;
    }
    m->n_held = 0;
}

/* ---- characters ---- */

/* The line is over: nothing stays held. */
static void end_line(struct markdown *m) {
    while (m->state == BEGIN) begin_line(m, true); /* a quote's mark leaves the line's rest at its beginning */
    switch (m->state) {
    case INLINE: settle(m, true); break;
    case FENCE: open_fence(m, true); break;
    case CODE_BEGIN: begin_code(m, true); break;
    default: break;
    }
    m->state = m->state == INLINE || m->state == BEGIN ? BEGIN : CODE_BEGIN;
}

/* A character has been held. */
static void step(struct markdown *m) {
    if (m->state == BEGIN) begin_line(m, false);
    if (m->state == CODE_BEGIN) begin_code(m, false);
    if (m->state == INLINE) settle(m, false);
    if (m->state == FENCE) open_fence(m, false);
}

static void character(void *user, const char *bytes, int n, int columns) {
    struct markdown *m = user;

    (void)columns;
    if (bytes[0] == '\n') {
        end_line(m);
        new_line(m);
    } else if (m->state == CODE_LINE || m->state == FENCE_REST) {
        emit(m, bytes, n, m->state == CODE_LINE ? CODE : DIM);
    } else {
        memcpy(m->held + m->n_held, bytes, (size_t)n);
        m->n_held += n;
        step(m);
    }
}

void fm_markdown_feed(struct markdown *m, const char *bytes, size_t n) {
    if (m->before == 0) m->before = '\n';
    fm_visible_feed(&m->visible, bytes, n, character, m);
    flush(m);
}

void fm_markdown_end(struct markdown *m) {
    fm_visible_end(&m->visible, character, m);
    if (m->n_held) end_line(m);
    set_style(m, 0);
    flush(m);
    *m = (struct markdown){.write = m->write, .user = m->user, .before = '\n'};
}
