/* base/math.c: the elementary functions, by argument reduction and a polynomial. Every product that is added is an fma, so that every compiler and CPU makes the
 * same roundings. Rounding to the nearest integer adds and subtracts 1.5 * 2^(mantissa bits): the low bits of the sum's bit pattern are then the integer. */
#include "base/math.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#define SHIFT 0x1.8p52

static uint32_t float_bits(float x) {
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static float float_of(uint32_t u) {
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static uint64_t double_bits(double x) {
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double double_of(uint64_t u) {
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* c[0] + c[1] x + … + c[n - 1] x^(n - 1) */
static double polynomial(const double *c, int n, double x) {
    double y = c[n - 1];
    for (int i = n - 2; i >= 0; i--) y = fma(y, x, c[i]);
    return y;
}

float fm_expf(float x) {
    if (x != x) return x;
    if (x < FM_EXP_LOWEST) return 0;
    if (x > FM_EXP_HIGHEST) return INFINITY;
    float shifted = fmaf(x, FM_EXP_LOG2E, FM_EXP_SHIFT), n = shifted - FM_EXP_SHIFT;
    float r = fmaf(n, -FM_EXP_LN2_LOW, fmaf(n, -FM_EXP_LN2_HIGH, x));
    float p = fmaf(FM_EXP_C7, r, FM_EXP_C6);
    p = fmaf(p, r, FM_EXP_C5);
    p = fmaf(p, r, FM_EXP_C4);
    p = fmaf(p, r, FM_EXP_C3);
    p = fmaf(p, r, FM_EXP_C2);
    p = fmaf(p, r * r, r) + 1;
    return float_of(float_bits(p) + (float_bits(shifted) << 23)); /* p * 2^n */
}

double fm_exp(double x) {
    static const double c[] = {1,          1,           1.0 / 2,      1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,
                               1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800};
    if (x != x) return x;
    if (x < -708.39) return 0;
    if (x > 709.78) return INFINITY;
    double shifted = fma(x, 0x1.71547652b82fep+0, SHIFT), n = shifted - SHIFT;
    double r = fma(n, -0x1.abc9e3b39803fp-56, fma(n, -0x1.62e42fefa39efp-1, x));
    return double_of(double_bits(polynomial(c, 14, r)) + (double_bits(shifted) << 52));
}

double fm_log(double x) {
    /* log m = 2 atanh(f), f = (m - 1) / (m + 1), for m in [sqrt(1/2), sqrt(2)) */
    static const double c[] = {2.0, 2.0 / 3, 2.0 / 5, 2.0 / 7, 2.0 / 9, 2.0 / 11, 2.0 / 13, 2.0 / 15, 2.0 / 17, 2.0 / 19, 2.0 / 21, 2.0 / 23};
    if (!(x > 0)) return x == 0 ? -INFINITY : NAN;
    if (x == INFINITY) return x;
    uint64_t bits = double_bits(x) + (0x3ff0000000000000u - 0x3fe6a09e667f3bcdu); /* so that the exponent changes at sqrt(1/2) */
    double n = (double)((int)(bits >> 52) - 1023), m = double_of((bits & 0xfffffffffffffu) + 0x3fe6a09e667f3bcdu);
    double f = (m - 1) / (m + 1);
    double y = f * polynomial(c, 12, f * f);
    return fma(n, 0x1.62e42fefa39efp-1, fma(n, 0x1.abc9e3b39803fp-56, y));
}

float fm_softplusf(float x) {
    if (x > 20) return x; /* the rest is below half a unit in the last place */
    double e = fm_exp((double)x), u = 1 + e;
    return (float)(u == 1 ? e : fm_log(u) * (e / (u - 1))); /* what rounding 1 + e took away is given back in proportion */
}
float fm_sigmoidf(float x) { return 1 / (1 + fm_expf(-x)); }

double fm_pow(double base, double exponent) { return fm_exp(exponent * fm_log(base)); }

void fm_sincos(double x, double *sine, double *cosine) {
    static const double s[] = {
        1, -1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
    static const double c[] = {1, -1.0 / 2, 1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000};
    double shifted = fma(x, 0x1.45f306dc9c883p-1, SHIFT), n = shifted - SHIFT;
    /* pi / 2 in three parts. */
    double r = fma(n, -0x1.921fb54442d18p+0, x);
    r = fma(n, -0x1.1a62633145c07p-54, r);
    r = fma(n, 0x1.f1976b7ed8fbcp-110, r);
    double rr = r * r, sin_r = r * polynomial(s, 9, rr), cos_r = polynomial(c, 9, rr);
    unsigned quadrant = (unsigned)double_bits(shifted) & 3;
    double a = quadrant & 1 ? cos_r : sin_r, b = quadrant & 1 ? sin_r : cos_r;
    *sine = quadrant & 2 ? -a : a;
    *cosine = (quadrant + 1) & 2 ? -b : b;
}
