/* families/keys_rope.c: the rotary embedding that config.json asks for. The keys and their defaults are those of transformers' modeling_rope_utils.py. */
#include <math.h>
#include <string.h>

#include "base/math.h"
#include "families/keys.h"

typedef struct rope_keys {
    const fm_config *config;
    const char *name; /* of the object */
    const json_t *in;
    fm_error *err;
} rope_keys;

/* A number in the object or, failing that, at the top. */
static int number(const rope_keys *k, const char *key, double fallback, double *out) {
    const json_t *v = json_object_get(k->in, key);
    if (!v || json_is_null(v)) return fm_config_double(k->config, key, fallback, out, k->err);
    *out = json_number_value(v);
    return json_is_number(v) ? 0 : fm_fail(k->err, FM_EFORMAT, "%s: %s in %s is not a number", k->config->path, key, k->name);
}

static int positive(const rope_keys *k, const char *key, double fallback, double *out) {
    int rc = number(k, key, fallback, out);
    if (rc < 0 || (*out > 0 && *out < 1e12)) return rc;
    return fm_fail(k->err, FM_EFORMAT, "%s: %s is %g", k->config->path, key, *out);
}

static int factors(const rope_keys *k, const char *key, int n, float *out) {
    const json_t *list = json_object_get(k->in, key);
    if (!json_is_array(list) || json_array_size(list) != (size_t)n) {
        return fm_fail(k->err, FM_EFORMAT, "%s: %s in %s is not a list of %d numbers", k->config->path, key, k->name, n);
    }
    for (int i = 0; i < n; i++) {
        out[i] = (float)json_number_value(json_array_get(list, (size_t)i));
        if (!(out[i] > 0)) return fm_fail(k->err, FM_EFORMAT, "%s: %s[%d] in %s is not a number above 0", k->config->path, key, i, k->name);
    }
    return 0;
}

/* What a length is multiplied with: the key factor, else the ratio of max_position_embeddings to the length that was trained. */
static int stretch(const rope_keys *k, fm_description *d) {
    fm_rope *r = &d->rope;
    /* The top has priority. */
    const json_t *top = fm_config_get(k->config, "original_max_position_embeddings");
    int rc = top ? fm_config_double(k->config, "original_max_position_embeddings", 0, &r->original, k->err)
                 : positive(k, "original_max_position_embeddings", d->max_position, &r->original);
    if (rc < 0) return rc;
    if (!(r->original > 1)) return fm_fail(k->err, FM_EFORMAT, "%s: original_max_position_embeddings is %g", k->config->path, r->original);
    return positive(k, "factor", d->max_position / r->original, &r->factor);
}

static double yarn_attention(double factor, double scale) { return factor <= 1 ? 1 : 0.1 * scale * fm_log(factor) + 1; }

static int yarn(const rope_keys *k, fm_description *d) {
    fm_rope *r = &d->rope;
    double mscale, all;
    int rc = stretch(k, d);
    if (rc < 0 || (rc = number(k, "mscale", 0, &mscale)) < 0 || (rc = number(k, "mscale_all_dim", 0, &all)) < 0) return rc;
    if ((rc = positive(k, "beta_fast", 32, &r->beta_fast)) < 0 || (rc = positive(k, "beta_slow", 1, &r->beta_slow)) < 0) return rc;
    r->truncate = !json_is_false(json_object_get(k->in, "truncate"));
    double attention = mscale != 0 && all != 0 ? yarn_attention(r->factor, mscale) / yarn_attention(r->factor, all) : yarn_attention(r->factor, 1);
    return positive(k, "attention_factor", attention, &r->attention);
}

static int longrope(const rope_keys *k, fm_description *d) {
    fm_rope *r = &d->rope;
    int n = d->rotary_dim / 2, rc = stretch(k, d);
    if (rc < 0 || (rc = factors(k, "short_factor", n, r->short_factor)) < 0 || (rc = factors(k, "long_factor", n, r->long_factor)) < 0) return rc;
    double attention = r->factor <= 1 ? 1 : sqrt(1 + fm_log(r->factor) / fm_log(r->original));
    if ((rc = positive(k, "attention_factor", attention, &attention)) < 0) return rc;
    if ((rc = positive(k, "short_mscale", attention, &r->attention)) < 0) return rc;
    return positive(k, "long_mscale", attention, &r->attention_long);
}

static int llama3(const rope_keys *k, fm_description *d) {
    fm_rope *r = &d->rope;
    int rc = stretch(k, d);
    if (rc < 0 || (rc = positive(k, "low_freq_factor", NAN, &r->low)) < 0 || (rc = positive(k, "high_freq_factor", NAN, &r->high)) < 0) return rc;
    return r->high > r->low ? 0 : fm_fail(k->err, FM_EFORMAT, "%s: high_freq_factor is %g and low_freq_factor %g", k->config->path, r->high, r->low);
}

/* Called dynamic, but with alpha it is a theta stretched once. */
static int dynamic(const rope_keys *k, fm_description *d) {
    const json_t *alpha = json_object_get(k->in, "alpha");
    bool ntk = alpha && !json_is_null(alpha);
    d->rope.type = ntk ? FM_ROPE_NTK : FM_ROPE_DYNAMIC;
    d->rope.original = d->max_position;
    if (d->rotary_dim <= 2)
        return fm_fail(k->err, FM_EFORMAT, "%s: %d rotary dimensions are too few for the rope of %s", k->config->path, d->rotary_dim, k->name);
    return positive(k, ntk ? "alpha" : "factor", NAN, &d->rope.factor);
}

static int linear(const rope_keys *k, fm_description *d) { return positive(k, "factor", NAN, &d->rope.factor); }
static int plain(const rope_keys *k, fm_description *d) {
    (void)k;
    (void)d;
    return 0;
}

static const struct {
    const char *name;
    fm_rope_type type;
    int (*read)(const rope_keys *, fm_description *);
} kinds[] = {{"default", FM_ROPE_DEFAULT, plain},   {"mrope", FM_ROPE_DEFAULT, plain}, {"linear", FM_ROPE_LINEAR, linear},
             {"dynamic", FM_ROPE_DYNAMIC, dynamic}, {"yarn", FM_ROPE_YARN, yarn},      {"longrope", FM_ROPE_LONG, longrope},
             {"su", FM_ROPE_LONG, longrope},        {"llama3", FM_ROPE_BANDED, llama3}};

int fm_keys_rope(fm_description *d, const fm_config *config, double default_theta, double default_fraction, fm_error *err) {
    rope_keys k = {.config = config, .name = "rope_parameters", .err = err};
    k.in = fm_config_get(config, k.name);
    if (!k.in) k.in = fm_config_get(config, k.name = "rope_scaling");
    const char *key;
    const json_t *value;
    json_object_foreach((json_t *)(uintptr_t)k.in, key, value) {
        if (json_is_object(value))
            return fm_fail(err, FM_EUNSUPPORTED, "%s: %s has a rope of its own for %s, which is not supported", config->path, k.name, key);
    }
    const json_t *type = json_object_get(k.in, "rope_type");
    if (!json_is_string(type)) type = json_object_get(k.in, "type");
    const char *name = json_is_string(type) ? json_string_value(type) : "default";
    if (!json_is_string(type) && json_object_get(k.in, "factor"))
        return fm_fail(err, FM_EUNSUPPORTED, "%s: %s has a factor without a type", config->path, k.name);
    size_t kind = 0, n_kinds = sizeof kinds / sizeof *kinds;
    while (kind < n_kinds && strcmp(kinds[kind].name, name)) kind++;
    if (kind == n_kinds) return fm_fail(err, FM_EUNSUPPORTED, "%s: %s asks for rope type %s, which is not supported", config->path, k.name, name);
    double fraction;
    int rc;
    if ((rc = number(&k, "rope_theta", default_theta, &d->rope.theta)) < 0 || (rc = number(&k, "partial_rotary_factor", default_fraction, &fraction)) < 0)
        return rc;
    if (!(d->rope.theta > 1 && d->rope.theta < 1e12)) return fm_fail(err, FM_EFORMAT, "%s: rope_theta is %g", config->path, d->rope.theta);
    if (!(fraction > 0 && fraction <= 1)) return fm_fail(err, FM_EFORMAT, "%s: partial_rotary_factor is %g", config->path, fraction);
    d->rotary_dim = (int)(d->head_dim * fraction);
    if (d->rotary_dim % 2 || !d->rotary_dim) return fm_fail(err, FM_EFORMAT, "%s: %d rotary dimensions, not an even number", config->path, d->rotary_dim);
    d->rope.type = kinds[kind].type;
    d->rope.attention = 1;
    return kinds[kind].read(&k, d);
}
