/* cli/output.c: the progress line, sizes, tables and JSON. It knows no command. */
#include "cli/output.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define PROGRESS_SECONDS 0.1 /* between two versions of the line */

double fm_seconds(void) {
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- progress ---- */

void fm_progress_open(struct progress *progress) { *progress = (struct progress){.terminal = isatty(STDERR_FILENO) == 1}; }

void fm_progress_clear(struct progress *progress) {
    if (!progress->shown) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    progress->shown = false;
}

/* "writing experts: [####......] 1.20 GB of 3.00 GB, 410.0 MB/s, 0:04 left": the rate since it began. */
static void show_work(struct progress *p, const char *what, uint64_t done, uint64_t total, double now) {
    enum { WIDTH = 24 };
    char of[3][SIZE_TEXT], bar[WIDTH + 1];
    int full = (int)((double)done / (double)total * WIDTH);

    if (p->begin_seconds <= 0 || done < p->begin) {
        p->begin_seconds = now;
        p->begin = done;
    }
    for (int i = 0; i < WIDTH; i++) bar[i] = i < full ? '#' : '.';
    bar[WIDTH] = '\0';
    fprintf(stderr, "\r\033[K%s: [%s] %s of %s", what, bar, fm_disk_text(of[0], (double)done), fm_disk_text(of[1], (double)total));
    if (now - p->begin_seconds < 1 || done == p->begin) return;
    double rate = (double)(done - p->begin) / (now - p->begin_seconds), left = (double)(total - done) / rate;
    fprintf(stderr, ", %s/s, %.0f:%02d left", fm_disk_text(of[2], rate), floor(left / 60), (int)fmod(left, 60));
}

int fm_progress_show(void *user, const char *what, uint64_t done, uint64_t total) {
    struct progress *p = user;
    char of[2][SIZE_TEXT];
    double now;

    if (fm_stop_loading()) return 1;
    if (!p->terminal) return 0;
    if (done >= total) {
        fm_progress_clear(p);
        return 0;
    }
    if ((now = fm_seconds()) < p->last_seconds + PROGRESS_SECONDS) return 0;
    p->last_seconds = now;
    p->shown = true;
    if (strcmp(what, "load") == 0 || strcmp(what, "experts") == 0)
        fprintf(stderr, "\r\033[K%s: %s of %s", *what == 'l' ? "loading" : "loading experts", fm_disk_text(of[0], (double)done),
                fm_disk_text(of[1], (double)total));
    else if (strcmp(what, "prompt") == 0)
        fprintf(stderr, "\r\033[Kreading the prompt: %llu of %llu tokens", (unsigned long long)done, (unsigned long long)total);
    else if (strncmp(what, "writing", 7) == 0 || strncmp(what, "pulling", 7) == 0 || strcmp(what, "verifying") == 0)
        show_work(p, what, done, total, now);
    else
        fprintf(stderr, "\r\033[K%s: %llu of %llu", what, (unsigned long long)done, (unsigned long long)total);
    fflush(stderr);
    return 0;
}

void fm_progress_log(void *user, int level, const char *line) {
    fm_progress_clear(user);
    fprintf(stderr, "flash-moe: %s%s\n", level == FM_LOG_WARNING ? "warning: " : "", line);
}

/* ---- sizes ---- */

static const char *size_text(char text[SIZE_TEXT], double bytes, double base, const char *const units[]) {
    int unit = 0;

    /* 999.95 would be shown as 1000.0 */
    for (; bytes >= base * 0.99995 && units[unit + 1]; unit++) bytes /= base;
    snprintf(text, SIZE_TEXT, unit == 0 ? "%.0f %s" : bytes < 9.995 ? "%.2f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

const char *fm_memory_text(char text[SIZE_TEXT], uint64_t bytes) {
    return size_text(text, (double)bytes, 1024, (const char *const[]){"bytes", "KiB", "MiB", "GiB", "TiB", NULL});
}

const char *fm_disk_text(char text[SIZE_TEXT], double bytes) {
    return size_text(text, bytes, 1000, (const char *const[]){"bytes", "kB", "MB", "GB", "TB", NULL});
}

/* ---- tables ---- */

void fm_table_add(struct table *t, const char *format, ...) {
    va_list arguments;

    if (t->n_cells == t->room) {
        t->room = t->room ? 2 * t->room : 32;
        if (!(t->cells = realloc(t->cells, (size_t)t->room * sizeof *t->cells))) abort();
    }
    va_start(arguments, format);
    if (vasprintf(&t->cells[t->n_cells++], format, arguments) < 0) abort();
    va_end(arguments);
}

void fm_table_print(struct table *t, FILE *out, const char *indent) {
    for (int i = 0; i < t->n_cells; i++) {
        int column = i % t->n_columns, width = 0;
        bool last = column == t->n_columns - 1;
        for (int j = column; j < t->n_cells; j += t->n_columns)
            if ((int)strlen(t->cells[j]) > width) width = (int)strlen(t->cells[j]);
        if (column < t->n_left) width = last ? 0 : -width; /* printf's sign for the left side */
        fprintf(out, "%s%*s", column == 0 ? indent : "  ", width, t->cells[i]);
        if (last) fputc('\n', out);
    }
    for (int i = 0; i < t->n_cells; i++) free(t->cells[i]);
    free(t->cells);
    *t = (struct table){.n_columns = t->n_columns, .n_left = t->n_left};
}

/* ---- JSON ---- */

/* Length of the character at s; 0 if it is not UTF-8. jansson is the judge, as it is what would refuse it. */
static size_t character(const char *s, size_t n) {
    for (size_t length = 1; length <= 4 && length <= n; length++) {
        json_t *one = json_stringn(s, length);
        json_decref(one);
        if (one) return length;
    }
    return 0;
}

json_t *fm_json_text(const char *bytes, size_t n) {
    json_t *text = json_stringn(bytes, n);
    char *repaired;
    size_t m = 0;

    if (text) return text;
    if (!(repaired = malloc(3 * n + 1))) return NULL;
    for (size_t i = 0; i < n;) {
        size_t length = character(bytes + i, n - i);
        memcpy(repaired + m, length ? bytes + i : "\xef\xbf\xbd", length ? length : 3);
        m += length ? length : 3;
        i += length ? length : 1;
    }
    text = json_stringn(repaired, m);
    free(repaired);
    return text;
}

int fm_json_print(json_t *object) {
    int rc = object ? json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(10)) : -1;
    fm_error err = {0};

    json_decref(object);
    if (rc != 0 && !ferror(stdout)) {
        fm_cli_fail(&err, FM_ENOMEM, "the JSON could not be made");
        return fm_report(&err);
    }
    putchar('\n');
    return fm_finish_output();
}

int fm_finish_output(void) {
    fm_error err = {0};

    errno = 0;
    if (fflush(stdout) == 0 && !ferror(stdout)) return 0;
    if (errno == EPIPE) return 0;
    fm_cli_fail(&err, FM_EIO, "cannot write to standard output: %s", errno ? strerror(errno) : "an earlier write failed");
    return fm_report(&err);
}

/* ---- this process ---- */

uint64_t fm_peak_memory(void) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    unsigned long long kib = 0;
    struct rusage usage;

    if (file) { /* ru_maxrss of Linux counts what the process was before exec, too */
        while (fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %llu kB", &kib) != 1) continue;
        fclose(file);
        return kib * 1024;
    }
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (uint64_t)usage.ru_maxrss : 0; /* macOS: in bytes */
}
