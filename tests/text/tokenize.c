/* tokenize.c: a program for tools/reference/real_vocabulary.py: tokenize TOKENIZER.JSON SPECIAL (0 or 1). Reads texts from its standard input, each as a
 * little-endian u32 length and that many bytes; writes for each a u32 count and as many i32 ids; at the end says on its standard error how long loading
 * and encoding took, and what the tokenizer holds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/system.h"
#include "text/tokenizer.h"

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(int argc, char **argv) {
    fm_tokenizer *tokenizer;
    fm_error err = {0};
    uint32_t n;
    double seconds = 0, start = now();
    uint64_t bytes = 0, tokens = 0, before = fm_memory_resident();
    if (argc != 3) return 2;
    if (fm_tokenizer_open(&tokenizer, argv[1], &err) < 0) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    double load = now() - start;
    uint64_t resident = fm_memory_resident() - before;
    while (fread(&n, sizeof n, 1, stdin) == 1) {
        char *text = malloc(n + 1);
        int32_t *ids;
        if (!text || fread(text, 1, n, stdin) != n) return 2;
        start = now();
        int n_ids = fm_tokenizer_encode(tokenizer, text, n, *argv[2] == '1', &ids, &err);
        seconds += now() - start;
        if (n_ids < 0) {
            fprintf(stderr, "%s\n", err.message);
            return 1;
        }
        bytes += n;
        tokens += (uint64_t)n_ids;
        fwrite(&n_ids, sizeof n_ids, 1, stdout);
        fwrite(ids, sizeof *ids, (size_t)n_ids, stdout);
        free(ids);
        free(text);
    }
    fprintf(stderr, "%d entries, load %.3f s, resident +%.1f MB (peak %.1f), says %.1f MB; %.2f MB to %.2f M tokens at %.1f MB/s\n",
            fm_tokenizer_n_entries(tokenizer), load, 1e-6 * (double)resident, 1e-6 * (double)fm_memory_peak(),
            1e-6 * (double)fm_tokenizer_memory_bytes(tokenizer), 1e-6 * (double)bytes, 1e-6 * (double)tokens,
            1e-6 * (double)bytes / (seconds > 0 ? seconds : 1));
    fm_tokenizer_close(&tokenizer);
    return 0;
}
