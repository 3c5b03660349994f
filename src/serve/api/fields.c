/* serve/api/fields.c: reading the fields of a request strictly. */
#include "serve/api/fields.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const json_t *field(const json_t *object, const char *name) {
    const json_t *value = json_object_get(object, name);
    return json_is_null(value) ? NULL : value;
}

static bool is_one_of(const json_t *value, const char *lines) {
    bool same = false;
    for (const char *line = lines; line && *line && !same; line += strcspn(line, "\n"), line += *line == '\n') {
        json_t *only = json_loadb(line, strcspn(line, "\n"), JSON_DECODE_ANY, NULL);
        same = json_equal((json_t *)value, only) || (json_is_number(value) && json_is_number(only) && json_number_value(value) == json_number_value(only));
        json_decref(only);
    }
    return same;
}

static int check_field(const char *name, const json_t *value, const fm_field *f, fm_refusal *why) {
    if (!f) return fm_deny(why, 400, name, "there is no field '%.60s'", name);
    if (json_is_null(value) || f->rule == FM_FIELD_USED || f->rule == FM_FIELD_ADVISORY) return 0;
    if (f->rule == FM_FIELD_REFUSED) return fm_deny(why, 400, name, "the field '%.60s' is not supported", name);
    if (is_one_of(value, f->only)) return 0;
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    fm_deny(why, 400, name, "the field '%.60s' is not supported with the value %.120s", name, text ? text : "given");
    free(text);
    return -1;
}

int fm_fields_check(const json_t *object, const fm_field *fields, int n, fm_refusal *why) {
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)object, name, value) {
        const fm_field *found = NULL;
        for (int i = 0; i < n && !found; i++)
            if (strcmp(fields[i].name, name) == 0) found = &fields[i];
        if (check_field(name, value, found, why) < 0) return -1;
    }
    return 0;
}

int fm_field_number(const json_t *object, const char *name, double least, double most, float *out, fm_refusal *why) {
    const json_t *value = field(object, name);
    if (!value) return 0;
    double number = json_number_value(value);
    if (!json_is_number(value)) return fm_deny(why, 400, name, "'%s' has to be a number", name);
    if (!(number >= least && number <= most)) return fm_deny(why, 400, name, "'%s' has to be between %g and %g, not %g", name, least, most, number);
    *out = (float)number;
    return 0;
}

int fm_field_int(const json_t *object, const char *name, int least, int most, int *out, fm_refusal *why) {
    const json_t *value = field(object, name);
    if (!value) return 0;
    double number = json_number_value(value);
    if (!json_is_number(value) || number != floor(number)) return fm_deny(why, 400, name, "'%s' has to be a whole number", name);
    if (!(number >= least && number <= most)) return fm_deny(why, 400, name, "'%s' has to be between %d and %d, not %.17g", name, least, most, number);
    *out = (int)number;
    return 0;
}

int fm_field_bool(const json_t *object, const char *name, bool *out, fm_refusal *why) {
    const json_t *value = field(object, name);
    if (!value) return 0;
    if (!json_is_boolean(value)) return fm_deny(why, 400, name, "'%s' has to be true or false", name);
    *out = json_is_true(value);
    return 0;
}

int fm_field_text(const json_t *object, const char *name, const char **out, fm_refusal *why) {
    const json_t *value = field(object, name);
    if (!value) return 0;
    if (!json_is_string(value)) return fm_deny(why, 400, name, "'%s' has to be a text", name);
    *out = json_string_value(value);
    return 0;
}

int fm_field_stops(fm_exchange *x, const char *name, const char *const **out, int *n, fm_refusal *why) {
    enum { MOST = 16 };
    const json_t *value = field(x->body, name);
    if (!value) return 0;
    int count = json_is_array(value) ? (int)json_array_size(value) : 1;
    if (count > MOST) return fm_deny(why, 400, name, "'%s' has %d texts, at most %d", name, count, MOST);
    const char **texts = fm_exchange_alloc(x, ((size_t)count + 1) * sizeof *texts);
    if (!texts) return fm_deny(why, 500, name, "there is no memory for '%s'", name);
    for (int i = 0; i < count; i++) {
        const json_t *item = json_is_array(value) ? json_array_get(value, (size_t)i) : value;
        if (!json_is_string(item)) return fm_deny(why, 400, name, "'%s' has to be a text, or a list of texts", name);
        if (json_string_length(item) == 0) return fm_deny(why, 400, name, "'%s' has an empty text", name);
        texts[i] = json_string_value(item);
    }
    *out = texts;
    *n = count;
    return 0;
}

/* {"ID": BIAS} of -100 … 100, behind the server's own. */
static int read_bias(fm_exchange *x, const char *name, fm_sampling *sampling, fm_refusal *why) {
    const json_t *value = field(x->body, name);
    const char *key;
    json_t *bias;
    if (!value) return 0;
    if (!json_is_object(value)) return fm_deny(why, 400, name, "'%s' has to be an object of token ids and numbers", name);
    size_t n = json_object_size(value) + (size_t)sampling->n_bias;
    fm_logit_bias *all = fm_exchange_alloc(x, (n + 1) * sizeof *all);
    if (!all) return fm_deny(why, 500, name, "there is no memory for '%s'", name);
    if (sampling->n_bias) memcpy(all, sampling->bias, (size_t)sampling->n_bias * sizeof *all);
    int at = sampling->n_bias;
    json_object_foreach((json_t *)value, key, bias) {
        char *end;
        long id = strtol(key, &end, 10);
        if (!*key || *end || id < 0 || id >= x->facts->vocab)
            return fm_deny(why, 400, name, "'%s' has '%.40s', which is no token of the %d", name, key, x->facts->vocab);
        double number = json_number_value(bias);
        if (!json_is_number(bias) || !(number >= -100 && number <= 100)) return fm_deny(why, 400, name, "'%s' of %ld has to be between -100 and 100", name, id);
        all[at++] = (fm_logit_bias){.id = (int32_t)id, .bias = (float)number};
    }
    sampling->bias = all;
    sampling->n_bias = at;
    return 0;
}

/* A whole number of any sign. */
static int read_seed(const json_t *object, const char *name, uint64_t *out, bool *given, fm_refusal *why) {
    const json_t *value = field(object, name);
    *given = value != NULL;
    if (!value) return 0;
    if (!json_is_integer(value)) return fm_deny(why, 400, name, "'%s' has to be a whole number", name);
    *out = (uint64_t)json_integer_value(value);
    return 0;
}

int fm_field_model(const fm_exchange *x, fm_refusal *why) {
    const char *model = NULL;
    if (fm_field_text(x->body, "model", &model, why) < 0) return -1;
    if (!x->facts->strict_model || (model && strcmp(model, x->facts->alias) == 0)) return 0;
    fm_deny(why, 404, "model", "there is no model '%.100s' here, but '%.100s'", model ? model : "", x->facts->alias);
    snprintf(why->code, sizeof why->code, "model_not_found");
    return -1;
}

static int read_penalties(const json_t *body, fm_sampling *s, fm_refusal *why) {
    const char *repeat = json_object_get(body, "repetition_penalty") ? "repetition_penalty" : "repeat_penalty";
    float before = s->presence_penalty + s->frequency_penalty;
    if (fm_field_number(body, "presence_penalty", -2, 2, &s->presence_penalty, why) < 0) return -1;
    if (fm_field_number(body, "frequency_penalty", -2, 2, &s->frequency_penalty, why) < 0) return -1;
    if (fm_field_number(body, repeat, 0.01, 100, &s->repeat_penalty, why) < 0) return -1;
    /* These two are about the whole text, as their names mean it. */
    if (s->presence_penalty + s->frequency_penalty != before && s->repeat_penalty == 1) s->repeat_last = -1;
    return 0;
}

int fm_fields_sampling(fm_exchange *x, fm_refusal *why) {
    fm_sampling *s = &x->jobs[0].sampling;
    bool seeded;
    if (fm_field_number(x->body, "temperature", 0, 2, &s->temperature, why) < 0) return -1;
    if (fm_field_number(x->body, "top_p", 0, 1, &s->top_p, why) < 0) return -1;
    if (fm_field_int(x->body, "top_k", -1, 1 << 30, &s->top_k, why) < 0) return -1;
    if (s->top_k < 0) s->top_k = 0; /* "off" in some clients' words */
    if (fm_field_number(x->body, "min_p", 0, 1, &s->min_p, why) < 0) return -1;
    if (read_penalties(x->body, s, why) < 0) return -1;
    if (read_bias(x, "logit_bias", s, why) < 0) return -1;
    if (read_seed(x->body, "seed", &s->seed, &seeded, why) < 0) return -1;
    for (int i = 1; i < x->n_jobs; i++) {
        uint64_t own = x->jobs[i].sampling.seed;
        x->jobs[i].sampling = *s;
        x->jobs[i].sampling.seed = seeded ? s->seed + (uint64_t)i : own;
    }
    return 0;
}

/* ---- what lies inside of fields ---- */

bool fm_is_given(const json_t *value) { return value && !json_is_null(value); }

int fm_denied_inside(const char *where, int rc, fm_refusal *why) {
    if (rc >= 0) return rc;
    const fm_refusal inner = *why;
    char param[sizeof why->param + 64];
    snprintf(param, sizeof param, "%.60s%s%s", where, *inner.param ? "." : "", inner.param);
    fm_deny(why, inner.status, param, "%s: %s", param, inner.message);
    memcpy(why->code, inner.code, sizeof why->code);
    return rc;
}

int fm_no_memory(fm_refusal *why) { return fm_deny(why, 500, NULL, "there is no memory for this request"); }

bool fm_has_tool(const json_t *tools, const char *name) {
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const char *its = fm_member_text(json_object_get(json_array_get(tools, i), "function"), "name");
        if (!*name || (its && !strcmp(its, name))) return true;
    }
    return false;
}

const char *fm_member_text(const json_t *object, const char *member) { return json_string_value(json_object_get(object, member)); }
