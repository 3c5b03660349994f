/* measure/trace.c: reading a recorded routing. Nothing in the file is believed: the hash comes first, and then every number all the same. */
#include "measure/trace.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "formats/json.h"
#include "model/description.h"

#define FILE_LIMIT ((size_t)2 << 30)
#define HEADER_LIMIT ((size_t)64 << 10)
#define PREFIX 16 /* bytes of magic and version */
#define MAX_VALUES ((uint64_t)1 << 31)

/* The part of a file that is not read yet. */
typedef struct input {
    const char *path;
    const uint8_t *data;
    size_t at, end;
} input;

void fm_trace_close(fm_trace **trace) {
    fm_trace *t = *trace;
    if (!t) return;
    free(t->moe);
    free(t->kind);
    free(t->experts);
    free(t->predicted);
    free(t->how);
    free(t);
    *trace = NULL;
}

/* Magic, version, and the hash at the end. */
static int check_frame(input *in, size_t bytes, fm_error *err) {
    uint64_t stored = 0, computed;
    size_t magic = strlen(FM_TRACE_MAGIC);
    if (bytes < magic || memcmp(in->data, FM_TRACE_MAGIC, magic))
        return fm_fail(err, FM_EFORMAT, "%s: it is no trace: it does not begin with \"" FM_TRACE_MAGIC "\"", in->path);
    if (bytes < PREFIX + 8) return fm_fail(err, FM_EFORMAT, "%s: it ends after %zu bytes, within its first line", in->path, bytes);
    if (in->data[magic] != FM_TRACE_VERSION) {
        return fm_fail(err, FM_EUNSUPPORTED, "%s: it is a trace of version 0x%02x, and this program reads version 0x%02x ('%c')", in->path, in->data[magic],
                       FM_TRACE_VERSION, FM_TRACE_VERSION);
    }
    in->at = PREFIX;
    in->end = bytes - 8;
    for (int i = 0; i < 8; i++) stored |= (uint64_t)in->data[in->end + (size_t)i] << (8 * i);
    computed = XXH3_64bits(in->data, in->end);
    if (stored != computed) {
        return fm_fail(err, FM_EFORMAT, "%s: it is cut short or damaged: the hash at byte %zu is %016llx, its contents have %016llx", in->path, in->end,
                       (unsigned long long)stored, (unsigned long long)computed);
    }
    return 0;
}

static int read_number(const input *in, const json_t *root, const char *name, const uint64_t range[2], int *out, fm_error *err) {
    uint64_t x;
    const json_t *value = json_object_get(root, name);
    if (!value) return fm_fail(err, FM_EFORMAT, "%s: its first line has no %s", in->path, name);
    if (!fm_json_whole(value, range[1], &x) || x < range[0]) {
        return fm_fail(err, FM_EFORMAT, "%s: its %s is not a whole number from %llu to %llu", in->path, name, (unsigned long long)range[0],
                       (unsigned long long)range[1]);
    }
    *out = (int)x;
    return 0;
}

static int read_name(const input *in, const json_t *root, const char *name, char *out, size_t size, fm_error *err) {
    const char *text = json_string_value(json_object_get(root, name));
    if (!text || strlen(text) >= size) return fm_fail(err, FM_EFORMAT, "%s: its %s is not a text of fewer than %zu bytes", in->path, name, size);
    snprintf(out, size, "%s", text);
    return 0;
}

/* The layers that have experts: ascending numbers. Returns how many. */
static int read_moe(const input *in, const json_t *root, fm_trace *t, fm_error *err) {
    const json_t *list = json_object_get(root, "moe");
    uint64_t layer, least = 0;
    size_t n = json_array_size(list);
    if (n == 0) return fm_fail(err, FM_EFORMAT, "%s: its moe is not a list of the layers that have experts", in->path);
    if (!(t->moe = calloc((size_t)t->n_layers, 1))) return fm_fail(err, FM_ENOMEM, "%s: no memory for its %d layers", in->path, t->n_layers);
    for (size_t i = 0; i < n; i++) {
        if (!fm_json_whole(json_array_get(list, i), (uint64_t)t->n_layers - 1, &layer) || layer < least)
            return fm_fail(err, FM_EFORMAT, "%s: its moe does not ascend within %d layers at place %zu", in->path, t->n_layers, i);
        t->moe[layer] = 1;
        least = layer + 1;
    }
    return (int)n;
}

static int read_header(const input *in, const json_t *root, fm_trace *t, fm_error *err) {
    const uint64_t layers[2] = {1, FM_MAX_LAYERS}, experts[2] = {1, INT16_MAX}, tokens[2] = {1, INT32_MAX};
    const json_t *how = json_object_get(root, "how");
    int rc;
    if ((rc = read_name(in, root, "model_type", t->model_type, sizeof t->model_type, err)) < 0) return rc;
    if ((rc = read_name(in, root, "architecture", t->architecture, sizeof t->architecture, err)) < 0) return rc;
    if ((rc = read_number(in, root, "n_layers", layers, &t->n_layers, err)) < 0) return rc;
    if ((rc = read_number(in, root, "n_experts", experts, &t->n_experts, err)) < 0) return rc;
    const uint64_t top_k[2] = {1, (uint64_t)t->n_experts};
    if ((rc = read_number(in, root, "top_k", top_k, &t->top_k, err)) < 0) return rc;
    if ((rc = read_number(in, root, "n_tokens", tokens, &t->n_tokens, err)) < 0) return rc;
    if (!json_is_object(how)) return fm_fail(err, FM_EFORMAT, "%s: its first line does not say how it was made", in->path);
    if (!(t->how = json_dumps(how, JSON_COMPACT))) return fm_fail(err, FM_ENOMEM, "%s: no memory for its first line", in->path);
    return read_moe(in, root, t, err);
}

/* One layer's experts of one token; strictly: chosen ones, which ascend, else predicted ones, which may be none. */
static int read_choice(input *in, const fm_trace *t, int16_t *out, bool strictly, fm_error *err) {
    size_t width = t->n_experts <= UINT8_MAX ? 1 : 2;
    for (int i = 0; i < t->top_k; i++, in->at += width) {
        int x = width == 1 ? in->data[in->at] : in->data[in->at] | in->data[in->at + 1] << 8, none = width == 1 ? UINT8_MAX : UINT16_MAX;
        if (x == none && !strictly) continue;
        if (x >= t->n_experts) return fm_fail(err, FM_EFORMAT, "%s: byte %zu: there is no expert %d among %d", in->path, in->at, x, t->n_experts);
        if (strictly && i > 0 && x <= out[i - 1])
            return fm_fail(err, FM_EFORMAT, "%s: byte %zu: expert %d follows expert %d, and they have to ascend", in->path, in->at, x, out[i - 1]);
        out[i] = (int16_t)x;
    }
    return 0;
}

static int read_token(input *in, fm_trace *t, int token, size_t choices_bytes, fm_error *err) {
    int kind = in->at < in->end ? in->data[in->at++] : -1, rc;
    size_t row = (size_t)t->n_layers * (size_t)t->top_k, need = kind >= 0 && kind & FM_TRACE_PREDICTED ? 2 * choices_bytes : choices_bytes;
    if (kind < 0 || in->end - in->at < need) return fm_fail(err, FM_EFORMAT, "%s: it ends at token %d of %d", in->path, token, t->n_tokens);
    if (kind > (FM_TRACE_FIRST | FM_TRACE_PROMPT | FM_TRACE_PREDICTED) || (token == 0 && !(kind & FM_TRACE_FIRST)))
        return fm_fail(err, FM_EFORMAT, "%s: byte %zu: token %d is of no known kind: %d", in->path, in->at - 1, token, kind);
    t->kind[token] = (uint8_t)(kind & ~FM_TRACE_PREDICTED);
    for (int predicted = 0; predicted <= (kind & FM_TRACE_PREDICTED ? 1 : 0); predicted++) {
        for (int layer = 0; layer < t->n_layers; layer++) {
            int16_t *out = (predicted ? t->predicted : t->experts) + (size_t)token * row + (size_t)layer * (size_t)t->top_k;
            if (t->moe[layer] && (rc = read_choice(in, t, out, !predicted, err)) < 0) return rc;
        }
    }
    return 0;
}

static int read_tokens(input *in, fm_trace *t, int n_moe, fm_error *err) {
    size_t choices_bytes = (size_t)n_moe * (size_t)t->top_k * (t->n_experts <= UINT8_MAX ? 1 : 2);
    uint64_t values = (uint64_t)t->n_tokens * (uint64_t)t->n_layers * (uint64_t)t->top_k;
    if ((in->end - in->at) / (1 + choices_bytes) < (size_t)t->n_tokens)
        return fm_fail(err, FM_EFORMAT, "%s: %zu bytes are too few for its %d tokens", in->path, in->end - in->at, t->n_tokens);
    if (values > MAX_VALUES)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: %d tokens of %d layers are more than this version takes", in->path, t->n_tokens, t->n_layers);
    t->kind = malloc((size_t)t->n_tokens);
    t->experts = malloc((size_t)values * sizeof *t->experts);
    t->predicted = malloc((size_t)values * sizeof *t->predicted);
    if (!t->kind || !t->experts || !t->predicted) return fm_fail(err, FM_ENOMEM, "%s: no memory for its %d tokens", in->path, t->n_tokens);
    memset(t->experts, 0xff, (size_t)values * sizeof *t->experts);
    memset(t->predicted, 0xff, (size_t)values * sizeof *t->predicted);
    for (int i = 0; i < t->n_tokens; i++) {
        int rc = read_token(in, t, i, choices_bytes, err);
        if (rc < 0) return rc;
    }
    if (in->at < in->end) return fm_fail(err, FM_EFORMAT, "%s: %zu bytes are left after its %d tokens", in->path, in->end - in->at, t->n_tokens);
    return 0;
}

int fm_trace_decode(fm_trace **trace, const char *path, const uint8_t *data, size_t bytes, fm_error *err) {
    input in = {.path = path, .data = data};
    json_t *root;
    *trace = NULL;
    int rc = check_frame(&in, bytes, err);
    if (rc < 0) return rc;
    const uint8_t *line = memchr(data + in.at, '\n', in.end - in.at);
    if (!line || (size_t)(line - data) > HEADER_LIMIT) return fm_fail(err, FM_EFORMAT, "%s: its first line does not end within %zu bytes", path, HEADER_LIMIT);
    if ((rc = fm_json_parse(&root, path, "its first line", (const char *)data + in.at, (size_t)(line - data) - in.at, err)) < 0) return rc;
    in.at = (size_t)(line - data) + 1;
    fm_trace *t = *trace = calloc(1, sizeof *t);
    rc = t ? read_header(&in, root, t, err) : fm_fail(err, FM_ENOMEM, "%s: no memory for a trace", path);
    json_decref(root);
    if (rc >= 0) rc = read_tokens(&in, t, rc, err);
    if (rc < 0) fm_trace_close(trace);
    return rc < 0 ? rc : 0;
}

int fm_trace_open(fm_trace **trace, const char *path, fm_error *err) {
    char *data;
    size_t bytes;
    *trace = NULL;
    int rc = fm_file_read_text(&data, &bytes, path, FILE_LIMIT, err);
    if (rc < 0) return rc;
    rc = fm_trace_decode(trace, path, (const uint8_t *)data, bytes, err);
    free(data);
    return rc;
}
