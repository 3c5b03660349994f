/* tests/base/tree.h: a folder of its own for a test, and files in it: a machine's /proc and /sys laid out as the test wants them. */
#ifndef FM_TESTS_BASE_TREE_H
#define FM_TESTS_BASE_TREE_H

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "test.h"

#define TREE_PATH 3000

static char tree_root[64];

static int tree_remove_one(const char *path, const struct stat *st, int kind, struct FTW *where) {
    (void)st, (void)kind, (void)where;
    return remove(path);
}

static inline void tree_remove(void) { nftw(tree_root, tree_remove_one, 16, FTW_DEPTH | FTW_PHYS); }

/* Makes the folder in the working directory (a disk, where /tmp may be none), removed when the program ends. */
static inline void tree_open(void) {
    snprintf(tree_root, sizeof tree_root, "test-tree-XXXXXX");
    if (!mkdtemp(tree_root)) {
        perror(tree_root);
        exit(1);
    }
    atexit(tree_remove);
}

/* Writes tree_root + name, with the folders above it. */
static inline void tree_write(const char *name, const void *data, size_t bytes) {
    char path[TREE_PATH];
    snprintf(path, sizeof path, "%s%s", tree_root, name);
    for (char *p = path + strlen(tree_root) + 1; (p = strchr(p, '/')); p++) {
        *p = 0;
        mkdir(path, 0700);
        *p = '/';
    }
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) {
        perror(path);
        exit(1);
    }
}

static inline void tree_text(const char *name, const char *text) { tree_write(name, text, strlen(text)); }

/* Empties the folder. */
static inline void tree_clear(void) {
    tree_remove();
    mkdir(tree_root, 0700);
}

#endif
