/* engine/generate.c: from a prompt to text: feeding, sampling, whole characters, and what ends it. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

/* Text on its way out. What may be the beginning of a stop string waits in held. */
typedef struct outlet {
    const fm_generation *o;
    fm_utf8_stream utf8;
    char *held; /* [capacity] */
    size_t n_held, capacity, longest;
    bool stopped, refused;
} outlet;

static void emit(outlet *out, size_t n) {
    if (n && out->o->text && !out->refused) out->refused = out->o->text(out->o->user, out->held, n) != 0;
    memmove(out->held, out->held + n, out->n_held - n);
    out->n_held -= n;
}

/* Passes on what of held can no longer be part of a stop string; at a stop string, what stands before it. */
static void settle(outlet *out, bool end) {
    for (size_t at = 0; at < out->n_held; at++) {
        for (int i = 0; i < out->o->n_stops; i++) {
            size_t n = strlen(out->o->stops[i]), left = out->n_held - at;
            if (memcmp(out->held + at, out->o->stops[i], n < left ? n : left)) continue;
            if (n > left && end) continue;
            emit(out, at);
            out->stopped = n <= left;
            if (out->stopped) out->n_held = 0;
            return;
        }
    }
    emit(out, out->n_held);
}

static void put(outlet *out, const char *bytes, int n) {
    /* In portions that held has room for: a character grows to 3 bytes at most. */
    for (int at = 0; at < n && !out->stopped; at += 64) {
        int portion = n - at < 64 ? n - at : 64;
        out->n_held += fm_utf8_feed(&out->utf8, bytes + at, (size_t)portion, out->held + out->n_held);
        settle(out, false);
    }
}

static int open_outlet(outlet *out, const fm_generation *o, fm_error *err) {
    *out = (outlet){.o = o};
    for (int i = 0; i < o->n_stops; i++) {
        size_t n = strlen(o->stops[i]);
        if (n == 0) return fm_fail(err, FM_EINVAL, "a stop string is empty");
        if (n > out->longest) out->longest = n;
    }
    out->capacity = out->longest + 3 * (64 + 8);
    out->held = malloc(out->capacity);
    return out->held ? 0 : fm_fail(err, FM_ENOMEM, "no memory for %zu bytes of text", out->capacity);
}

/* One token at a time until something ends it; the last token's logits are in the session. */
static int decode(fm_session *s, fm_sampler *sampler, const fm_generation *o, outlet *out, fm_generated *done, double start, fm_error *err) {
    fm_engine *e = s->engine;
    while (true) {
        if (o->max_tokens >= 0 && done->n_tokens >= o->max_tokens) return FM_STOP_LENGTH;
        if (atomic_load(&e->cancelled)) return FM_STOP_CANCELLED;
        double t = fm_now();
        int32_t id = fm_sampler_choose(sampler, s->logits, err);
        if (id < 0) return id;
        fm_sampler_feed(sampler, id);
        fm_engine_spent(e, FM_PHASE_SAMPLER, fm_now() - t);
        if (done->n_tokens++ == 0) done->first_token_seconds = fm_now() - start;
        done->decode_seconds = fm_now() - start - done->first_token_seconds;
        if (!o->ignore_eos && fm_engine_token_is_eos(e, id)) return FM_STOP_EOS;
        const char *bytes;
        int n = fm_engine_token_bytes(e, id, &bytes);
        put(out, bytes, n);
        if (out->stopped) return FM_STOP_STRING;
        if (out->refused) return FM_STOP_CANCELLED;
        if (s->line.position == e->plan.context) return FM_STOP_LENGTH;
        if (o->max_tokens >= 0 && done->n_tokens >= o->max_tokens) return FM_STOP_LENGTH;
        int rc = fm_session_feed(s, &id, 1, FM_LOGITS_LAST, NULL, NULL, err);
        if (rc < 0) return rc;
    }
}

/* What the session cache has of it is not computed. */
static int read_prompt(fm_session *s, const int32_t *ids, int n, fm_generated *done, fm_error *err) {
    fm_synced synced;
    if (!s->engine->directory || s->line.position) return fm_session_feed(s, ids, n, FM_LOGITS_LAST, NULL, NULL, err);
    int rc = fm_session_sync(s, ids, n, NULL, 0, &synced, err);
    if (rc == 0) done->n_kept = synced.n_kept + synced.n_restored;
    return rc;
}

int fm_session_generate(fm_session *s, const int32_t *ids, int n, fm_sampler *sampler, const fm_generation *options, fm_generated *done, fm_error *err) {
    fm_generation o = FM_GENERATION_INIT;
    outlet out;
    double start = fm_now();
    if (options) memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    *done = (fm_generated){.n_prompt = n};
    int rc = open_outlet(&out, &o, err);
    if (rc < 0) return rc;
    for (int i = 0; i < n; i++) fm_sampler_feed(sampler, ids[i]);
    rc = read_prompt(s, ids, n, done, err);
    done->prompt_seconds = fm_now() - start;
    if (rc >= 0) rc = decode(s, sampler, &o, &out, done, start, err);
    if (rc == FM_ECANCELLED && atomic_load(&s->engine->cancelled)) rc = FM_STOP_CANCELLED;
    if (!out.stopped) {
        out.n_held += fm_utf8_finish(&out.utf8, out.held + out.n_held);
        settle(&out, true);
        if (rc > 0 && out.stopped) rc = FM_STOP_STRING;
    }
    free(out.held);
    done->stop = rc > 0 ? rc : 0;
    return rc < 0 ? rc : 0;
}
