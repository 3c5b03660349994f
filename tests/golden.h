/* tests/golden.h: the safetensors files that hold expected values, read whole. */
#ifndef FM_TESTS_GOLDEN_H
#define FM_TESTS_GOLDEN_H

#include "formats/safetensors.h"
#include "test.h"

typedef struct golden {
    fm_tensors tensors;
} golden;

static inline void golden_open(golden *g, const char *path) {
    memset(g, 0, sizeof *g);
    MUST(fm_safetensors_add(&g->tensors, path, err));
    MUST(fm_tensors_finish(&g->tensors, err));
}

static inline void golden_close(golden *g) { fm_tensors_close(&g->tensors); }

/* The tensor's bytes, malloc'd; *rows and *cols of its (at most two) dimensions. NULL if there is none. */
static inline void *golden_read(golden *g, const char *name, fm_dtype dtype, int *rows, int *cols) {
    const fm_tensor *t = fm_tensors_find(&g->tensors, name);
    if (!t) return NULL;
    if (t->dtype != dtype || t->n_dims < 1 || t->n_dims > 2) {
        fprintf(stderr, "tensor %s is not of the type or shape that the test expects\n", name);
        exit(1);
    }
    *rows = (int)t->shape[0];
    *cols = t->n_dims == 2 ? (int)t->shape[1] : 1;
    void *data = malloc(t->bytes ? t->bytes : 1);
    MUST(fm_file_read(&g->tensors.files[t->file], data, t->bytes, t->offset, err));
    return data;
}

#endif
