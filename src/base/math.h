/* base/math.h: the elementary functions of the computation, ours so that every CPU gives the same bits. No libm but sqrt. */
#ifndef FM_BASE_MATH_H
#define FM_BASE_MATH_H

/* exp(x) to within 2 units in the last place; below -87.33 it is 0, above 88.72 infinity, NaN stays NaN. The lanes of cpu/isa do the same operations. */
float fm_expf(float x);
/* log1p(x) for x > -1, and log(1 + exp(x)) without overflow. */
float fm_log1pf(float x);
float fm_softplusf(float x);
float fm_sigmoidf(float x); /* 1 / (1 + fm_expf(-x)) */
float fm_logf(float x);     /* x > 0 */

/* In double, rounded by the caller: for rope tables. |x| up to 1e7 for sin and cos; base > 0 for pow. Relative error below 1e-14. */
double fm_exp(double x);
double fm_log(double x);
double fm_pow(double base, double exponent);
void fm_sincos(double x, double *sine, double *cosine);

#endif
