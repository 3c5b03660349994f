/* prepare/quantise/body.h: a strip, for whoever includes it with FM_STRIP_NAME and FM_LANES: FM_LANES rows after the other, their weights in lanes, then group by group a scale
 * and a bias, values, what is lost. */
#include "prepare/quantise/search.h"
#include "prepare/quantise/strip.h"

#define MAX_GROUP 128 /* and what is looked at at once: whole groups of the source and of what is made */

/* ---- weights ---- */

INLINE void load_halves(const uint8_t *at, bool f16, lanes *x) {
    halves h;
    memcpy(&h, at, sizeof h);
    *x = (lanes)(__builtin_convertvector(h, words) << 16);
    for (int l = 0; l < FM_LANES && f16; l++) (*x)[l] = fm_from_f16(h[l]);
}

/* Columns [first, first + n) of rows row, row + 1… of a strip of blocks, as the engine would compute with them. */
INLINE void load_blocks(const fm_strip *s, int row, int first, int n, int width, lanes *w) {
    const int per_word = 32 / width, columns = s->from_group, n_words = columns / per_word;
    const size_t block_bytes = (size_t)n_words * 64 + 64;
    const words mask = (words){0} + ((1u << width) - 1);
    const uint8_t *block = s->blocks + (size_t)(first / columns) * block_bytes;
    for (int c = 0; c < n; c += columns, block += block_bytes) {
        const uint8_t *from = block + row * 4, *tail = block + n_words * 64 + row * 2;
        lanes scale, bias;
        load_halves(tail, s->from_f16, &scale);
        load_halves(tail + 32, s->from_f16, &bias);
        for (int i = 0; i < n_words; i++, w += per_word) {
            words x;
            memcpy(&x, from + i * 64, sizeof x);
            for (int k = 0; k < per_word; k++) w[k] = __builtin_convertvector((masks)(x >> (k * width) & mask), lanes) * scale + bias;
        }
    }
}

/* One step of a transposition of FM_LANES rows: blocks of `step` columns change places. */
#define UPPER(l, step) ((l) & (step) ? FM_LANES + (l) - (step) : (l))
#define LOWER(l, step) ((l) & (step) ? FM_LANES + (l) : (l) + (step))
#define INDEX4(F, l, s) F(l, s), F((l) + 1, s), F((l) + 2, s), F((l) + 3, s)
#if FM_LANES == 4
#define INDEX(F, s) INDEX4(F, 0, s)
#elif FM_LANES == 8
#define INDEX(F, s) INDEX4(F, 0, s), INDEX4(F, 4, s)
#else
#define INDEX(F, s) INDEX4(F, 0, s), INDEX4(F, 4, s), INDEX4(F, 8, s), INDEX4(F, 12, s)
#endif
#define TRANSPOSE(x, s)                                                                                                                                        \
    for (int i = 0; i < FM_LANES; i++) {                                                                                                                       \
        if (i & (s)) continue;                                                                                                                                 \
        lanes a = (x)[i], b = (x)[i + (s)];                                                                                                                    \
        (x)[i] = __builtin_shufflevector(a, b, INDEX(UPPER, s));                                                                                               \
        (x)[i + (s)] = __builtin_shufflevector(a, b, INDEX(LOWER, s));                                                                                         \
    }

/* The same of rows; those that there are not are 0. */
INLINE void load_rows(const fm_strip *s, int row, int first, int n, lanes *w) {
    for (int c = 0; c < n; c += FM_LANES, w += FM_LANES) {
        for (int r = 0; r < FM_LANES; r++) {
            w[r] = (lanes){0};
            if (row + r < s->n_rows) memcpy(&w[r], s->rows + (size_t)(row + r) * (size_t)s->cols + first + c, sizeof w[r]);
        }
#if FM_LANES > 8
        TRANSPOSE(w, 8)
#endif
#if FM_LANES > 4
        TRANSPOSE(w, 4)
#endif
        TRANSPOSE(w, 2)
        TRANSPOSE(w, 1)
    }
}

INLINE void load(const fm_strip *s, int row, int first, int n, lanes *w) {
    if (s->rows)
        load_rows(s, row, first, n, w);
    else if (s->from_width == 2)
        load_blocks(s, row, first, n, 2, w);
    else if (s->from_width == 4)
        load_blocks(s, row, first, n, 4, w);
    else
        load_blocks(s, row, first, n, 8, w);
}

/* ---- what becomes of them ---- */

typedef struct made {  /* of a group */
    lanes scale, bias; /* the values are made from these where the search found nothing better */
    best b;            /* what is stored, and what the values are made from where it did */
} made;

/* The values of column i. searched is a constant wherever this is put in. */
INLINE void make_values(const group *g, const made *m, int i, bool searched, const lanes *inverse, lanes *q) {
    *q = (g->w[i] - m->bias) / m->scale;
    if (searched) *q = PICK(m->b.found, (g->w[i] - m->b.bias) * *inverse, *q);
    round_whole(q, g->n_bins);
}

INLINE void make(const group *g, made *m, bool searched) {
    const lanes infinite = (lanes)((masks){0} + 0x7f800000), none = {0};
    lanes error = {0};
    rule(g, &m->scale, &m->bias);
    m->b = (best){.scale = m->scale, .bias = m->bias};
    round_half(&m->b.scale, g->f16);
    round_half(&m->b.bias, g->f16);
    if (!searched) return;
    for (int i = 0; i < g->n; i++) {
        lanes q, d;
        make_values(g, m, i, false, &none, &q);
        d = g->w[i] - (q * m->b.scale + m->b.bias);
        error += d * d * g->p[i];
    }
    m->b.error = PICK(error < infinite, error, none); /* what has no error that is a number, has no better one */
    search(g, &m->b);
}

INLINE void store_halves(const lanes *x, bool f16, const masks *rows, uint8_t *out) {
    halves h = __builtin_convertvector((words)*x >> 16, halves);
    for (int l = 0; l < FM_LANES && f16; l++) h[l] = fm_to_f16((*x)[l]);
    h &= __builtin_convertvector(*rows, halves);
    memcpy(out, &h, sizeof h);
}

/* One group as pack.h has it, of the rows that there are, and what was lost: the sums of a group in float, those of a strip in double. */
INLINE void store(const group *g, const made *m, bool searched, const masks *rows, uint8_t *out, uint8_t *tail, doubles lost[FM_STRIP_SUMS]) {
    const lanes scale = m->b.scale, bias = m->b.bias, inverse = 1.0F / scale;
    lanes error = {0}, before = {0}, after = {0}, product = {0};
    words word = {0};
    int at = 0;
    for (int i = 0; i < g->n; i++) {
        lanes q, w = g->w[i], v, d;
        make_values(g, m, i, searched, &inverse, &q);
        v = q * scale + bias;
        d = w - v;
        words x = (words) __builtin_convertvector(q, masks) & (words)*rows;
        error += d * d;
        before += w * w;
        after += v * v;
        product += w * v;
        word |= x << at;
        at += g->bits;
        if (at < 32) continue;
        memcpy(out, &word, sizeof word);
        out += 64;
        at -= 32;
        word = at ? x >> (g->bits - at) : (words){0};
    }
    store_halves(&scale, g->f16, rows, tail);
    store_halves(&bias, g->f16, rows, tail + 32);
    lost[0] += __builtin_convertvector(error, doubles);
    lost[1] += __builtin_convertvector(before, doubles);
    lost[2] += __builtin_convertvector(after, doubles);
    lost[3] += __builtin_convertvector(product, doubles);
}

/* A group's words lie at out, its scales at tail. */
INLINE void one_group(const fm_strip *s, group *g, const masks *rows, uint8_t *out, uint8_t *tail, doubles lost[FM_STRIP_SUMS], masks *good) {
    made m;
    find_range(g);
    if (s->search) {
        make(g, &m, true);
        store(g, &m, true, rows, out, tail, lost);
    } else {
        make(g, &m, false);
        store(g, &m, false, rows, out, tail, lost);
    }
    *good &= (m.scale - m.scale == 0) & (m.bias - m.bias == 0) & (m.b.scale - m.b.scale == 0) & (m.b.bias - m.b.bias == 0);
}

/* FM_LANES rows from `row` on. */
static void do_rows(fm_strip *s, int row) {
    lanes w[MAX_GROUP];
    float same[MAX_GROUP];
    doubles lost[FM_STRIP_SUMS] = {0};
    masks rows, good = (masks){0} - 1;
    const size_t words_bytes = (size_t)(s->group * s->bits / 32) * 64;
    uint8_t *block = s->out;
    for (int l = 0; l < FM_LANES; l++) rows[l] = row + l < s->n_rows ? -1 : 0;
    for (int i = 0; i < MAX_GROUP; i++) same[i] = 1;
    for (int first = 0; first < s->cols; first += MAX_GROUP) {
        int n = s->cols - first < MAX_GROUP ? s->cols - first : MAX_GROUP;
        load(s, row, first, n, w);
        for (int i = 0; i < n; i += s->group, block += words_bytes + 64) {
            group g = {.n = s->group,
                       .bits = s->bits,
                       .w = w + i,
                       .p = s->importance ? s->importance + first + i : same,
                       .n_bins = (float)((1 << s->bits) - 1),
                       .f16 = s->f16};
            one_group(s, &g, &rows, block + row * 4, block + words_bytes + row * 2, lost, &good);
        }
    }
    for (int l = 0; l < FM_LANES && row + l < s->n_rows; l++) {
        for (int i = 0; i < FM_STRIP_SUMS; i++) s->sums[i] += lost[i][l];
        if (!good[l] && s->bad < 0) s->bad = row + l;
    }
}

void FM_STRIP_NAME(fm_strip *s);
void FM_STRIP_NAME(fm_strip *s) {
    s->bad = -1;
    memset(s->sums, 0, sizeof s->sums);
    for (int row = 0; row < FM_STRIP; row += FM_LANES) do_rows(s, row);
}
