/* cli/chat/input.c: libedit with a reader of our own, which knows signals, pasted text and what to do while nothing is typed; a plain reader of lines; the history. */
#include "cli/chat/input.h"

#include <errno.h>
#include <fcntl.h>
#include <histedit.h>
#include <jansson.h>
#include <limits.h>
#include <locale.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "cli/chat/signals.h"
#include "cli/cli.h"

enum { HISTORY_SIZE = 1000, HISTORY_FILE_MOST = 3 * HISTORY_SIZE };
enum { SHORT_PASTE = 200, LABEL = 64 };
enum { LOOK_MS = 300 }; /* for signals that came between looking and waiting; and before idle work begins */

struct paste { /* the line shows its label */
    char label[LABEL];
    char *text;
};

struct input {
    struct input_options options;
    char history_path[PATH_MAX]; /* options.history */
    EditLine *editor;
    History *history;
    const char *prompt;
    struct paste *pastes;
    int n_pastes;
    bool more_idle;          /* idle work may be left */
    bool cleared, was_empty; /* by Ctrl-C, the line that it cleared */
    struct termios terminal;
    bool quiet;
};

/* ---- a message of lines ---- */

static void append(struct draft *m, const char *text, size_t n, bool newline) {
    char *grown = realloc(m->text, m->n + n + 2);

    if (!grown) abort();
    m->text = grown;
    if (newline) m->text[m->n++] = '\n';
    memcpy(m->text + m->n, text, n);
    m->text[m->n += n] = '\0';
}

static bool is_fence(const char *line) {
    while (*line == ' ') line++;
    return strncmp(line, "```", 3) == 0 && !strchr(line + 3, '`');
}

bool fm_draft_add(struct draft *m, const char *line) {
    size_t n = strlen(line), slashes = 0;
    bool first = !m->begun, newline = m->n > 0;

    m->begun = true;
    if (first && *line == '/') {
        append(m, line, n, false);
        return true;
    }
    if (first && strncmp(line, "\"\"\"", 3) == 0) {
        m->quoted = true;
        line += 3;
        if ((n -= 3) == 0) return false;
        first = false;
    }
    if (m->quoted) {
        bool over = n >= 3 && strcmp(line + n - 3, "\"\"\"") == 0;
        if (!over || n > 3) append(m, line, over ? n - 3 : n, newline);
        return over;
    }
    for (const char *p = line; *p; p++) { /* pasted text has several lines */
        if ((p == line || p[-1] == '\n')) {
            size_t length = strcspn(p, "\n");
            char head[256];
            snprintf(head, sizeof head, "%.*s", length < 255 ? (int)length : 255, p);
            if (is_fence(head)) m->fenced = !m->fenced;
        }
    }
    while (slashes < n && line[n - 1 - slashes] == '\\') slashes++;
    append(m, line, n - (slashes % 2 && !m->fenced), !first);
    return !m->fenced && slashes % 2 == 0;
}

/* ---- reading characters ---- */

static struct input *of(EditLine *editor) {
    void *input = NULL;

    el_get(editor, EL_CLIENTDATA, &input);
    return input;
}

/* Rows above the cursor's that prompt and line take at this width, as terminals lay text out anew. */
static int rows_above(const struct input *in, int width) {
    const LineInfoW *line = el_wline(in->editor);
    int column = 0, rows = 0;
    bool shown = true;

    for (const char *p = in->prompt; *p; p++) {
        if (*p == '\1') shown = !shown;
        column += shown && *p != '\1';
    }
    for (const wchar_t *c = line->buffer; c < line->cursor; c++) {
        int columns = *c == L'\n' ? 0 : wcwidth(*c);
        if (*c == L'\n') {
            rows += 1 + column / width;
            column = 0;
        }
        column += columns > 0 ? columns : 0;
    }
    return rows + column / width;
}

/* The terminal has another size: the editor begins its line again where it began before. */
static void redraw(struct input *in) {
    struct winsize size;
    int rows = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? rows_above(in, size.ws_col) : 0;

    if (rows) printf("\033[%dA", rows);
    fputs("\r\033[J", stdout);
    fflush(stdout);
    el_resize(in->editor);
    el_set(in->editor, EL_REFRESH);
}

/* A byte of the terminal: 1; 0 at its end; -1 when Ctrl-C was pressed. */
static int read_byte(struct input *in, unsigned char *byte) {
    struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
    ssize_t n;

    for (;;) {
        if (fm_signals_ended()) return 0;
        if (fm_signals_interrupted()) return -1;
        if (fm_signals_resized() && in->editor) redraw(in);
        int ready = poll(&fd, 1, LOOK_MS);
        if (ready == 0 && in->more_idle && in->options.idle) in->more_idle = in->options.idle(in->options.user);
        if (ready <= 0) continue;
        if ((n = read(STDIN_FILENO, byte, 1)) == 1) return 1;
        if (n == 0 || (errno != EINTR && errno != EAGAIN)) return 0;
    }
}

/* A character in UTF-8; broken ones become U+FFFD. Results as of read_byte. */
static int read_character(struct input *in, wchar_t *c) {
    unsigned char byte;
    int rc = read_byte(in, &byte), more;

    if (rc != 1) return rc;
    more = byte < 0xc2 ? 0 : byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : byte < 0xf5 ? 3 : 0;
    *c = byte < 0x80 ? byte : more ? byte & (0x3f >> more) : 0xfffd;
    for (; more > 0; more--) {
        if ((rc = read_byte(in, &byte)) != 1) return rc;
        if ((byte & 0xc0) != 0x80) *c = 0xfffd;
        if (*c != 0xfffd) *c = *c << 6 | (byte & 0x3f);
    }
    return 1;
}

static int read_for_editor(EditLine *editor, wchar_t *c) {
    struct input *in = of(editor);
    int rc = read_character(in, c);

    if (rc >= 0) return rc;
    const LineInfoW *line = el_wline(editor);
    in->cleared = true;
    in->was_empty = line->lastchar == line->buffer;
    return -1;
}

/* ---- pasted text ---- */

/* What the terminal sends up to ESC [ 201 ~, as UTF-8 with newlines; NULL at the end, on Ctrl-C, or without memory. */
static char *read_paste(struct input *in) {
    static const char end[] = "\033[201~";
    size_t n = 0, room = 0;
    char *text = NULL;
    unsigned char byte;

    while (read_byte(in, &byte) == 1) {
        if (n + 2 > room) {
            char *grown = realloc(text, room = 2 * room + 4096);
            if (!grown) break;
            text = grown;
        }
        if (byte == '\0') continue;
        text[n++] = (char)byte;
        text[n] = '\0';
        if (n < sizeof end - 1 || strcmp(text + n - (sizeof end - 1), end) != 0) continue;
        text[n - (sizeof end - 1)] = '\0';
        return text;
    }
    free(text);
    return NULL;
}

/* Lines end in \n; other control characters but tabs are dropped. */
static void clean(char *text) {
    char *to = text;

    for (char *from = text; *from; from++) {
        if (*from == '\r') {
            *to++ = '\n';
            if (from[1] == '\n') from++;
        } else if ((unsigned char)*from >= 0x20 ? *from != 0x7f : *from == '\n' || *from == '\t') {
            *to++ = *from;
        }
    }
    *to = '\0';
}

static int count_lines(const char *text) {
    int n = 1;

    for (; *text; text++) n += *text == '\n' && text[1];
    return n;
}

/* Takes text. Short ones are typed in; long ones stand in the line as a label, since a line editor is no place for 10,000 characters. */
static bool insert_paste(struct input *in, char *text) {
    struct paste *grown, *paste;
    int n_characters = 0;

    clean(text);
    if (strlen(text) <= SHORT_PASTE && !strchr(text, '\n')) {
        int rc = el_insertstr(in->editor, text);
        free(text);
        return rc == 0;
    }
    if (!(grown = realloc(in->pastes, (size_t)(in->n_pastes + 1) * sizeof *grown))) {
        free(text);
        return false;
    }
    in->pastes = grown;
    paste = &grown[in->n_pastes++];
    paste->text = text;
    for (const char *p = text; *p; p++) n_characters += ((unsigned char)*p & 0xc0) != 0x80;
    snprintf(paste->label, sizeof paste->label, "[pasted %d: %d characters, %d line%s]", in->n_pastes, n_characters, count_lines(text),
             count_lines(text) == 1 ? "" : "s");
    return el_insertstr(in->editor, paste->label) == 0;
}

static unsigned char on_paste(EditLine *editor, int c) {
    struct input *in = of(editor);
    char *text = read_paste(in);

    (void)c;
    return text && insert_paste(in, text) ? CC_REFRESH : CC_ERROR;
}

static unsigned char on_newline(EditLine *editor, int c) {
    (void)c;
    return el_insertstr(editor, "\n") == 0 ? CC_REFRESH : CC_ERROR;
}

/* The line with pasted text in the place of its labels, malloc'd. */
static char *expand(const struct input *in, const char *line, bool *pasted) {
    struct draft out = {0};

    append(&out, "", 0, false);
    for (*pasted = false; *line;) {
        const struct paste *here = NULL;
        for (int i = 0; i < in->n_pastes; i++)
            if (strncmp(line, in->pastes[i].label, strlen(in->pastes[i].label)) == 0) here = &in->pastes[i];
        if (here) {
            append(&out, here->text, strlen(here->text), false);
            line += strlen(here->label);
            *pasted = true;
        } else {
            append(&out, line++, 1, false);
        }
    }
    return out.text;
}

/* ---- history ---- */

/* The file has a JSON string in each line, the oldest first. */
static void load_history(struct input *in) {
    FILE *file = in->options.history ? fopen(in->options.history, "r") : NULL;
    char *line = NULL;
    size_t room = 0;
    HistEvent event;

    while (file && getline(&line, &room, file) > 0) {
        json_t *text = json_loads(line, JSON_DECODE_ANY, NULL);
        if (json_is_string(text)) history(in->history, &event, H_ENTER, json_string_value(text));
        json_decref(text);
    }
    free(line);
    if (file) fclose(file);
}

static void write_entry(FILE *file, const char *text) {
    json_t *entry = fm_json_text(text, strlen(text));

    json_dumpf(entry, file, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
    fputc('\n', file);
    json_decref(entry);
}

/* The newest entries take the place of a file that has grown long. */
static void shorten_history(struct input *in) {
    char path[PATH_MAX];
    HistEvent event;
    FILE *file;
    int fd;

    snprintf(path, sizeof path, "%.4080s.%d", in->options.history, (int)getpid());
    if ((fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0 || !(file = fdopen(fd, "w"))) return;
    for (int rc = history(in->history, &event, H_LAST); rc >= 0; rc = history(in->history, &event, H_PREV)) write_entry(file, event.str);
    if (fclose(file) == 0) rename(path, in->options.history);
}

static void save_entry(struct input *in, const char *text) {
    struct stat st;
    int fd = in->options.history ? open(in->options.history, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    FILE *file = fd >= 0 ? fdopen(fd, "a") : NULL;

    if (!file) return;
    write_entry(file, text);
    if (fclose(file) == 0 && stat(in->options.history, &st) == 0 && st.st_size > 400 * HISTORY_FILE_MOST) shorten_history(in);
}

void fm_input_remember(struct input *in, const char *text) {
    HistEvent event;

    if (in->history && *text) history(in->history, &event, H_ENTER, text);
}

/* ---- lines ---- */

static char *give_prompt(EditLine *editor) { return (char *)of(editor)->prompt; }

/* Entering and leaving: the terminal marks pasted text. */
static void mark_pastes(bool on) {
    fputs(on ? "\033[?2004h" : "\033[?2004l", stdout);
    fflush(stdout);
}

static int edit_line(struct input *in, const char *prompt, char **text) {
    const char *line;
    int n = 0;

    in->prompt = prompt;
    in->cleared = false;
    fm_signals_forget();
    mark_pastes(true);
    line = el_gets(in->editor, &n);
    mark_pastes(false);
    if (in->cleared) {
        fm_signals_forget();
        puts("^C");
        return INPUT_CLEARED;
    }
    if (!line || n <= 0) {
        putchar('\n');
        return INPUT_END;
    }
    if (!(*text = strndup(line, (size_t)n - (line[n - 1] == '\n')))) return INPUT_END;
    return INPUT_TEXT;
}

static int plain_line(struct input *in, const char *prompt, char **text) {
    size_t room = 0, nul;
    ssize_t n;

    if (in->options.prompts) {
        fputs(prompt, stderr);
        fflush(stderr);
    }
    *text = NULL;
    if (fm_signals_ended() || (n = getline(text, &room, stdin)) <= 0) {
        free(*text);
        *text = NULL;
        return INPUT_END;
    }
    if ((*text)[n - 1] == '\n') (*text)[--n] = '\0';
    if (n > 0 && (*text)[n - 1] == '\r') (*text)[--n] = '\0';
    while ((nul = strlen(*text)) < (size_t)n) (*text)[nul] = ' '; /* a message is a text */
    return INPUT_TEXT;
}

/* Prompts, with attributes between \1 and \1, which libedit does not count. */
static const char *message_prompt(const struct input *in, bool first) {
    if (!in->editor) return first ? "> " : "| ";
    if (!in->options.styles) return first ? "> " : "| ";
    return first ? "\1\033[1;32m\1> \1\033[0m\1" : "\1\033[2m\1| \1\033[0m\1";
}

int fm_input_message(struct input *in, char **text) {
    struct draft shown = {0}, whole = {0};
    bool any_pasted = false, complete = false;
    int n_clears = 0, rc = INPUT_TEXT;

    in->more_idle = true;
    while (!complete) {
        char *line = NULL, *expanded;
        bool pasted = false;
        rc = in->editor ? edit_line(in, message_prompt(in, !whole.begun), &line) : plain_line(in, message_prompt(in, !whole.begun), &line);
        if (rc == INPUT_CLEARED && in->was_empty && !whole.begun && ++n_clears < 2) {
            fputs("Ctrl-C again, or Ctrl-D, leaves.\n", stderr);
            continue;
        }
        if (rc != INPUT_TEXT) break;
        if (!(expanded = expand(in, line, &pasted))) abort();
        if (shown.begun || *line) append(&shown, line, strlen(line), shown.begun);
        shown.begun = true;
        complete = fm_draft_add(&whole, expanded);
        any_pasted = any_pasted || pasted;
        free(expanded);
        free(line);
    }
    if (rc == INPUT_END && whole.n > 0 && !in->editor) rc = INPUT_TEXT; /* the last lines of a script */
    if (rc == INPUT_CLEARED && n_clears >= 2) rc = INPUT_END;
    if (rc == INPUT_TEXT) {
        *text = whole.text ? whole.text : strdup("");
        if (shown.n) fm_input_remember(in, shown.text);
        if (shown.n && in->history && !any_pasted) save_entry(in, shown.text);
    } else {
        free(whole.text);
    }
    free(shown.text);
    return rc;
}

int fm_input_ask(struct input *in, const char *question, char **text) {
    if (!in->editor) return plain_line(in, question, text);
    bool quiet = in->quiet;
    fm_input_quiet(in, false);
    tcflush(STDIN_FILENO, TCIFLUSH);
    int rc = edit_line(in, question, text);
    fm_input_quiet(in, quiet);
    return rc;
}

bool fm_input_is_editor(const struct input *in) { return in->editor != NULL; }

void fm_input_quiet(struct input *in, bool quiet) {
    struct termios now;

    if (!in->editor || quiet == in->quiet) return;
    in->quiet = quiet;
    if (quiet) {
        if (tcgetattr(STDIN_FILENO, &in->terminal)) return;
        now = in->terminal;
        now.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
        now.c_lflag |= NOFLSH; /* Ctrl-C keeps what was typed ahead */
        tcsetattr(STDIN_FILENO, TCSADRAIN, &now);
    } else {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &in->terminal);
    }
}

/* ---- opening ---- */

static int open_editor(struct input *in, fm_error *err) {
    HistEvent event;

    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    if (!(in->editor = el_init("flash-moe", stdin, stdout, stderr)) || !(in->history = history_init()))
        return fm_cli_fail(err, FM_ENOMEM, "the line editor cannot be started; TERM=dumb does without it");
    el_set(in->editor, EL_CLIENTDATA, in);
    el_set(in->editor, EL_EDITOR, "emacs");
    el_source(in->editor, NULL); /* ~/.editrc */
    history(in->history, &event, H_SETSIZE, HISTORY_SIZE);
    history(in->history, &event, H_SETUNIQUE, 1);
    el_set(in->editor, EL_HIST, history, in->history);
    el_set(in->editor, EL_PROMPT_ESC, give_prompt, '\1');
    el_wset(in->editor, EL_GETCFN, read_for_editor);
    el_set(in->editor, EL_ADDFN, "fm-paste", "pasted text", on_paste);
    el_set(in->editor, EL_ADDFN, "fm-newline", "a new line in the message", on_newline);
    el_set(in->editor, EL_BIND, "\033[200~", "fm-paste", NULL);
    el_set(in->editor, EL_BIND, "\033\r", "fm-newline", NULL);
    el_set(in->editor, EL_BIND, "\033\n", "fm-newline", NULL);
    load_history(in);
    return 0;
}

int fm_input_open(struct input **out, const struct input_options *options, fm_error *err) {
    struct input *in = calloc(1, sizeof *in);
    int rc = in ? 0 : fm_cli_fail(err, FM_ENOMEM, "no memory for the line editor");

    if (in) in->options = *options;
    if (in && options->history) {
        snprintf(in->history_path, sizeof in->history_path, "%s", options->history);
        in->options.history = in->history_path;
    }
    if (in && options->editor) rc = open_editor(in, err);
    if (rc < 0) fm_input_close(&in);
    *out = in;
    return rc;
}

void fm_input_close(struct input **input) {
    struct input *in = *input;

    *input = NULL;
    if (!in) return;
    fm_input_quiet(in, false);
    for (int i = 0; i < in->n_pastes; i++) free(in->pastes[i].text);
    free(in->pastes);
    if (in->editor) el_end(in->editor);
    if (in->history) history_end(in->history);
    free(in);
}
