/* cli/chat/view.c: text through Markdown, reasoning dimmed and folded, calls in a line. */
#include "cli/chat/view.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "cli/cli.h"

enum { NOTHING, REASONING, TEXT, CALL };

static void to_stdout(void *user, const char *bytes, size_t n) {
    struct view *v = user;

    errno = 0;
    if (fwrite(bytes, 1, n, stdout) != n) v->failed = errno ? errno : EIO;
}

static void flush(struct view *v) {
    errno = 0;
    if (fflush(stdout)) v->failed = errno ? errno : EIO;
}

/* The terminal is plain if it says so, or its user. */
static bool wants_styles(void) {
    const char *no_color = getenv("NO_COLOR"), *term = getenv("TERM");

    return !(no_color && *no_color) && term && *term && strcmp(term, "dumb") != 0;
}

void fm_view_open(struct view *v, struct progress *progress, const fm_engine *engine) {
    *v = (struct view){.terminal = isatty(STDOUT_FILENO) == 1, .note_terminal = isatty(STDERR_FILENO) == 1, .progress = progress, .engine = engine};
    v->styles = v->terminal && wants_styles();
    v->note_styles = v->note_terminal && wants_styles();
    v->reasoning = v->styles ? REASONING_FOLD : REASONING_HIDE;
    v->markdown = (struct markdown){.write = to_stdout, .user = v};
}

void fm_view_close(struct view *v) {
    free(v->thought.bytes);
    v->thought = (struct text){0};
}

/* ---- lines about the conversation ---- */

void fm_view_note(struct view *v, const char *format, ...) {
    va_list arguments;

    fm_progress_clear(v->progress);
    fflush(stdout);
    if (v->note_styles) fputs("\033[2m", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputs(v->note_styles ? "\033[0m\n" : "\n", stderr);
    fflush(stderr);
}

void fm_view_quote(struct view *v, const char *text, size_t n) {
    fm_progress_clear(v->progress);
    fflush(stdout);
    for (size_t begin = 0, end; begin < n; begin = end + 1) {
        const char *newline = memchr(text + begin, '\n', n - begin);
        end = newline ? (size_t)(newline - text) : n;
        fputs(v->note_styles ? "  \033[2m" : "  ", stderr);
        fm_visible_print(stderr, text + begin, end - begin);
        fputs(v->note_styles ? "\033[0m\n" : "\n", stderr);
    }
    fflush(stderr);
}

/* ---- the window of reasoning ---- */

static int terminal_width(void) {
    struct winsize size;

    return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 8 ? size.ws_col : 80;
}

/* A new row below; when the window is full its rows move up. */
static void window_row(struct window *w) {
    if (w->n_rows < WINDOW_ROWS) {
        w->n_rows++;
        fputs("\n", stdout);
    } else {
        memmove(w->rows[0], w->rows[1], sizeof w->rows - sizeof w->rows[0]);
        memmove(w->bytes, w->bytes + 1, sizeof w->bytes - sizeof w->bytes[0]);
        printf("\r\033[%dA", WINDOW_ROWS - 1);
        for (int i = 0; i < WINDOW_ROWS - 1; i++) printf("\033[K%.*s\n", w->bytes[i], w->rows[i]);
        fputs("\033[K", stdout);
    }
    w->bytes[w->n_rows - 1] = 0;
    w->columns = 0;
}

static void window_character(void *user, const char *bytes, int n, int columns) {
    struct window *w = &((struct view *)user)->window;
    int *used = &w->bytes[w->n_rows - 1];

    if (*bytes == '\n') {
        if (w->columns > 0) window_row(w); /* no empty rows */
        return;
    }
    if (*bytes == '\t') bytes = " ", columns = 1;
    if (w->columns + columns > w->width - 1 || *used + n > ROW_BYTES) {
        window_row(w);
        used = &w->bytes[w->n_rows - 1];
    }
    memcpy(w->rows[w->n_rows - 1] + *used, bytes, (size_t)n);
    *used += n;
    w->columns += columns;
    fwrite(bytes, 1, (size_t)n, stdout);
}

static void window_feed(struct view *v, const char *text, size_t n) {
    if (v->window.n_rows == 0) v->window = (struct window){.n_rows = 1, .width = terminal_width()};
    fputs("\033[2m", stdout);
    fm_visible_feed(&v->visible, text, n, window_character, v);
    fputs("\033[0m", stdout);
}

/* Removes the rows; after a resize they may lie elsewhere, and stay. */
static void window_close(struct view *v) {
    struct window *w = &v->window;

    if (w->n_rows && w->width == terminal_width()) {
        if (w->n_rows > 1) printf("\r\033[%dA", w->n_rows - 1);
        fputs("\r\033[J", stdout);
    } else if (w->n_rows) {
        fputs("\n", stdout);
    }
    w->n_rows = 0;
    fflush(stdout);
}

/* ---- reasoning ---- */

static int count_tokens(const struct view *v) {
    int32_t *ids = NULL;
    int n = fm_engine_encode(v->engine, v->thought.bytes, v->thought.n, false, &ids, NULL);

    fm_free(ids);
    return n > 0 ? n : 0;
}

static int count_characters(const struct view *v) {
    int n = 0;

    for (size_t i = 0; i < v->thought.n; i++) n += ((unsigned char)v->thought.bytes[i] & 0xc0) != 0x80;
    return n;
}

static void feed_reasoning(struct view *v, const char *text, size_t n) {
    FILE *out = v->terminal ? stdout : stderr;

    fm_text_add(&v->thought, text, n); /* without memory /set reasoning shows less */
    if (v->reasoning == REASONING_HIDE) return;
    if (v->reasoning == REASONING_FOLD && !v->styles) return;
    if (v->reasoning == REASONING_FOLD) {
        window_feed(v, text, n);
    } else if (!v->terminal && !v->note_terminal) {
        fwrite(text, 1, n, stderr);
    } else {
        bool styles = v->terminal ? v->styles : v->note_styles;
        if (styles) fputs("\033[2m", out);
        fm_visible_print(out, text, n);
        if (styles) fputs("\033[0m", out);
    }
    fflush(out);
}

static void end_reasoning(struct view *v) {
    size_t n = v->thought.n;

    if (v->reasoning == REASONING_FOLD) window_close(v);
    if (v->reasoning == REASONING_SHOW && n && v->thought.bytes[n - 1] != '\n') fputc('\n', v->terminal ? stdout : stderr);
    v->visible.n = 0;
    if (v->reasoning == REASONING_HIDE || n == 0) return;
    if (v->engine)
        fm_view_note(v, "thought for %d tokens", count_tokens(v));
    else
        fm_view_note(v, "thought for %d characters", count_characters(v));
}

void fm_view_thought(struct view *v) {
    if (v->thought.n) fm_view_quote(v, v->thought.bytes, v->thought.n);
}

/* ---- text ---- */

static void text_character(void *user, const char *bytes, int n, int columns) {
    (void)columns;
    to_stdout(user, bytes, (size_t)n);
}

static void feed_text(struct view *v, const char *text, size_t n) {
    while (v->terminal && !v->text_begun && n > 0 && *text == '\n') text++, n--; /* templates leave them after reasoning */
    if (n == 0) return;
    v->text_begun = true;
    if (v->styles)
        fm_markdown_feed(&v->markdown, text, n);
    else if (v->terminal)
        fm_visible_feed(&v->visible, text, n, text_character, v);
    else
        to_stdout(v, text, n);
    v->last = text[n - 1];
    flush(v);
}

static void end_text(struct view *v) {
    if (v->styles)
        fm_markdown_end(&v->markdown);
    else if (v->terminal)
        fm_visible_end(&v->visible, text_character, v);
    if (v->text_begun && v->last != '\n') to_stdout(v, "\n", 1);
    flush(v);
    v->text_begun = false;
}

/* ---- calls ---- */

static void begin_call(struct view *v, const char *name) {
    fflush(stdout);
    fputs(v->note_styles ? "\033[2mcalls " : "calls ", stderr);
    fm_visible_print(stderr, name, strlen(name));
    fputc(' ', stderr);
}

static void call_character(void *user, const char *bytes, int n, int columns) {
    (void)user;
    (void)columns;
    fwrite(bytes, 1, (size_t)n, stderr);
}

static void feed_call(struct view *v, const char *text, size_t n) {
    fm_visible_feed(&v->visible, text, n, call_character, NULL);
    fflush(stderr);
}

static void end_call(struct view *v) {
    fputs(v->note_styles ? "\033[0m\n" : "\n", stderr);
    v->visible.n = 0;
    fflush(stderr);
}

/* ---- events ---- */

static void change_part(struct view *v, int part) {
    if (v->part == part) return;
    switch (v->part) {
    case REASONING: end_reasoning(v); break;
    case TEXT: end_text(v); break;
    case CALL: end_call(v); break;
    default: fm_progress_clear(v->progress);
    }
    v->part = part;
}

void fm_view_begin(struct view *v) {
    v->part = NOTHING;
    v->text_begun = false;
    v->visible = (struct visible){0};
    free(v->thought.bytes);
    v->thought = (struct text){0};
}

int fm_view_event(void *user, const fm_event *event) {
    struct view *v = user;

    switch (event->type) {
    case FM_EVENT_TEXT:
        change_part(v, TEXT);
        feed_text(v, event->text, event->bytes);
        break;
    case FM_EVENT_REASONING:
        change_part(v, REASONING);
        feed_reasoning(v, event->text, event->bytes);
        break;
    case FM_EVENT_CALL:
        change_part(v, NOTHING); /* each call has a line */
        change_part(v, CALL);
        begin_call(v, event->name);
        break;
    case FM_EVENT_ARGUMENTS: feed_call(v, event->text, event->bytes); break;
    case FM_EVENT_CALL_END: change_part(v, NOTHING); break;
    default: break;
    }
    return v->failed != 0;
}

void fm_view_end(struct view *v) {
    change_part(v, NOTHING);
    fm_progress_clear(v->progress);
}
