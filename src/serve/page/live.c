/* serve/page/live.c: GET /live: what the experts are at. It asks the engine itself, which may be computing: a prompt that takes minutes is seen as it is read. */
#include <stdlib.h>

#include "serve/page/page.h"
#include "serve/server.h"

/* One look at the engine. */
typedef struct look {
    fm_live sums;
    fm_live_expert *experts; /* [n], malloc'd */
    int n, n_layers, n_columns, n_slots;
    uint64_t expert_bytes, sequence;
} look;

static int take_look(fm_server *s, look *out, fm_refusal *why) {
    *out = (look){0};
    pthread_mutex_lock(&s->lock); /* the engine is not closed meanwhile */
    fm_engine *engine = s->state == FM_SERVER_READY ? s->engine : NULL;
    if (engine) {
        const fm_plan *plan = fm_engine_plan(engine);
        out->n = fm_engine_live(engine, &out->sums, NULL, 0);
        out->n_columns = fm_engine_info(engine)->n_experts;
        out->n_slots = plan->n_slots;
        out->expert_bytes = plan->slot_bytes;
        out->sequence = ++s->n_looks;
        out->experts = calloc((size_t)out->n + 1, sizeof *out->experts);
        if (out->experts) fm_engine_live(engine, &out->sums, out->experts, out->n);
    }
    pthread_mutex_unlock(&s->lock);
    out->n_layers = out->n_columns ? out->n / out->n_columns : 0;
    if (!engine) return fm_deny(why, 503, NULL, "the model is not loaded");
    return out->experts ? 0 : fm_deny(why, 500, NULL, "there is no memory for the state of %d experts", out->n);
}

static json_t *base64(const uint8_t *bytes, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t length = (n + 2) / 3 * 4, at = 0;
    char *text = malloc(length + 1);
    if (!text) return NULL;
    for (size_t i = 0; i < n; i += 3) {
        uint32_t three = (uint32_t)bytes[i] << 16 | (i + 1 < n ? (uint32_t)bytes[i + 1] << 8 : 0) | (i + 2 < n ? bytes[i + 2] : 0);
        for (int k = 0; k < 4; k++) text[at++] = digits[three >> (18 - 6 * k) & 63];
    }
    if (n % 3) text[length - 1] = '=';
    if (n % 3 == 1) text[length - 2] = '=';
    json_t *json = json_stringn_nocheck(text, length);
    free(text);
    return json;
}

enum { STATE, USES, READS };

/* One number of each expert; NULL: no memory. */
static json_t *column(const look *l, int which) {
    size_t n = (size_t)l->n, width = which == STATE ? 1 : 2;
    uint8_t *bytes = malloc(n * width + 1);
    if (!bytes) return NULL;
    for (size_t i = 0; i < n; i++) {
        const fm_live_expert *e = &l->experts[i];
        uint32_t value = which == STATE ? e->state : which == USES ? e->uses : e->reads;
        bytes[i * width] = (uint8_t)value;
        if (width == 2) bytes[i * width + 1] = (uint8_t)(value >> 8);
    }
    json_t *json = base64(bytes, n * width);
    free(bytes);
    return json;
}

int fm_page_live(fm_exchange *x, fm_refusal *why) {
    look l;
    if (take_look(x->wire->server, &l, why) < 0) {
        free(l.experts);
        return -1;
    }
    json_t *json = json_pack("{s:I, s:f, s:i, s:i, s:i, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "sequence", (json_int_t)l.sequence, "seconds", fm_serve_now(),
                             "layers", l.n_layers, "experts", l.n_columns, "slots", l.n_slots, "expert_bytes", (json_int_t)l.expert_bytes, "tokens",
                             (json_int_t)l.sums.n_tokens, "requests", (json_int_t)l.sums.n_requests, "hits", (json_int_t)l.sums.n_hits, "disk_bytes",
                             (json_int_t)l.sums.disk_bytes, "state", column(&l, STATE), "uses", column(&l, USES), "reads", column(&l, READS));
    free(l.experts);
    fm_reply_json(x, 200, json);
    return 0;
}
