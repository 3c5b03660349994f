/* snapshots/identity.c: which model, in which numbers, a state is of. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "model/rope.h"
#include "snapshots/state_file.h"

#define SAMPLE_BYTES 8192
#define MAX_SAMPLED 2048 /* tensors */

static void add_router(XXH3_state_t *hash, const fm_router *r) {
    const double numbers[] = {r->score,       r->bias,        r->n_groups,      r->n_chosen,      r->best_of,
                              r->renormalise, (double)r->add, (double)r->least, (double)r->scale, (double)r->margin};
    XXH3_128bits_update(hash, numbers, sizeof numbers);
}

/* Some kinds of rope depend on the length of the context: a state belongs to the frequencies, not to the numbers that they are made of. */
static void add_rope(XXH3_state_t *hash, const fm_description *d, int context) {
    float numbers[FM_MAX_HEAD_DIM / 2 + 1] = {0};
    fm_rope_frequencies(d, context, numbers, &numbers[FM_MAX_HEAD_DIM / 2]);
    XXH3_128bits_update(hash, numbers, sizeof numbers);
}

static void add_numbers(XXH3_state_t *hash, const fm_model *model, const fm_device_config *c) {
    const fm_description *d = &model->description;
    const double numbers[] = {FM_STATE_VERSION,
                              d->vocab,
                              d->hidden,
                              d->n_layers,
                              (double)d->norm_eps,
                              d->norm_stored_less_one,
                              d->tied_head,
                              d->n_heads,
                              d->n_kv_heads,
                              d->head_dim,
                              d->rotary_dim,
                              d->rope_adjacent,
                              (double)d->attention_scale,
                              (double)d->embedding_scale,
                              (double)d->residual_scale,
                              (double)d->clip_qkv,
                              d->norm,
                              d->query_gate,
                              d->qk_norm,
                              d->qkv_bias,
                              d->o_bias,
                              d->kv_rank,
                              d->q_rank,
                              d->nope_dim,
                              d->v_dim,
                              (double)d->latent_eps,
                              d->n_key_heads,
                              d->n_value_heads,
                              d->key_dim,
                              d->value_dim,
                              d->conv_taps,
                              d->grouped_projection,
                              d->n_experts,
                              d->top_k,
                              d->expert_width,
                              d->shared_gate,
                              d->shared_width,
                              d->dense_width,
                              model->mlx,
                              c->int8,
                              c->top_k,
                              c->kv};
    XXH3_128bits_update(hash, numbers, sizeof numbers);
    XXH3_128bits_update(hash, d->architecture, strlen(d->architecture) + 1);
    add_router(hash, &d->router);
    add_rope(hash, d, c->context);
    for (int i = 0; i < d->n_layers; i++) {
        const int32_t layer[3] = {(int32_t)d->layers[i].mixer, d->layers[i].moe, d->layers[i].window};
        XXH3_128bits_update(hash, layer, sizeof layer);
    }
}

static void add_tensor(XXH3_state_t *hash, const fm_tensor *t) {
    const uint64_t numbers[] = {t->dtype, (uint64_t)t->n_dims, t->bytes, t->stride};
    XXH3_128bits_update(hash, t->name, strlen(t->name) + 1);
    XXH3_128bits_update(hash, numbers, sizeof numbers);
    XXH3_128bits_update(hash, t->shape, (size_t)t->n_dims * sizeof *t->shape);
}

/* The first and last bytes of a tensor (of its first and last expert, if they are apart). */
static int add_sample(XXH3_state_t *hash, const fm_model *model, const fm_tensor *t, fm_error *err) {
    uint8_t bytes[SAMPLE_BYTES];
    uint64_t whole = t->stride && t->shape[0] ? t->bytes / t->shape[0] : t->bytes, n = whole < SAMPLE_BYTES ? whole : SAMPLE_BYTES;
    uint64_t last = t->offset + (t->stride && t->shape[0] ? t->stride * (t->shape[0] - 1) : 0) + whole - n;
    for (int i = 0; i < 2; i++) {
        int rc = fm_file_read(&model->tensors.files[t->file], bytes, (size_t)n, i ? last : t->offset, err);
        if (rc < 0) return rc;
        XXH3_128bits_update(hash, bytes, (size_t)n);
    }
    return 0;
}

static int add_file(XXH3_state_t *hash, const fm_file *file, fm_error *err) {
    struct stat st;
    if (fstat(file->fd, &st)) return fm_fail(err, FM_EIO, "%s: it cannot be looked at", file->path);
#if defined(__APPLE__)
    const uint64_t numbers[] = {(uint64_t)st.st_size, (uint64_t)st.st_mtimespec.tv_sec, (uint64_t)st.st_mtimespec.tv_nsec};
#else
    const uint64_t numbers[] = {(uint64_t)st.st_size, (uint64_t)st.st_mtim.tv_sec, (uint64_t)st.st_mtim.tv_nsec};
#endif
    XXH3_128bits_update(hash, numbers, sizeof numbers);
    return 0;
}

int fm_identity_of(fm_identity *out, const fm_model *model, const fm_device_config *config, bool files, fm_error *err) {
    XXH3_state_t *hash = XXH3_createState();
    const fm_tensors *t = &model->tensors;
    int rc = 0, step = t->n_tensors / MAX_SAMPLED + 1;
    if (!hash) return fm_fail(err, FM_ENOMEM, "no memory for a hash");
    XXH3_128bits_reset(hash);
    add_numbers(hash, model, config);
    for (int i = 0; i < t->n_tensors; i++) add_tensor(hash, &t->tensors[i]);
    for (int i = 0; i < t->n_tensors && rc == 0; i += step) rc = add_sample(hash, model, &t->tensors[i], err);
    for (int i = 0; model->pack && i < model->pack->n_layers; i++) {
        if (model->pack->layers[i].file >= 0) XXH3_128bits_update(hash, model->pack->layers[i].hashes, (size_t)model->description.n_experts * sizeof(uint64_t));
    }
    for (int i = 0; files && i < t->n_files && rc == 0; i++) rc = add_file(hash, &t->files[i], err);
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash));
    memcpy(out->bytes, canonical.digest, sizeof out->bytes);
    XXH3_freeState(hash);
    return rc;
}
