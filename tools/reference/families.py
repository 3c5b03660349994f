"""What the reference scripts know of each family beyond the Qwen ones: which of
transformers' models computes it, how its published names differ from that
model's, and how its router chooses, for the margins that golden cases keep."""

import re

import torch

# (published, transformers'), applied in order, either way round.
BLOCK = [(".block_sparse_moe.", ".mlp.")]
RENAMES = {
    "mixtral": BLOCK,
    "minimax_m2": BLOCK,
    "phimoe": [(".block_sparse_moe.gate.", ".mlp.router."), *BLOCK],
    "granitemoe": [(".input_linear.weight", ".experts.gate_up_proj"), (".output_linear.weight", ".experts.down_proj"),
                   (".router.layer.weight", ".router.weight")],
    "ernie4_5_moe": [(".mlp.moe_statics.", ".mlp.gate.moe_statics.")],
    "bailing_moe": [("model.word_embeddings.", "model.embed_tokens."), (".attention.dense.", ".self_attn.o_proj."),
                    (".attention.query_layernorm.", ".self_attn.q_norm."), (".attention.key_layernorm.", ".self_attn.k_norm."),
                    (".attention.query_key_value.", ".self_attn.qkv_proj."), (".mlp.gate.expert_bias", ".mlp.gate.e_score_correction_bias")],
}
# Names of the experts' gate, up and down, one by one.
LETTERS = ("w1", "w3", "w2")
EXPERT_NAMES = {"mixtral": LETTERS, "minimax_m2": LETTERS, "phimoe": LETTERS}
FUSED = {"granitemoe"}      # published with all experts of a layer in one tensor


def kind(config):
    """The family by the name that transformers gives it."""
    return {"hunyuan": "hunyuan_v1_moe", "kimi_k2": "deepseek_v3"}.get(config["model_type"], config["model_type"])


def count(config):
    for key in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"):
        if key in config:
            return config[key]


def top_k(config):
    for key in ("num_experts_per_tok", "moe_k", "moe_topk"):
        if key in config:
            return config[key]


def to_published(config, name):
    for published, ours in RENAMES.get(kind(config), []):
        name = name.replace(ours, published)
    return name


def from_published(config, name):
    if kind(config) == "bailing_moe":
        name = name.replace(".mlp.gate.gate_proj.", ".mlp.gate.")
    for published, ours in RENAMES.get(kind(config), []):
        name = name.replace(published, ours)
    return name


def split_qkv(named, config):
    """q, k and v of fused projections, in place."""
    for name in [n for n in named if ".qkv_proj." in n]:
        rows = [config["num_attention_heads"] * config["head_dim"]] + 2 * [config["num_key_value_heads"] * config["head_dim"]]
        for letter, x in zip("qkv", named.pop(name).split(rows)):
            named[name.replace("qkv_proj", f"{letter}_proj")] = x.contiguous()


def join_latent(named, config):
    """MLX's two parts of the latent's projection as the one that is published, in place."""
    for name in [n for n in named if n.endswith(".embed_q.weight")]:
        query, out = named.pop(name), named.pop(name.replace("embed_q", "unembed_out"))
        named[name.replace("embed_q", "kv_b_proj")] = torch.cat([query.transpose(1, 2), out], 1).flatten(0, 1)


def join_qkv(tensors):
    for name in [n for n in tensors if ".q_proj." in n]:
        parts = [tensors.pop(name.replace(".q_proj.", f".{x}_proj.")) for x in "qkv"]
        tensors[name.replace(".q_proj.", ".qkv_proj.")] = torch.cat(parts)


def complete(named, config):
    """What a snapshot may lack because it is nothing: ERNIE's bias, where the config says that there is none."""
    if kind(config) == "ernie4_5_moe" and not config["moe_use_aux_free"]:
        for name in [n for n in named if n.endswith("mlp.gate.weight")]:
            named[name.replace("gate.weight", "gate.moe_statics.e_score_correction_bias")] = torch.zeros(1, count(config))


def model_class(config):
    import transformers
    names = {"qwen3_5_moe": "Qwen3_5MoeForCausalLM", "qwen3_next": "Qwen3NextForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM",
             "qwen2_moe": "Qwen2MoeForCausalLM", "mixtral": "MixtralForCausalLM", "olmoe": "OlmoeForCausalLM", "granitemoe": "GraniteMoeForCausalLM",
             "glm4_moe": "Glm4MoeForCausalLM", "minimax_m2": "MiniMaxM2ForCausalLM", "phimoe": "PhimoeForCausalLM",
             "hunyuan_v1_moe": "HunYuanMoEV1ForCausalLM", "dots1": "Dots1ForCausalLM", "ernie4_5_moe": "Ernie4_5_MoeForCausalLM",
             "bailing_moe": "Glm4MoeForCausalLM", "deepseek_v2": "DeepseekV2ForCausalLM", "deepseek_v3": "DeepseekV3ForCausalLM",
             "glm4_moe_lite": "Glm4MoeLiteForCausalLM"}
    return getattr(transformers, names[kind(config)])


def settings(config):
    """The keys and model_type by which transformers makes the model."""
    text = dict(config.get("text_config", config))
    for key in ("quantization", "quantization_config", "architectures"):
        text.pop(key, None)
    model_type = text.pop("model_type")
    if kind(config) == "hunyuan_v1_moe":
        model_type = "hunyuan_v1_moe"
    if kind(config) == "deepseek_v3":
        model_type = "deepseek_v3"
    if kind(config) == "bailing_moe":       # the same body under other names
        model_type = "glm4_moe"
        text |= {"n_routed_experts": text["num_experts"], "n_shared_experts": text["num_shared_experts"], "attention_bias": text["use_qkv_bias"]}
        for key in ("num_experts", "num_shared_experts", "score_function"):
            text.pop(key, None)
    return model_type, text


def adjust(model, config):
    """Ling 1 scores by softmax and does not have GLM's bias."""
    if kind(config) != "bailing_moe" or config.get("score_function") == "sigmoid":
        return

    def forward(self, x):
        logits = torch.nn.functional.linear(x.reshape(-1, self.hidden_dim).float(), self.weight.float())
        weights, chosen = logits.softmax(-1).topk(self.top_k, dim=-1)
        if self.norm_topk_prob:
            weights = weights / weights.sum(-1, keepdim=True)
        return logits, weights, chosen

    for layer in model.model.layers:
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.forward = forward.__get__(layer.mlp.gate)
            del layer.mlp.gate.e_score_correction_bias


def router_of(layer):
    """The module that gives a layer's router logits, or None."""
    block = getattr(layer, "mlp", None) or layer.block_sparse_moe
    return getattr(block, "gate", None) or getattr(block, "router", None)


def choice(config, model, layer, logits):
    """What the experts of a layer are chosen by, and the smallest distance of a choice that comes before: between groups, or to sparsemixer's margin."""
    name, margin = kind(config), float("inf")
    if name == "phimoe":
        rest = logits.clone()
        for _ in range(2):
            best, index = rest.max(-1, keepdim=True)
            ratio = (best - logits) / logits.abs().clamp(min=best)
            margin = min(margin, (ratio - 2 * config["router_jitter_noise"])[rest > -torch.inf].abs().min().item())
            rest = rest.scatter(-1, index, -torch.inf)
        return logits, margin
    block = model.model.layers[layer].mlp if hasattr(model.model.layers[layer], "mlp") else None
    gate = getattr(block, "gate", None)
    bias = getattr(block, "e_score_correction_bias", getattr(gate, "e_score_correction_bias", None))
    if hasattr(gate, "moe_statics"):
        return logits.softmax(-1) + gate.moe_statics.e_score_correction_bias, margin
    if bias is None and not (name == "deepseek_v2" and config["topk_method"] == "group_limited_greedy"):
        return logits, margin
    scores, best_of = (logits.sigmoid() + bias, 2) if bias is not None else (logits, 1)
    groups, kept = config.get("n_group") or 1, config.get("topk_group") or 1
    if groups > 1:
        of_groups = scores.unflatten(-1, (groups, -1)).topk(best_of).values.sum(-1)
        ranked = of_groups.sort(-1, descending=True)
        if kept < groups:
            margin = (ranked.values[:, kept - 1] - ranked.values[:, kept]).min().item()
        mask = torch.zeros_like(of_groups, dtype=torch.bool).scatter(-1, ranked.indices[:, :kept], True)
        scores = scores.masked_fill(~mask.repeat_interleave(scores.shape[-1] // groups, -1), -torch.inf)
    return scores, margin
