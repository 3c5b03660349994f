/* prepare/quantise/strip.c: strips on any CPU, and which of its forms this one can run. */
#include <stddef.h>

#include "base/system.h"

#define FM_STRIP_NAME fm_strip_plain
#define FM_LANES 4
#include "prepare/quantise/body.h"

#if defined(__x86_64__)
extern fm_strip_fn fm_strip_avx2, fm_strip_avx512;

static int list(fm_strip_fn *out[3]) {
    fm_cpu_features f = fm_cpu_features_read();
    int n = 0;
    out[n++] = fm_strip_plain;
    if (f.avx2) out[n++] = fm_strip_avx2;
    if (f.avx2 && f.avx512) out[n++] = fm_strip_avx512;
    return n;
}
#else
static int list(fm_strip_fn *out[3]) {
    out[0] = fm_strip_plain;
    return 1;
}
#endif

fm_strip_fn *fm_strip_at(int i) {
    fm_strip_fn *all[3] = {NULL};
    return i < list(all) ? all[i] : NULL;
}

fm_strip_fn *fm_strip_best(void) {
    fm_strip_fn *chosen = fm_strip_plain;
    for (int i = 0; fm_strip_at(i); i++) chosen = fm_strip_at(i);
    return chosen;
}
