/* cli/output.h: what people see: the progress line, sizes and tables; and what programs see: JSON. */
#ifndef FM_CLI_OUTPUT_H
#define FM_CLI_OUTPUT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* One line on stderr that is written over; nothing if stderr is no terminal. */
struct progress {
    bool terminal, shown;
    double last_seconds;
    double begin_seconds; /* of work with a bar; 0: not begun */
    uint64_t begin;       /* what was done then */
};

void fm_progress_open(struct progress *progress);
/* An fm_engine_options.progress with a struct progress as user; after Ctrl-C it also stops the loading. */
int fm_progress_show(void *user, const char *what, uint64_t done, uint64_t total);
/* An fm_engine_options.log. */
void fm_progress_log(void *user, int level, const char *line);
/* Removes the line; before anything else is written to the terminal. */
void fm_progress_clear(struct progress *progress);

double fm_seconds(void); /* monotonic */

#define SIZE_TEXT 32
/* Memory in powers of 1024 ("1.50 GiB"), what a disk reads in powers of 1000 ("1.6 GB"): each as it is sold. Both return text. */
const char *fm_memory_text(char text[SIZE_TEXT], uint64_t bytes);
const char *fm_disk_text(char text[SIZE_TEXT], double bytes);

/* Columns of text, each as wide as its widest cell; the first n_left are left-aligned. Cells are copied. */
struct table {
    char **cells;
    int n_columns, n_left, n_cells, room;
};

__attribute__((format(printf, 2, 3))) void fm_table_add(struct table *table, const char *format, ...);
void fm_table_print(struct table *table, FILE *out, const char *indent); /* and frees */

/* Bytes as a JSON string; what is no UTF-8 becomes U+FFFD. */
json_t *fm_json_text(const char *bytes, size_t n);
/* Prints to stdout and frees. 0, or the exit code after saying what is wrong. */
int fm_json_print(json_t *object);
/* Flushes stdout: 0; 0 if nobody reads it any more; else the exit code after saying what is wrong. */
int fm_finish_output(void);

/* The most memory this process has had, in bytes; 0: unknown. */
uint64_t fm_peak_memory(void);

#endif
