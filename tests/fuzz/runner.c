/* tests/fuzz/runner.c: runs a fuzzer over its corpus where there is no libFuzzer: each argument is a file, or a directory of files. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Feeds one file, from a buffer of just its size so that a sanitizer sees a read past its end. */
static int run_file(const char *path) {
    FILE *f = fopen(path, "rb");
    long size = -1;
    if (f && fseek(f, 0, SEEK_END) == 0) size = ftell(f);
    uint8_t *data = size > 0 ? malloc((size_t)size) : NULL;
    int rc = -1;
    if (size == 0 || (data && fseek(f, 0, SEEK_SET) == 0 && fread(data, 1, (size_t)size, f) == (size_t)size)) {
        LLVMFuzzerTestOneInput(data, (size_t)size);
        rc = 1;
    } else {
        perror(path);
    }
    free(data);
    if (f) fclose(f);
    return rc;
}

static int run_directory(const char *directory, DIR *dir) {
    int n = 0;
    for (struct dirent *e; n >= 0 && (e = readdir(dir));) {
        char path[4096];
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
        n = run_file(path) < 0 ? -1 : n + 1;
    }
    return n;
}

int main(int argc, char **argv) {
    int total = 0;
    for (int i = 1; i < argc; i++) {
        DIR *dir = opendir(argv[i]);
        int n = dir ? run_directory(argv[i], dir) : run_file(argv[i]);
        if (dir) closedir(dir);
        if (n < 0) return 1;
        total += n;
    }
    fprintf(stderr, "%d inputs\n", total);
    return total > 0 ? 0 : 1; /* an empty corpus tests nothing */
}
