/* cpu/isa/x86/amx.c: products of r16 matrices and int8 vectors in tiles: AMX-INT8, with AVX-512 for what comes after. Few tokens are left to AVX-512
 * alone, with distances to prefetch that suit the CPUs that have tiles. The permission that Linux wants is asked for in base/system.c.
 *
 * A tile product takes one group of columns of 16 tokens and one strip: A is the tokens' values (16 rows of a group's bytes), B the strip's words taken apart
 * (a row a 4-tuple of columns, which is how r16 has them), C the 16 x 16 exact sums. They are scaled and added in the order of the groups, as everywhere.
 *
 * In blocks: up to STRIPS strips and TOKENS tokens by GROUPS groups, so that taking apart the words serves all tokens of a block and gathering the tokens serves
 * all its strips. */
#include <string.h>

#include "cpu/isa/kernels.h"
#include "cpu/isa/x86/avx512.h"

#define PREFETCH_BYTES 4608
#define PREFETCH_FAR 4608

#include "cpu/isa/bodies.h"

#define FEWEST 16 /* tokens, below which tiles do not pay: measured on an Emerald Rapids */
#define STRIPS 2
#define TOKENS 64
#define GROUPS 4
#define TILE 16
#define AHEAD 2 /* tile products under way while the sums of one are scaled: what a tile stores can only be loaded when it has reached the cache */

typedef struct __attribute__((packed)) tile_config {
    uint8_t palette, start_row, zero[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

typedef struct block {
    _Alignas(64) uint8_t words[STRIPS][GROUPS][1024]; /* B tiles; not of 8 bits, which lie in the matrix as they are needed */
    _Alignas(64) int8_t q[TILE][GROUPS * 64];         /* tokens of a tile, when they do not follow each other in the input */
    _Alignas(64) int32_t c[GROUPS][TILE][16];         /* C tiles */
    _Alignas(64) float scale[STRIPS][GROUPS][16], bias[STRIPS][GROUPS][16];
    _Alignas(64) float xs[TILE][GROUPS], sum[TILE][GROUPS];
    _Alignas(64) float a[STRIPS][TOKENS][16], b[STRIPS][TOKENS][16];
    const uint8_t *tile[STRIPS][GROUPS]; /* B tiles */
    const int8_t *rows;                  /* of the first A tile; the next is a group further */
    size_t row_bytes;
} block;

typedef struct work {
    const fm_matrix *matrix;
    const fm_act8 *x;
    const int32_t *tokens;
    int n_groups, parts;                                                           /* groups of activations; of those in one of weights */
    size_t words_bytes, block_bytes, strip_bytes;                                  /* of an activation group's words; of a weight group; of a strip */
    int first_strip, n_strips, first_token, n_tokens, first_group, n_block_groups; /* the block's */
} work;

/* The tuples of n_words words, 16 rows each. mx: of mxfp4. */
static void take_apart(uint8_t *to, const uint8_t *words, int n_words, int width, bool mx) {
    const __m512i mask = _mm512_set1_epi32(width == 4 ? 0x0f0f0f0f : 0x03030303);
    for (int w = 0; w < n_words; w++) {
        __m512i v = _mm512_loadu_si512(words + 64 * w);
        for (int k = 0; k < 8 / width; k++, to += 64) {
            __m512i part = _mm512_and_si512(v, mask);
            _mm512_store_si512(to, mx ? i_table(part) : part);
            v = _mm512_srli_epi32(v, (unsigned)width);
        }
    }
}

static void read_weights(block *m, const work *w) {
    const fm_matrix_type *type = &w->matrix->type;
    const bool f16 = type->scale_dtype == FM_F16, mx = type->scale_dtype == FM_U8;
    for (int s = 0; s < w->n_strips; s++) {
        const uint8_t *strip = (const uint8_t *)w->matrix->data + (size_t)(w->first_strip + s) * w->strip_bytes;
        for (int i = 0; i < w->n_block_groups; i++) {
            int g = w->first_group + i;
            const uint8_t *at = strip + (size_t)(g / w->parts) * w->block_bytes, *words = at + (size_t)(g % w->parts) * w->words_bytes;
            int first = g - g % w->parts, parts = w->n_groups - first < w->parts ? w->n_groups - first : w->parts; /* mxfp4's last block may be smaller */
            const uint8_t *tail = at + (size_t)parts * w->words_bytes;
            for (size_t line = 0; line < w->words_bytes + 64; line += 64) _mm_prefetch((const char *)words + GROUPS * w->block_bytes + line, _MM_HINT_T1);
            m->tile[s][i] = type->width == 8 ? words : m->words[s][i];
            if (type->width < 8) take_apart(m->words[s][i], words, (int)(w->words_bytes / 64), type->width, mx);
            vf scale = mx ? f_load_e8m0(tail + 16 * (g % w->parts)) : f16 ? f_load_f16(tail) : f_load_bf16(tail);
            _mm512_store_ps(m->scale[s][i], scale);
            _mm512_store_ps(m->bias[s][i], mx ? f_mul(scale, f_set1(-12)) : f16 ? f_load_f16(tail + 32) : f_load_bf16(tail + 32));
        }
    }
}

/* The tile of n tokens from the block's token `first`: its bytes are at m->rows, m->row_bytes apart. Sums of rows past n are read by nobody. */
static void read_tokens(block *m, const work *w, int first, int n) {
    const size_t group = (size_t)w->x->group, cols = (size_t)w->x->cols, column = (size_t)w->first_group * group;
    const __mmask16 groups = (__mmask16)((1 << w->n_block_groups) - 1);
    const int32_t *tokens = w->tokens ? w->tokens + w->first_token + first : NULL;
    size_t start = (size_t)(tokens ? tokens[0] : w->first_token + first);
    bool straight = n == TILE;
    for (int t = 0; t < n; t++) {
        size_t token = tokens ? (size_t)tokens[t] : start + (size_t)t, at = token * (size_t)w->n_groups + (size_t)w->first_group;
        straight &= token == start + (size_t)t;
        _mm512_mask_storeu_ps(m->xs[t], groups, _mm512_maskz_loadu_ps(groups, w->x->scale + at));
        _mm512_mask_storeu_ps(m->sum[t], groups, _mm512_maskz_loadu_ps(groups, w->x->sum + at));
    }
    m->rows = straight ? w->x->q + start * cols + column : m->q[0];
    m->row_bytes = straight ? cols : sizeof m->q[0];
    for (int t = 0; t < n && !straight; t++) {
        memcpy(m->q[t], w->x->q + (tokens ? (size_t)tokens[t] : start + (size_t)t) * cols + column, (size_t)w->n_block_groups * group);
    }
}

/* gcc's tile intrinsics do not say that they read and write memory. */
#define MEMORY() __asm__ volatile("" ::: "memory")

#define TILE_PRODUCT(tile_c, tile_a, tile_b, rows, row_bytes, words, c)                                                                                        \
    do {                                                                                                                                                       \
        MEMORY();                                                                                                                                              \
        _tile_zero(tile_c);                                                                                                                                    \
        _tile_loadd(tile_a, rows, row_bytes);                                                                                                                  \
        _tile_loadd(tile_b, words, 64);                                                                                                                        \
        _tile_dpbsud(tile_c, tile_a, tile_b);                                                                                                                  \
        _tile_stored(tile_c, c, 64);                                                                                                                           \
        MEMORY();                                                                                                                                              \
    } while (0)

/* Of group g into c[g]. Tiles 0 and 1 hold sums, 2 and 3 tokens, 4 and 5 words. */
static inline void multiply_tile(block *m, int s, int g, int group) {
    if (g % 2) {
        TILE_PRODUCT(1, 3, 5, m->rows + g * group, m->row_bytes, m->tile[s][g], m->c[g]);
    } else {
        TILE_PRODUCT(0, 2, 4, m->rows + g * group, m->row_bytes, m->tile[s][g], m->c[g]);
    }
}

/* Adds the block's groups to the sums of nt tokens from `first` and strip s. */
static inline __attribute__((always_inline)) void add_groups(block *m, int s, int first, int n_groups, int group, const int nt) {
    __m512 sum[TILE];
#pragma GCC unroll 16
    for (int t = 0; t < nt; t++) sum[t] = _mm512_load_ps(m->a[s][first + t]);
    for (int g = 0; g < AHEAD && g < n_groups; g++) multiply_tile(m, s, g, group);
    for (int g = 0; g < n_groups; g++) {
        if (g + AHEAD < n_groups) multiply_tile(m, s, g + AHEAD, group);
        const int32_t(*c)[16] = m->c[g];
        __m512 scale = _mm512_load_ps(m->scale[s][g]);
#pragma GCC unroll 16
        for (int t = 0; t < nt; t++) {
            sum[t] = _mm512_fmadd_ps(_mm512_mul_ps(scale, _mm512_set1_ps(m->xs[t][g])), _mm512_cvtepi32_ps(_mm512_load_si512(c[t])), sum[t]);
        }
    }
#pragma GCC unroll 16
    for (int t = 0; t < nt; t++) _mm512_store_ps(m->a[s][first + t], sum[t]);
#pragma GCC unroll 16
    for (int t = 0; t < nt; t++) sum[t] = _mm512_load_ps(m->b[s][first + t]);
    for (int g = 0; g < n_groups; g++) {
        __m512 bias = _mm512_load_ps(m->bias[s][g]);
#pragma GCC unroll 16
        for (int t = 0; t < nt; t++) sum[t] = _mm512_fmadd_ps(bias, _mm512_set1_ps(m->sum[t][g]), sum[t]);
    }
#pragma GCC unroll 16
    for (int t = 0; t < nt; t++) _mm512_store_ps(m->b[s][first + t], sum[t]);
}

static void add_groups_16(block *m, int s, int first, int n_groups, int group) { add_groups(m, s, first, n_groups, group, 16); }
static void add_groups_8(block *m, int s, int first, int n_groups, int group) { add_groups(m, s, first, n_groups, group, 8); }

/* The strips and tokens of the block, over all groups. */
static void multiply_block(block *m, work *w, float *y, size_t ldy) {
    for (int s = 0; s < w->n_strips; s++) {
        memset(m->a[s], 0, sizeof m->a[s]);
        memset(m->b[s], 0, sizeof m->b[s]);
    }
    for (w->first_group = 0; w->first_group < w->n_groups; w->first_group += w->n_block_groups) {
        w->n_block_groups = w->n_groups - w->first_group < GROUPS ? w->n_groups - w->first_group : GROUPS;
        read_weights(m, w);
        for (int t = 0; t < w->n_tokens; t += TILE) {
            int n = w->n_tokens - t < TILE ? w->n_tokens - t : TILE;
            read_tokens(m, w, t, n);
            for (int s = 0; s < w->n_strips; s++) (n > 8 ? add_groups_16 : add_groups_8)(m, s, t, w->n_block_groups, w->x->group);
        }
    }
    for (int s = 0; s < w->n_strips; s++) {
        int row = 16 * (w->first_strip + s), n_rows = w->matrix->type.rows - row;
        __mmask16 rows = (__mmask16)(n_rows >= 16 ? 0xffff : (1 << n_rows) - 1);
        for (int t = 0; t < w->n_tokens; t++) {
            __m512 sum = _mm512_add_ps(_mm512_load_ps(m->a[s][t]), _mm512_load_ps(m->b[s][t]));
            _mm512_mask_storeu_ps(y + (size_t)(w->first_token + t) * ldy + row, rows, sum);
        }
    }
}

static void mul_r16_i8_amx(const fm_matrix *matrix, int first, int last, const fm_act8 *x, const int32_t *tokens, int n, float *y, size_t ldy) {
    if (n < FEWEST) {
        mul_r16_i8(matrix, first, last, x, tokens, n, y, ldy);
        return;
    }
    const fm_matrix_type *type = &matrix->type;
    work w = {.matrix = matrix, .x = x, .tokens = tokens, .n_groups = x->cols / x->group};
    w.parts = type->scale_dtype == FM_U8 ? FM_MX_GROUPS : type->group / x->group;
    w.words_bytes = (size_t)(x->group * type->width * 2);
    w.block_bytes = (size_t)w.parts * w.words_bytes + 64;
    w.strip_bytes = strip_bytes_of(type);
    tile_config config = {.palette = 1};
    for (int i = 0; i < 6; i++) {
        config.rows[i] = i < 4 ? TILE : (uint8_t)(x->group / 4);
        config.row_bytes[i] = i == 2 || i == 3 ? (uint16_t)x->group : 64;
    }
    _tile_loadconfig(&config);
    block m;
    memset(m.q, 0, sizeof m.q);
    memset(m.xs, 0, sizeof m.xs);
    memset(m.sum, 0, sizeof m.sum);
    for (w.first_strip = first; w.first_strip < last; w.first_strip += w.n_strips) {
        w.n_strips = last - w.first_strip < STRIPS ? last - w.first_strip : STRIPS;
        for (w.first_token = 0; w.first_token < n; w.first_token += w.n_tokens) {
            w.n_tokens = n - w.first_token < TOKENS ? n - w.first_token : TOKENS;
            multiply_block(&m, &w, y, ldy);
        }
    }
    _tile_release();
}

const fm_kernels fm_kernels_amx = KERNELS("amx", mul_r16_i8_amx);
