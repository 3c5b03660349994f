/* cpu/isa/dispatch.c: which tables this CPU can run. The only place that knows all instruction sets. */
#include <stdio.h>
#include <string.h>

#include "cpu/isa/kernels.h"

#define MAX_TABLES 5

#if defined(__x86_64__)
extern const fm_kernels fm_kernels_avx2, fm_kernels_avxvnni, fm_kernels_avx512, fm_kernels_amx;

static int add_tables(const fm_kernels **list, const fm_cpu_features *f) {
    int n = 0;
    if (f->avx2 && f->fma && f->f16c) list[n++] = &fm_kernels_avx2;
    if (n && f->avx_vnni) list[n++] = &fm_kernels_avxvnni;
    if (n && f->avx512_vnni) list[n++] = &fm_kernels_avx512;
    if (n && f->avx512_vnni && f->amx_int8) list[n++] = &fm_kernels_amx;
    return n;
}
#elif defined(__aarch64__)
extern const fm_kernels fm_kernels_neon, fm_kernels_i8mm;

static int add_tables(const fm_kernels **list, const fm_cpu_features *f) {
    int n = 0;
    if (f->neon && f->dotprod) list[n++] = &fm_kernels_neon;
    if (n && f->i8mm) list[n++] = &fm_kernels_i8mm;
    return n;
}
#else
static int add_tables(const fm_kernels **list, const fm_cpu_features *f) {
    (void)list;
    (void)f;
    return 0;
}
#endif

int fm_kernels_list(const fm_kernels **list, int max) {
    const fm_kernels *all[MAX_TABLES] = {&fm_kernels_scalar};
    fm_cpu_features features = fm_cpu_features_read();
    int n = 1 + add_tables(all + 1, &features);
    if (n > max) n = max;
    for (int i = 0; i < n; i++) list[i] = all[i];
    return n;
}

const fm_kernels *fm_kernels_find(const char *name, fm_error *err) {
    const fm_kernels *all[MAX_TABLES];
    char names[80] = "";
    int n = fm_kernels_list(all, MAX_TABLES);
    if (!name || !*name) return all[n - 1];
    for (int i = 0; i < n; i++) {
        if (!strcmp(all[i]->name, name)) return all[i];
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", all[i]->name);
    }
    fm_fail(err, FM_EINVAL, "kernels \"%s\": this CPU has %s", name, names);
    return NULL;
}
