/* families/hunyuan_v1_moe.c: Hunyuan-A13B: norms of q and k after rope, theta stretched by a fixed alpha, a shared expert without a gate. Mathematics: transformers'
 * modeling_hunyuan_v1_moe.py (mlx-lm's does not renormalise, and always ties the head). HunYuan-Large is another architecture. */
#include "families/keys.h"
#include "families/names.h"
#include "model/family.h"

static const char *const not_done[] = {"use_cla", "use_mla", "mlp_bias", "group_limited_greedy", "position_embedding_xdrope", NULL};

static int describe(fm_description *d, const fm_config *config, fm_error *err) {
    const char *width = fm_config_get(config, "moe_intermediate_size") ? "moe_intermediate_size" : "intermediate_size";
    const fm_moe_keys moe = {.n_experts = "num_experts", .top_k = "moe_topk", .width = width};
    int rc, n_shared, width_shared;
    bool normed, shared;
    if ((rc = fm_keys_body(d, config, 1e-5, err)) < 0) return rc;
    if ((rc = fm_keys_attention(d, config, 0, err)) < 0) return rc;
    if ((rc = fm_keys_rope(d, config, 1e4, 1, err)) < 0) return rc;
    if ((rc = fm_keys_moe(d, config, &moe, err)) < 0) return rc;
    if ((rc = fm_keys_same(config, "num_shared_expert", 1, 0, 256, &n_shared, err)) < 0) return rc;
    if ((rc = fm_config_int(config, "intermediate_size", FM_REQUIRED, 1, 1 << 24, &width_shared, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "use_qk_norm", true, &normed, err)) < 0) return rc;
    if ((rc = fm_config_bool(config, "use_mixed_mlp_moe", true, &shared, err)) < 0) return rc;
    if ((rc = fm_keys_expect_false(config, not_done, err)) < 0) return rc;
    if ((rc = fm_keys_expect(config, "moe_layer_num_skipped", 0, err)) < 0) return rc;
    if ((rc = fm_config_expect_bool(config, "norm_topk_prob", true, err)) < 0) return rc;
    d->qk_norm = normed ? FM_QK_NORM_HEAD_AFTER_ROPE : FM_QK_NORM_NONE;
    d->router.renormalise = true;
    return fm_keys_shared(d, config, shared ? n_shared : 0, width_shared, err);
}

static const char *const names[FM_N_ROLES] = {FM_NAMES_BODY,
                                              FM_NAMES_PROJECTIONS,
                                              FM_NAMES_SHARED_PLAIN("mlp.shared_mlp"),
                                              [FM_Q_NORM] = "self_attn.query_layernorm",
                                              [FM_K_NORM] = "self_attn.key_layernorm",
                                              [FM_ROUTER] = "mlp.gate.wg"};

extern const fm_family fm_family_hunyuan_v1_moe;
const fm_family fm_family_hunyuan_v1_moe = {
    .name = "hunyuan_v1_moe",
    .architectures = (const char *const[]){"HunYuanMoEV1ForCausalLM", NULL},
    .model_types = (const char *const[]){"hunyuan_v1_moe", "hunyuan", NULL},
    .describe = describe,
    .prefixes = (const char *const[]){"model.", NULL},
    .heads = (const char *const[]){"lm_head", NULL},
    .names = names,
    .stacked_experts = FM_STACKED_EXPERTS,
    .fused_experts = FM_FUSED_EXPERTS,
    .each_expert = FM_EACH_EXPERT,
};
