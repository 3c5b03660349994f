/* formats/tensors.c: see tensors.h. What is in the files, and the sentences about headers, is the sources' business. */
#include "formats/tensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    size_t bytes;
} dtypes[FM_N_DTYPES] = {
    [FM_F32] = {"F32", 4}, [FM_F16] = {"F16", 2}, [FM_BF16] = {"BF16", 2}, [FM_U32] = {"U32", 4}, [FM_U8] = {"U8", 1},
    [FM_I8] = {"I8", 1},   [FM_I32] = {"I32", 4}, [FM_I64] = {"I64", 8},   [FM_U16] = {"U16", 2}, [FM_F8_E4M3] = {"F8_E4M3", 1},
    [FM_I16] = {"I16", 2}, [FM_F64] = {"F64", 8}, [FM_BOOL] = {"BOOL", 1},
};

size_t fm_dtype_bytes(fm_dtype dtype) { return dtypes[dtype].bytes; }
const char *fm_dtype_name(fm_dtype dtype) { return dtypes[dtype].name; }

void fm_tensors_close(fm_tensors *t) {
    for (int i = 0; i < t->n_files; i++) fm_file_close(&t->files[i]);
    for (int i = 0; i < t->n_tensors; i++) free(t->tensors[i].name);
    free(t->files);
    free(t->tensors);
    free(t->index);
    memset(t, 0, sizeof *t);
}

/* Room for one more of n items, in powers of two. */
static void *grow(void *items, int n, size_t size) {
    if (n & (n - 1)) return items;
    return realloc(items, (size_t)(n ? 2 * n : 1) * size);
}

int fm_tensors_check_lfs(const char *path, const void *head, size_t bytes, fm_error *err) {
    static const char begins[] = "version https://git-lfs";
    if (bytes < sizeof begins - 1 || memcmp(head, begins, sizeof begins - 1)) return 0;
    return fm_fail(err, FM_EFORMAT, "%s: it is a Git LFS pointer, not the file: fetch it with git lfs pull", path);
}

int fm_tensors_add_file(fm_tensors *t, const char *path, fm_error *err) {
    fm_file *files = grow(t->files, t->n_files, sizeof *files);
    if (!files) return fm_fail(err, FM_ENOMEM, "%s: no memory for another file", path);
    t->files = files;
    fm_file *file = &files[t->n_files];
    int rc = fm_file_open(file, path, true, err);
    if (rc < 0) return rc;
    t->n_files++;
    char head[1024]; /* a pointer has less */
    if (file->size >= sizeof head) return t->n_files - 1;
    if ((rc = fm_file_read(file, head, (size_t)file->size, 0, err)) < 0 || (rc = fm_tensors_check_lfs(path, head, (size_t)file->size, err)) < 0) return rc;
    return t->n_files - 1;
}

/* "BF16 [2, 3]" */
static void describe(char *out, size_t size, const fm_tensor *t) {
    int n = snprintf(out, size, "%s [", fm_dtype_name(t->dtype));
    for (int i = 0; i < t->n_dims; i++) n += snprintf(out + n, size - (size_t)n, "%s%" PRIu64, i ? ", " : "", t->shape[i]);
    snprintf(out + n, size - (size_t)n, "]");
}

/* Bytes of type and shape; false when that is more than 64 bits can say. */
static bool shape_bytes(const fm_tensor *t, uint64_t *bytes) {
    *bytes = fm_dtype_bytes(t->dtype);
    for (int i = 0; i < t->n_dims; i++) {
        if (t->shape[i] == 0) {
            *bytes = 0;
            return true;
        }
    }
    for (int i = 0; i < t->n_dims; i++) {
        if (__builtin_mul_overflow(*bytes, t->shape[i], bytes)) return false;
    }
    return true;
}

/* Where it ends in the file; UINT64_MAX when that is more than 64 bits can say. */
static uint64_t end_of(const fm_tensor *t) {
    uint64_t span = t->bytes, end;
    bool over = false;
    if (t->stride && t->bytes) over = __builtin_mul_overflow(t->stride, t->shape[0] - 1, &span) || __builtin_add_overflow(span, t->bytes / t->shape[0], &span);
    return over || __builtin_add_overflow(t->offset, span, &end) ? UINT64_MAX : end;
}

int fm_tensors_add(fm_tensors *t, const char *name, const fm_tensor *tensor, fm_error *err) {
    const fm_file *file = &t->files[tensor->file];
    char what[160];
    uint64_t bytes, end = end_of(tensor);
    describe(what, sizeof what, tensor);
    if (!shape_bytes(tensor, &bytes)) return fm_fail(err, FM_EFORMAT, "%s: tensor %s is %s, which is more than any file holds", file->path, name, what);
    if (bytes != tensor->bytes) {
        return fm_fail(err, FM_EFORMAT, "%s: tensor %s has %" PRIu64 " bytes, but %s is %" PRIu64, file->path, name, tensor->bytes, what, bytes);
    }
    if (end > file->size) {
        return fm_fail(err, FM_EFORMAT,
                       "%s: tensor %s lies at bytes %" PRIu64 " to %" PRIu64 ", but the file ends at %" PRIu64 ": it is %" PRIu64 " bytes short", file->path,
                       name, tensor->offset, end, file->size, end - file->size);
    }
    fm_tensor *tensors = grow(t->tensors, t->n_tensors, sizeof *tensors);
    if (!tensors) return fm_fail(err, FM_ENOMEM, "%s: no memory for tensor %s", file->path, name);
    t->tensors = tensors;
    tensors[t->n_tensors] = *tensor;
    if (!(tensors[t->n_tensors].name = strdup(name))) return fm_fail(err, FM_ENOMEM, "%s: no memory for tensor %s", file->path, name);
    t->n_tensors++;
    return 0;
}

static int by_offset(const void *a, const void *b) {
    const fm_tensor *x = *(const fm_tensor *const *)a, *y = *(const fm_tensor *const *)b;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

int fm_tensors_check_places(const fm_tensors *t, int first, const fm_tensor **last, fm_error *err) {
    const fm_tensor **sorted = malloc((size_t)(t->n_tensors - first + 1) * sizeof *sorted);
    int n = 0, rc = 0;
    if (!sorted) return fm_fail(err, FM_ENOMEM, "no memory to sort %d tensors", t->n_tensors - first);
    for (int i = first; i < t->n_tensors; i++) {
        if (t->tensors[i].bytes) sorted[n++] = &t->tensors[i]; /* an empty one is nowhere */
    }
    qsort(sorted, (size_t)n, sizeof *sorted, by_offset);
    for (int i = 1; i < n && rc == 0; i++) {
        const fm_tensor *a = sorted[i - 1], *b = sorted[i];
        if (a->offset + a->bytes <= b->offset) continue;
        rc = fm_fail(err, FM_EFORMAT, "%s: tensors %s, bytes %" PRIu64 " to %" PRIu64 ", and %s, from %" PRIu64 ", overlap", t->files[a->file].path, a->name,
                     a->offset, a->offset + a->bytes, b->name, b->offset);
    }
    if (last) *last = n ? sorted[n - 1] : NULL;
    free(sorted);
    return rc;
}

static uint32_t hash(const char *name) {
    uint32_t h = 2166136261u;
    for (; *name; name++) h = (h ^ (uint8_t)*name) * 16777619u;
    return h;
}

int fm_tensors_finish(fm_tensors *t, fm_error *err) {
    uint32_t size = 16;
    while (size < 2 * (uint32_t)t->n_tensors) size *= 2;
    free(t->index);
    t->index = calloc(size, sizeof *t->index);
    t->index_mask = size - 1;
    if (!t->index) return fm_fail(err, FM_ENOMEM, "no memory for an index of %d tensors", t->n_tensors);
    for (int i = 0; i < t->n_tensors; i++) {
        const fm_tensor *tensor = &t->tensors[i];
        uint32_t at = hash(tensor->name) & t->index_mask;
        for (; t->index[at]; at = (at + 1) & t->index_mask) {
            const fm_tensor *other = &t->tensors[t->index[at] - 1];
            if (strcmp(other->name, tensor->name)) continue;
            return fm_fail(err, FM_EFORMAT, "tensor %s is there twice: in %s and in %s", other->name, t->files[other->file].path, t->files[tensor->file].path);
        }
        t->index[at] = (uint32_t)i + 1;
    }
    return 0;
}

const fm_tensor *fm_tensors_find(const fm_tensors *t, const char *name) {
    if (!t->index) return NULL;
    for (uint32_t at = hash(name) & t->index_mask; t->index[at]; at = (at + 1) & t->index_mask) {
        const fm_tensor *tensor = &t->tensors[t->index[at] - 1];
        if (!strcmp(tensor->name, name)) return tensor;
    }
    return NULL;
}
