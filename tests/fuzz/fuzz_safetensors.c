/* tests/fuzz/fuzz_safetensors.c: any bytes as the header of a safetensors file: what is accepted lies in the file, apart, and is as long as its shape says.
 *
 * The first two bytes are the length of the data, least significant first, the rest is the header. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint64_t bytes_of(const fm_tensor *t) {
    uint64_t n = fm_dtype_bytes(t->dtype);
    for (int i = 0; i < t->n_dims; i++) n *= t->shape[i];
    return n;
}

static void check(const fm_tensors *t, uint64_t data, uint64_t end) {
    for (int i = 0; i < t->n_tensors; i++) {
        const fm_tensor *a = &t->tensors[i];
        assert(a->offset >= data && a->offset <= end && a->bytes <= end - a->offset && a->stride == 0 && a->n_dims <= FM_MAX_DIMS);
        assert(a->bytes == bytes_of(a) && fm_tensors_find(t, a->name) == a);
        for (int k = 0; k < i && i < 100; k++) {
            const fm_tensor *b = &t->tensors[k];
            assert(!a->bytes || !b->bytes || a->offset + a->bytes <= b->offset || b->offset + b->bytes <= a->offset);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    fm_tensors t = {.n_files = 1, .files = calloc(1, sizeof *t.files)};
    fm_error err = {0};
    uint64_t header = size - 2, file_bytes = 8 + header + data[0] + 256u * data[1];
    if (!t.files) abort();
    t.files[0] = (fm_file){.path = strdup("x.safetensors"), .fd = -1, .direct_fd = -1, .size = file_bytes};
    if (fm_safetensors_parse_header(&t, 0, (const char *)data + 2, size - 2, file_bytes, &err) < 0 || fm_tensors_finish(&t, &err) < 0) {
        assert(err.code < 0 && err.message[0]);
    } else {
        check(&t, 8 + header, file_bytes);
    }
    fm_tensors_close(&t);
    return 0;
}
