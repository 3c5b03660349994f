/* tests/fuzz/fuzz_profile.c: any bytes as a profile, ours or an older program's: what is accepted has finite numbers of its sizes. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "formats/profile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_columns(const fm_profile *p) {
    const struct fm_profile_columns *c = p->columns;
    for (int i = 0; i < c->n_head; i++) assert(c->head[i] >= 0 && isfinite(c->head[i]));
    for (int layer = 0; layer < p->n_layers; layer++) {
        for (int k = 0; k < FM_N_COLUMNS; k++) {
            for (int i = 0; i < c->n[layer][k]; i++) assert(c->square[layer][k][i] >= 0 && isfinite(c->square[layer][k][i]));
        }
    }
}

static void check(const fm_profile *p) {
    size_t n = (size_t)p->n_layers * (size_t)p->n_experts;
    assert(p->n_layers > 0 && p->n_experts > 0 && p->n_kinds > 0 && strlen(p->model_type) < sizeof p->model_type);
    assert(p->older || (p->top_k > 0 && p->top_k <= p->n_experts));
    for (int k = 0; k < p->n_kinds; k++) {
        assert(p->kinds[k].name[0] && strlen(p->kinds[k].name) < sizeof p->kinds[k].name);
        for (size_t i = 0; i < n; i++) {
            assert(p->kinds[k].uses[i] >= 0 && isfinite(p->kinds[k].uses[i]) && p->kinds[k].uses[i] == floor(p->kinds[k].uses[i]));
            assert(p->kinds[k].weights[i] >= 0 && isfinite(p->kinds[k].weights[i]));
        }
        double overlap = fm_profile_overlap(p, 0, k);
        assert(overlap >= 0 && overlap <= 1 + 1e-9);
    }
    int few = fm_profile_needed(p, FM_PROFILE_ALL, FM_PROFILE_ALL, 0.5), all = fm_profile_needed(p, FM_PROFILE_ALL, FM_PROFILE_ALL, 1);
    assert(few >= 0 && few <= all && all <= (int)n);
    if (p->columns) check_columns(p);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fm_profile *p = NULL;
    fm_error err = {0};
    int rc = fm_profile_parse(&p, "x.json", (const char *)data, size, &err);
    if (rc < 0)
        assert(err.code == rc && err.message[0] && !p);
    else
        check(p);
    fm_profile_close(&p);
    return 0;
}
