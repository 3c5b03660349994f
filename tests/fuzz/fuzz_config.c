/* tests/fuzz/fuzz_config.c: any bytes as config.json: every family reads them, and what it accepts is within the limits that the rest relies on. */
#include <assert.h>

#include <math.h>

#include "families/families.h"
#include "model/rope.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fm_config config;
    fm_error err;
    if (fm_config_parse(&config, (const char *)data, size, "config.json", &err) < 0) return 0;
    for (int i = 0; fm_families[i]; i++) {
        static fm_description d;
        d = (fm_description){0};
        err = (fm_error){0};
        if (fm_families[i]->describe(&d, &config, &err) < 0) {
            assert(err.code < 0 && err.message[0]);
            continue;
        }
        assert(d.vocab > 0 && d.hidden > 0 && d.n_layers > 0 && d.n_layers <= FM_MAX_LAYERS && d.top_k > 0 && d.top_k <= d.n_experts);
        assert(d.n_heads % d.n_kv_heads == 0 && d.head_dim <= FM_MAX_LATENT && d.rotary_dim <= d.head_dim && d.rotary_dim % 2 == 0);
        assert(d.shared_width >= 0 && d.dense_width >= 0 && (d.router.n_groups <= 1 || d.n_experts % d.router.n_groups == 0));
        assert(d.router.n_groups <= FM_MAX_GROUPS && (d.router.n_groups <= 1 || d.router.n_chosen * (d.n_experts / d.router.n_groups) >= d.top_k));
        float frequencies[FM_MAX_HEAD_DIM / 2], attention;
        fm_rope_frequencies(&d, 100000, frequencies, &attention);
        assert(isfinite(attention));
        for (int k = 0; k < d.rotary_dim / 2; k++) assert(isfinite(frequencies[k]) && frequencies[k] >= 0);
        fm_shape shape;
        for (int layer = -1; layer < d.n_layers; layer++) {
            for (int role = 0; role < FM_N_ROLES; role++) {
                bool has = fm_role_shape(&d, layer, (fm_role)role, &shape);
                assert(!has || (shape.rows > 0 && shape.cols > 0));
            }
        }
    }
    fm_config_close(&config);
    return 0;
}
