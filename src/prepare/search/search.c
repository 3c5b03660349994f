/* prepare/search/search.c: the search for any CPU, and which of its forms this one can run. */
#include <stddef.h>

#include "base/system.h"

#define FM_SEARCH_NAME fm_search_plain
#include "prepare/search/body.h"

#if defined(__x86_64__)
extern fm_search_fn fm_search_avx2, fm_search_avx512;

static int list(fm_search_fn *out[3]) {
    fm_cpu_features f = fm_cpu_features_read();
    int n = 0;
    out[n++] = fm_search_plain;
    if (f.avx2) out[n++] = fm_search_avx2;
    if (f.avx2 && f.avx512) out[n++] = fm_search_avx512;
    return n;
}
#else
static int list(fm_search_fn *out[3]) {
    out[0] = fm_search_plain;
    return 1;
}
#endif

fm_search_fn *fm_search_at(int i) {
    fm_search_fn *all[3] = {NULL};
    return i < list(all) ? all[i] : NULL;
}

fm_search_fn *fm_search_best(void) {
    fm_search_fn *chosen = fm_search_plain;
    for (int i = 0; fm_search_at(i); i++) chosen = fm_search_at(i);
    return chosen;
}
