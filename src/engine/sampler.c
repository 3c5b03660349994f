/* engine/sampler.c: from logits to a token: biases, penalties, temperature, top-k, min-p, top-p and the draw. It owns its copy of the options, the counts of
 * the tokens it was told of, and its random numbers; it knows nothing of sessions or text.
 *
 * A whole vocabulary is never sorted, and is passed over in blocks whose best logit is not good enough: top-k keeps the best k in a heap, top-p takes from a heap
 * until it has its mass. Of equal logits the lower id is the
 * better one, so that every answer is determined. */
#include <assert.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/math.h"

#define MAX_REPEAT_LAST (1 << 20)
#define MAX_BIAS 1e9f /* keeps logit + bias finite */
#define BLOCK 64      /* logits whose best one is looked at first */

typedef struct candidate {
    float logit;  /* after biases and penalties */
    float weight; /* its probability over that of the best one, after temperature */
    int32_t id;
} candidate;

struct fm_sampler {
    fm_sampling options; /* options.bias is a copy of our own */
    int vocab;
    candidate *candidates; /* [vocab] */
    float *adjusted;       /* [vocab] logits with biases and penalties; NULL: there are none */
    int32_t *counts;       /* [vocab] among the tokens that the penalties look at; NULL: no penalty */
    int32_t *recent;       /* [repeat_last] ring of those tokens; NULL: all are looked at */
    int n_recent, oldest;
    uint64_t random[4]; /* xoshiro256** */
};

/* ---- options ---- */

static int check_range(const char *name, double value, double least, double most, fm_error *err) {
    if (value >= least && value <= most) return 0; /* false for NaN */
    return fm_fail(err, FM_EINVAL, "%s is %.10g, but must be from %.10g to %.10g", name, value, least, most);
}

static int check_options(int vocab, const fm_sampling *s, fm_error *err) {
    int rc;

    if (vocab < 1) return fm_fail(err, FM_EINVAL, "a vocabulary of %d tokens cannot be sampled from", vocab);
    if ((rc = check_range("temperature", s->temperature, 0, 100, err)) < 0) return rc;
    if ((rc = check_range("top_k", s->top_k, 0, INT32_MAX, err)) < 0) return rc;
    if ((rc = check_range("top_p", s->top_p, 0, 1, err)) < 0) return rc;
    if ((rc = check_range("min_p", s->min_p, 0, 1, err)) < 0) return rc;
    if ((rc = check_range("repeat_penalty", s->repeat_penalty, 0.01f, 100, err)) < 0) return rc;
    if ((rc = check_range("presence_penalty", s->presence_penalty, -100, 100, err)) < 0) return rc;
    if ((rc = check_range("frequency_penalty", s->frequency_penalty, -100, 100, err)) < 0) return rc;
    if ((rc = check_range("repeat_last", s->repeat_last, -1, MAX_REPEAT_LAST, err)) < 0) return rc;
    if (s->n_bias < 0 || (s->n_bias > 0 && !s->bias)) return fm_fail(err, FM_EINVAL, "n_bias is %d, but bias does not point to that many", s->n_bias);
    for (int i = 0; i < s->n_bias; i++) {
        float bias = s->bias[i].bias;
        if (s->bias[i].id < 0 || s->bias[i].id >= vocab)
            return fm_fail(err, FM_EINVAL, "the logit bias is for token %" PRId32 ", but the vocabulary has %d tokens", s->bias[i].id, vocab);
        if (!(bias >= -MAX_BIAS && bias <= MAX_BIAS) && bias != -INFINITY)
            return fm_fail(err, FM_EINVAL, "the logit bias of token %" PRId32 " is %g, but must be from %g to %g, or minus infinity", s->bias[i].id,
                           (double)bias, (double)-MAX_BIAS, (double)MAX_BIAS);
    }
    return 0;
}

static bool has_penalty(const fm_sampling *s) {
    return s->repeat_last != 0 && (s->repeat_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0);
}

/* splitmix64, which turns any seed into a state that is not all zero. */
static void seed_random(uint64_t random[4], uint64_t seed) {
    for (int i = 0; i < 4; i++) {
        uint64_t z = (seed += 0x9e3779b97f4a7c15u);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        random[i] = z ^ (z >> 31);
    }
}

static uint64_t rotate_left(uint64_t x, int n) { return (x << n) | (x >> (64 - n)); }

/* The next number in [0, 1). */
static double next_random(uint64_t s[4]) {
    uint64_t x = rotate_left(s[1] * 5, 7) * 9, t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return (double)(x >> 11) * 0x1p-53;
}

int fm_sampler_open(fm_sampler **out, int vocab, const fm_sampling *sampling, fm_error *err) {
    fm_sampler *s;
    int rc;

    *out = NULL;
    if (sampling->size < sizeof *sampling)
        return fm_fail(err, FM_EINVAL, "fm_sampling.size is %zu, but must be %zu: FM_SAMPLING_INIT sets it", sampling->size, sizeof *sampling);
    if ((rc = check_options(vocab, sampling, err)) < 0) return rc;
    if (!(s = calloc(1, sizeof *s))) return fm_fail(err, FM_ENOMEM, "no memory for the sampler of %d tokens", vocab);
    s->options = *sampling;
    s->options.bias = NULL;
    s->vocab = vocab;
    seed_random(s->random, sampling->seed);
    if (!(s->candidates = malloc((size_t)vocab * sizeof *s->candidates))) goto fail;
    if ((has_penalty(sampling) || sampling->n_bias) && !(s->adjusted = malloc((size_t)vocab * sizeof *s->adjusted))) goto fail;
    if (has_penalty(sampling)) {
        if (!(s->counts = calloc((size_t)vocab, sizeof *s->counts))) goto fail;
        if (sampling->repeat_last > 0 && !(s->recent = malloc((size_t)sampling->repeat_last * sizeof *s->recent))) goto fail;
    }
    if (sampling->n_bias > 0) {
        size_t bytes = (size_t)sampling->n_bias * sizeof *sampling->bias;
        fm_logit_bias *bias = malloc(bytes);
        if (!bias) goto fail;
        s->options.bias = memcpy(bias, sampling->bias, bytes);
    }
    *out = s;
    return 0;

fail:
    fm_sampler_close(&s);
    return fm_fail(err, FM_ENOMEM, "no memory for the sampler of %d tokens", vocab);
}

void fm_sampler_close(fm_sampler **sampler) {
    fm_sampler *s = *sampler;

    if (!s) return;
    free((void *)s->options.bias);
    free(s->recent);
    free(s->counts);
    free(s->adjusted);
    free(s->candidates);
    free(s);
    *sampler = NULL;
}

void fm_sampler_feed(fm_sampler *s, int32_t id) {
    if (!s->counts || id < 0 || id >= s->vocab) return;
    if (s->recent) {
        if (s->n_recent == s->options.repeat_last) {
            s->counts[s->recent[s->oldest]]--;
            s->recent[s->oldest] = id;
            s->oldest = (s->oldest + 1) % s->options.repeat_last;
        } else {
            s->recent[s->n_recent++] = id;
        }
    }
    s->counts[id]++;
}

/* ---- the logits that count ---- */

/* The logits [vocab] with biases and penalties. */
static const float *adjust(fm_sampler *s, const float *logits /* [vocab] */) {
    const fm_sampling *o = &s->options;

    if (!s->adjusted) return logits;
    memcpy(s->adjusted, logits, (size_t)s->vocab * sizeof *logits);
    for (int i = 0; i < o->n_bias; i++) s->adjusted[o->bias[i].id] += o->bias[i].bias;
    for (int i = 0; i < s->vocab && s->counts; i++) {
        if (s->counts[i] == 0) continue;
        float x = s->adjusted[i];
        x = x > 0 ? x / o->repeat_penalty : x * o->repeat_penalty;
        x -= o->presence_penalty + (float)s->counts[i] * o->frequency_penalty;
        s->adjusted[i] = x < FLT_MAX ? x : FLT_MAX; /* the best one must stay finite */
    }
    return s->adjusted;
}

/* -inf is a ban and allowed; NaN and +inf come from a broken computation. */
static int check_logits(const float *logits, int vocab, fm_error *err) {
    int bad = 0;

    for (int i = 0; i < vocab; i++) bad |= !(logits[i] < INFINITY);
    for (int i = 0; i < vocab && bad; i++)
        if (!(logits[i] < INFINITY)) return fm_fail(err, FM_ENAN, "the logit of token %d is %s", i, isnan(logits[i]) ? "not a number" : "infinite");
    return 0;
}

/* The first of [from, vocab) with a logit above `bound`, as far as whole blocks without one can be skipped: a place to look from, or vocab. */
static int skip(const float *x, int from, int vocab, float bound) {
    while (vocab - from >= BLOCK) {
        int above = 0;
        for (int i = 0; i < BLOCK; i++) above |= x[from + i] > bound;
        if (above) return from;
        from += BLOCK;
    }
    return from;
}

static bool better(const candidate *a, const candidate *b) { return a->logit > b->logit || (a->logit == b->logit && a->id < b->id); }
static bool worse(const candidate *a, const candidate *b) { return better(b, a); }

/* The first of the best; -1 if all are banned. */
static int32_t best(const float *x, int n) {
    float most = -INFINITY;
    int32_t found = -1;

    for (int i = 0; (i = skip(x, i, n, most)) < n;) {
        for (int end = n - i < BLOCK ? n : i + BLOCK; i < end; i++) {
            if (x[i] > most) most = x[found = i];
        }
    }
    return found;
}

/* ---- heaps: `above(a, b)` says that a stands nearer to the root than b ---- */

typedef bool above_fn(const candidate *a, const candidate *b);

static void sink(candidate *heap, int n, int i, above_fn *above) {
    candidate x = heap[i];

    for (int child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && above(&heap[child + 1], &heap[child])) child++;
        if (!above(&heap[child], &x)) break;
        heap[i] = heap[child];
    }
    heap[i] = x;
}

static void make_heap(candidate *heap, int n, above_fn *above) {
    for (int i = n / 2 - 1; i >= 0; i--) sink(heap, n, i, above);
}

/* ---- filters: each returns how many candidates are left, at the front ---- */

/* Fills candidates with the k best that are not banned; k 0: with all. */
static int keep_top_k(const float *x, int vocab, int k, candidate *c) {
    int n = 0, i = 0;

    if (k == 0 || k > vocab) k = vocab;
    for (; i < vocab && n < k; i++)
        if (x[i] > -INFINITY) c[n++] = (candidate){.logit = x[i], .id = i};
    if (i == vocab) return n;
    make_heap(c, k, worse); /* the worst of the best k is the one to beat */
    while ((i = skip(x, i, vocab, c[0].logit)) < vocab) {
        for (int end = vocab - i < BLOCK ? vocab : i + BLOCK; i < end; i++) {
            if (!(x[i] > c[0].logit)) continue;
            c[0] = (candidate){.logit = x[i], .id = i};
            sink(c, k, 0, worse);
        }
    }
    return k;
}

/* Fills the weights; the best candidate's is 1, so min-p is a bound on them. A weight of 0 is below what a float can tell from never. */
static int keep_min_p(candidate *c, int n, float temperature, float min_p) {
    float most = c[0].logit;
    int kept = 0;

    for (int i = 1; i < n; i++)
        if (c[i].logit > most) most = c[i].logit;
    for (int i = 0; i < n; i++) {
        c[i].weight = fm_expf((c[i].logit - most) / temperature);
        if (c[i].weight > 0 && c[i].weight >= min_p) c[kept++] = c[i];
    }
    return kept;
}

static double sum_weights(const candidate *c, int n) {
    double sum = 0;

    for (int i = 0; i < n; i++) sum += (double)c[i].weight;
    return sum;
}

/* The smallest set of the best whose share of the sum is at least top_p. */
static int keep_top_p(candidate *c, int n, double top_p) {
    double total = sum_weights(c, n), mass = 0;
    int rest, likely = 0;

    if (top_p >= 1 || n == 1) return n;
    /* One below this bound cannot be needed: it and all after it together are less than 1 - top_p. The half leaves room for rounding. */
    double bound = 0.5 * (1 - top_p) * total / (n - 1);
    for (int i = 0; i < n; i++)
        if ((double)c[i].weight >= bound) c[likely++] = c[i];
    assert(likely > 0);
    rest = likely;
    make_heap(c, rest, better);
    do { /* the best goes to the end, as in a heap sort */
        candidate taken = c[0];
        c[0] = c[--rest];
        sink(c, rest, 0, better);
        c[rest] = taken;
        mass += (double)taken.weight;
    } while (rest > 0 && mass < top_p * total);
    memmove(c, c + rest, (size_t)(likely - rest) * sizeof *c);
    return likely - rest;
}

static int32_t draw(fm_sampler *s, int n) {
    const candidate *c = s->candidates;
    double left = next_random(s->random) * sum_weights(c, n);

    for (int i = 0; i < n - 1; i++) {
        left -= (double)c[i].weight;
        if (left < 0) return c[i].id;
    }
    return c[n - 1].id;
}

int32_t fm_sampler_choose(fm_sampler *s, const float *logits, fm_error *err) {
    const fm_sampling *o = &s->options;
    int rc, n = s->vocab;

    if ((rc = check_logits(logits, s->vocab, err)) < 0) return rc;
    logits = adjust(s, logits);
    if (o->temperature == 0 || o->top_k == 1) {
        int32_t id = best(logits, n);
        return id >= 0 ? id : fm_fail(err, FM_ENAN, "the logits of all %d tokens are minus infinity", s->vocab);
    }
    if ((n = keep_top_k(logits, n, o->top_k, s->candidates)) == 0) return fm_fail(err, FM_ENAN, "the logits of all %d tokens are minus infinity", s->vocab);
    n = keep_min_p(s->candidates, n, o->temperature, o->min_p);
    n = keep_top_p(s->candidates, n, (double)o->top_p);
    return draw(s, n);
}
