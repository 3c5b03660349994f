/* model/rope.c: see rope.h. Mathematics: transformers' modeling_rope_utils.py. */
#include "model/rope.h"

#include <math.h>

#include "base/math.h"

#define PI 3.14159265358979323846

/* The ramp of YaRN: 0 where a pair turns often enough within `original` positions to be left as it is, 1 where it is interpolated. */
static void ramp(const fm_description *d, double ends[2]) {
    const fm_rope *r = &d->rope;
    const double turns[2] = {r->beta_fast, r->beta_slow};
    for (int i = 0; i < 2; i++) ends[i] = d->rotary_dim * fm_log(r->original / (turns[i] * 2 * PI)) / (2 * fm_log(r->theta));
    if (r->truncate) {
        ends[0] = floor(ends[0]);
        ends[1] = ceil(ends[1]);
    }
    if (ends[0] < 0) ends[0] = 0;
    if (ends[1] > d->rotary_dim - 1) ends[1] = d->rotary_dim - 1;
    if (ends[0] == ends[1]) ends[1] += 0.001;
}

static float yarn(const fm_rope *r, const double ends[2], int i, float power) {
    float t = ((float)i - (float)ends[0]) / (float)(ends[1] - ends[0]);
    t = 1 - (t < 0 ? 0 : t > 1 ? 1 : t);
    return 1 / ((float)r->factor * power) * (1 - t) + 1 / power * t;
}

static float banded(const fm_rope *r, float frequency) {
    float length = (float)(2 * PI) / frequency, low = (float)(r->original / r->low), high = (float)(r->original / r->high);
    if (length < high) return frequency;
    if (length > low) return frequency / (float)r->factor;
    float smooth = ((float)r->original / length - (float)r->low) / (float)(r->high - r->low);
    return (1 - smooth) * frequency / (float)r->factor + smooth * frequency;
}

/* Theta, where a variant stretches it. */
static double base_of(const fm_description *d, int context) {
    const fm_rope *r = &d->rope;
    double exponent = d->rotary_dim > 2 ? (double)d->rotary_dim / (d->rotary_dim - 2) : 0, length = context > r->original ? context : r->original;
    if (r->type == FM_ROPE_NTK) return r->theta * fm_pow(r->factor, exponent);
    if (r->type == FM_ROPE_DYNAMIC) return r->theta * fm_pow(r->factor * length / r->original - (r->factor - 1), exponent);
    return r->theta;
}

void fm_rope_frequencies(const fm_description *d, int context, float *frequency, float *attention) {
    const fm_rope *r = &d->rope;
    bool is_long = r->type == FM_ROPE_LONG && context > r->original;
    const float *stretch = is_long ? r->long_factor : r->short_factor;
    double base = base_of(d, context), ends[2] = {0};
    if (r->type == FM_ROPE_YARN) ramp(d, ends);
    *attention = (float)(is_long ? r->attention_long : r->attention);
    for (int i = 0; i < d->rotary_dim / 2; i++) {
        float power = (float)fm_pow(base, (double)((float)(2 * i) / (float)d->rotary_dim));
        switch (r->type) {
        case FM_ROPE_LINEAR: frequency[i] = 1 / power / (float)r->factor; break;
        case FM_ROPE_YARN: frequency[i] = yarn(r, ends, i, power); break;
        case FM_ROPE_LONG: frequency[i] = 1 / (stretch[i] * power); break;
        case FM_ROPE_BANDED: frequency[i] = banded(r, 1 / power); break;
        default: frequency[i] = 1 / power;
        }
    }
}
