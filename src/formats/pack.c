/* formats/pack.c: see pack.h: reading, and how an expert lies on disk. */
#include "formats/pack.h"

#include <xxhash.h>

static uint64_t matrix_bytes(const fm_matrix_type *type) {
    if (type->format != FM_FORMAT_R16 || type->bits == type->width) return fm_matrix_bytes(type);
    return (uint64_t)fm_matrix_n_strips(type) * 16 * (uint64_t)(type->cols / type->group) * (uint64_t)(type->group * type->bits / 8 + 4);
}

uint64_t fm_pack_expert_bytes(const fm_matrix_type types[3], uint64_t offsets[3]) {
    uint64_t at = 0;
    for (int i = 0; i < 3; i++) {
        if (offsets) offsets[i] = at;
        at = (at + matrix_bytes(&types[i]) + 63) / 64 * 64;
    }
    return (at + 4095) / 4096 * 4096;
}

uint64_t fm_pack_hash(const void *data, size_t bytes) { return XXH3_64bits(data, bytes); }
