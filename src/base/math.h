/* base/math.h: the elementary functions of the computation, ours so that every CPU gives the same bits. No libm but sqrt. */
#ifndef FM_BASE_MATH_H
#define FM_BASE_MATH_H

/* exp(x) to within 2 units in the last place; 0 where it would be below FLT_MIN, infinity where it would be above FLT_MAX, NaN stays NaN. */
float fm_expf(float x);
/* log(1 + exp(x)) without overflow. */
float fm_softplusf(float x);
float fm_sigmoidf(float x); /* 1 / (1 + fm_expf(-x)) */

/* In double, rounded by the caller: for rope tables. Relative error below 1e-14 for |x| up to 1e7 in sin and cos, and for base > 0 and
 * |exponent * log(base)| up to 30 in pow. exp is 0 below -708.39 and infinity above 709.78; log of 0 is -infinity and of less NaN. */
double fm_exp(double x);
double fm_log(double x);
double fm_pow(double base, double exponent);
void fm_sincos(double x, double *sine, double *cosine);

/* fm_expf's constants, for the lanes of cpu/isa, which do its operations. n = x * LOG2E to the nearest integer (SHIFT is 1.5 * 2^23), r = x - n * ln 2 in two
 * parts, exp(r) = 1 + r + r^2 * (C2 + C3 r + ...): Cephes' coefficients. */
#define FM_EXP_LOWEST -0x1.5d589ep+6f
#define FM_EXP_HIGHEST 0x1.62e42ep+6f
#define FM_EXP_LOG2E 0x1.715476p+0f
#define FM_EXP_SHIFT 0x1.8p+23f
#define FM_EXP_LN2_HIGH 0.693359375f
#define FM_EXP_LN2_LOW -2.12194440e-4f
#define FM_EXP_C2 5.0000001201e-1f
#define FM_EXP_C3 1.6666665459e-1f
#define FM_EXP_C4 4.1665795894e-2f
#define FM_EXP_C5 8.3334519073e-3f
#define FM_EXP_C6 1.3981999507e-3f
#define FM_EXP_C7 1.9875691500e-4f

#endif
