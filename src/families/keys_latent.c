/* families/keys_latent.c: the keys of latent attention. Their meaning is that of transformers' modeling_deepseek_v3.py, and so is the epsilon of the latents' norms, which
 * no key changes. */
#include <math.h>

#include "base/math.h"
#include "families/keys.h"

#define LATENT_EPS 1e-6f

/* null: queries have no latent; a key that is absent says nothing. */
static int query_rank(fm_description *d, const fm_config *config, fm_error *err) {
    if (json_is_null(json_object_get(config->text, "q_lora_rank"))) {
        d->q_rank = 0;
        return 0;
    }
    return fm_config_int(config, "q_lora_rank", FM_REQUIRED, 1, 1 << 20, &d->q_rank, err);
}

/* With a rope that scales lengths, mscale_all_dim is in the products of queries and keys twice. */
static int scale(fm_description *d, const fm_config *config, fm_error *err) {
    const json_t *rope = fm_config_get(config, "rope_parameters");
    if (!rope) rope = fm_config_get(config, "rope_scaling");
    const json_t *all = json_object_get(rope, "mscale_all_dim");
    d->attention_scale = 1 / sqrtf((float)(d->nope_dim + d->rotary_dim));
    if (!all || json_is_null(all) || d->rope.type == FM_ROPE_DEFAULT) return 0;
    if (!json_is_number(all)) return fm_fail(err, FM_EFORMAT, "%s: mscale_all_dim is not a number", config->path);
    double m = json_number_value(all), s = m != 0 && d->rope.factor > 1 ? 0.1 * m * fm_log(d->rope.factor) + 1 : 1;
    if (!(s > 0 && s < 100)) return fm_fail(err, FM_EFORMAT, "%s: mscale_all_dim is %g", config->path, m);
    d->attention_scale = (float)(s * s / sqrt((double)(d->nope_dim + d->rotary_dim)));
    return 0;
}

int fm_keys_latent(fm_description *d, const fm_config *config, double default_theta, fm_error *err) {
    int rc, rotary, kv_heads;
    if ((rc = fm_config_int(config, "num_attention_heads", FM_REQUIRED, 1, 4096, &d->n_heads, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "num_key_value_heads", d->n_heads, 1, 4096, &kv_heads, err)) < 0) return rc;
    if ((rc = query_rank(d, config, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "kv_lora_rank", FM_REQUIRED, 16, FM_MAX_LATENT, &d->kv_rank, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "qk_nope_head_dim", FM_REQUIRED, 1, FM_MAX_HEAD_DIM, &d->nope_dim, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "qk_rope_head_dim", FM_REQUIRED, 2, FM_MAX_HEAD_DIM, &rotary, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "v_head_dim", FM_REQUIRED, 16, FM_MAX_HEAD_DIM, &d->v_dim, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "rope_interleave", true, &d->rope_adjacent, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "attention_bias", false, err)) < 0) return rc;
    if (kv_heads != d->n_heads)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: num_key_value_heads is %d, and latent attention has as many as heads, %d", config->path, kv_heads,
                       d->n_heads);
    if (d->kv_rank % 16 || d->v_dim % 16)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: kv_lora_rank %d or v_head_dim %d is not a multiple of 16", config->path, d->kv_rank, d->v_dim);
    if (d->kv_rank + rotary > FM_MAX_LATENT) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: kv_lora_rank %d and qk_rope_head_dim %d are more than %d together", config->path, d->kv_rank, rotary,
                       FM_MAX_LATENT);
    }
    d->head_dim = rotary;
    if ((rc = fm_keys_rope(d, config, default_theta, 1, err)) < 0) return rc;
    if (d->rotary_dim != rotary) return fm_fail(err, FM_EUNSUPPORTED, "%s: partial_rotary_factor is for part of qk_rope_head_dim, %d", config->path, rotary);
    d->head_dim = d->kv_rank + rotary;
    d->n_kv_heads = 1;
    d->latent_eps = LATENT_EPS;
    return scale(d, config, err);
}
