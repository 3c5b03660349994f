/* The elementary functions against libm's double: in units in the last place, or relative. */
#include "base/math.h"

#include <float.h>

#include "kernels_test.h"

static double worst, worst_at;

static void note(double error, double x) {
    if (!(error <= worst)) { /* NaN too */
        worst = error;
        worst_at = x;
    }
}

static double ulps(float got, double want) {
    if ((double)got == want) return 0;
    int e;
    frexp(want, &e);
    return fabs((double)got - want) / ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

static double relative(double got, double want) { return got == want ? 0 : fabs(got - want) / fabs(want); }

#define WORST(limit, what)                                                                                                                                     \
    do {                                                                                                                                                       \
        fprintf(stderr, "%-32s worst %.3g at %.17g\n", what, worst, worst_at);                                                                                 \
        CHECK(worst <= (limit), "%s: %g at %a", what, worst, worst_at);                                                                                        \
        worst = worst_at = 0;                                                                                                                                  \
    } while (0)

static float float_at(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void check_expf(void) {
    for (uint32_t i = 0; i < 0x42c00000; i += 1009) { /* up to 96, both signs */
        for (int sign = 0; sign < 2; sign++) {
            float x = float_at(i | (uint32_t)sign << 31), y = fm_expf(x);
            double want = exp((double)x);
            if (want > (double)FLT_MAX) {
                CHECK(y == INFINITY, "exp(%a) is %a", (double)x, (double)y);
            } else if (want < (double)FLT_MIN) {
                CHECK(y == 0, "exp(%a) is %a", (double)x, (double)y);
            } else {
                note(ulps(y, want), (double)x);
            }
        }
    }
    WORST(2, "expf, ulp");
    for (int i = -100; i < 100; i++) { /* around the ends */
        float low = FM_EXP_LOWEST, high = FM_EXP_HIGHEST;
        uint32_t bits;
        memcpy(&bits, i % 2 ? &low : &high, sizeof bits);
        float x = float_at(bits + (uint32_t)i);
        double want = exp((double)x);
        if (want >= (double)FLT_MIN && want <= (double)FLT_MAX) {
            note(ulps(fm_expf(x), want), (double)x);
        } else {
            CHECK(fm_expf(x) == (want < 1 ? 0 : INFINITY), "exp(%a) is %a", (double)x, (double)fm_expf(x));
        }
    }
    WORST(2, "expf at its ends, ulp");
    CHECK(fm_expf(0) == 1 && fm_expf(-0.0f) == 1, "exp(0)");
    CHECK(fm_expf(INFINITY) == INFINITY && fm_expf(-INFINITY) == 0 && isnan(fm_expf(NAN)), "special values");
}

static void check_floats(void) {
    for (int i = 0; i < 200000; i++) {
        float x = (float)(random_unit() * 60 - 30);
        note(ulps(fm_sigmoidf(x), 1 / (1 + exp(-(double)x))), (double)x);
    }
    WORST(3, "sigmoidf, ulp");
    for (int i = 0; i < 200000; i++) {
        float x = (float)(random_unit() * 200 - 87);
        note(ulps(fm_softplusf(x), x > 40 ? (double)x : log1p(exp((double)x))), (double)x);
    }
    WORST(0.51, "softplusf, ulp");
    CHECK(fm_softplusf(1000) == 1000 && fm_softplusf(-1000) == 0 && isnan(fm_softplusf(NAN)) && isnan(fm_sigmoidf(NAN)), "outside");
    CHECK(fm_sigmoidf(-200) == 0 && fm_sigmoidf(200) == 1 && fm_sigmoidf(0) == 0.5f, "sigmoid's ends");
}

static void check_doubles(void) {
    for (int i = 0; i < 300000; i++) {
        double x = random_unit() * 1400 - 700;
        note(relative(fm_exp(x), exp(x)), x);
    }
    WORST(1e-15, "exp, relative");
    for (int i = 0; i < 300000; i++) {
        double x = exp(random_unit() * 1400 - 700), near = 1 + (random_unit() - 0.5) * ldexp(1, -random_below(50));
        note(relative(fm_log(x), log(x)), x);
        note(relative(fm_log(near), log(near)), near);
    }
    WORST(1e-15, "log, relative");
    static const double bases[] = {10000, 500000, 1e6, 1e7, 1e8, 2, 0.5, 1.0001};
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++) {
        for (int i = 0; i < 20000; i++) {
            double e = i < 257 ? -2.0 * i / 256 : random_unit() * 3 - 1.5;
            if (fabs(e * log(bases[b])) > 30) continue;
            note(relative(fm_pow(bases[b], e), pow(bases[b], e)), e);
        }
    }
    WORST(1e-14, "pow, relative");
    CHECK(fm_pow(10000, 0) == 1 && fm_exp(0) == 1 && fm_log(1) == 0, "exact ones");
    CHECK(fm_exp(-800) == 0 && fm_exp(800) == INFINITY && isnan(fm_exp(NAN)) && fm_log(INFINITY) == INFINITY, "special values");
    CHECK(fm_log(0) == -INFINITY && isnan(fm_log(-1)) && isnan(fm_log(NAN)), "outside");
}

static void note_sincos(double x) {
    double s, c;
    fm_sincos(x, &s, &c);
    note(relative(s, sin(x)), x);
    note(relative(c, cos(x)), x);
}

static void check_sincos(void) {
    for (int i = 0; i < 300000; i++) note_sincos((random_unit() * 2 - 1) * ldexp(1e7, -random_below(40)));
    WORST(1e-14, "sincos, relative");
    for (int i = 0; i < 300000; i++) note_sincos((double)i * (i % 2 ? 33 : 1));
    WORST(1e-14, "sincos of integers, relative");
    for (int k = 1; k < 6300000; k += 61) { /* the doubles nearest to multiples of pi / 2 and to half of them */
        note_sincos((double)k * 0x1.921fb54442d18p+0);
        note_sincos(nextafter((double)k * 0x1.921fb54442d18p+0, 0));
        note_sincos((double)k * 0x1.921fb54442d18p-1);
    }
    WORST(1e-14, "sincos near multiples, relative");
    double s, c;
    fm_sincos(0, &s, &c);
    CHECK(s == 0 && c == 1, "at 0");
    fm_sincos(NAN, &s, &c);
    CHECK(isnan(s) && isnan(c), "at NaN");
}

int main(void) {
    check_expf();
    check_floats();
    check_doubles();
    check_sincos();
    return TEST_END();
}
