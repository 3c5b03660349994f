/* engine/forward.c: the way of a batch of tokens through the layers, and the place where the disk meets arithmetic. */
#include <math.h>
#include <string.h>

#include "engine/engine.h"

/* Adds the time since *since to a phase and starts the next. */
static void clock_phase(fm_engine *e, int phase, double *since) {
    double now = fm_now();
    e->phase_seconds[phase] += now - *since;
    *since = now;
}

/* Sorts the routing by expert: keys ascending, and for each the tokens that go through it, ascending. */
static void collect_uses(fm_engine *e, int layer, const fm_routing *r, int n) {
    fm_uses *u = &e->uses;
    int n_experts = e->model->description.n_experts, total = n * r->top_k, at = 0;
    memset(u->count, 0, (size_t)n_experts * sizeof *u->count);
    for (int i = 0; i < total; i++) {
        if (r->experts[i] != FM_NO_EXPERT) u->count[r->experts[i]]++;
    }
    u->n = 0;
    for (int x = 0; x < n_experts; x++) {
        if (!u->count[x]) continue;
        u->keys[u->n] = layer * n_experts + x;
        u->start[u->n++] = at;
        at += u->count[x];
        u->count[x] = u->n - 1; /* from here on: which of the distinct experts it is */
    }
    u->start[u->n] = at;
    for (int i = 0; i < total; i++) {
        if (r->experts[i] == FM_NO_EXPERT) continue;
        int use = u->count[r->experts[i]], to = u->start[use]++;
        u->tokens[to] = i / r->top_k;
        u->choices[to] = i;
    }
    for (int i = u->n; i > 0; i--) u->start[i] = u->start[i - 1];
    u->start[0] = 0;
}

/* Which of the distinct experts key is. */
static int use_of(const fm_uses *u, int key, int n_experts) { return u->count[key % n_experts]; }

/* Whether expert number i can be taken with the lease before it: they are in memory and need no filling. (Those that are read come one by one, so that the next
 * read has its staging buffer while one is computed.) */
static bool in_memory(fm_engine *e, int i, const fm_lease *before) { return !before->fresh && i < e->uses.n && fm_store_ready_key(e->store, e->uses.keys[i]); }

/* Takes the leases that are ready, waiting for the first; with a device that needs order, those from expert number `done` in their order. */
static int take_jobs(fm_engine *e, int done, fm_lease *leases, fm_expert_job *jobs, fm_error *err) {
    bool any = e->ops->any_order(e->device);
    int n = 0;
    do {
        int rc = fm_store_next(e->store, any ? FM_ANY_KEY : e->uses.keys[done + n], &leases[n], err);
        if (rc < 0) {
            while (n > 0) fm_store_discard(e->store, &leases[--n]);
            return rc;
        }
        if (rc == 0) break;
        int use = use_of(&e->uses, leases[n].key, e->model->description.n_experts), first = e->uses.start[use];
        jobs[n] = (fm_expert_job){.key = leases[n].key + (leases[n].narrow ? fm_model_narrow(e->model) : 0),
                                  .slot = leases[n].data,
                                  .parts = leases[n].fresh ? leases[n].parts : NULL,
                                  .tokens = e->uses.tokens + first,
                                  .choices = e->uses.choices + first,
                                  .n = e->uses.start[use + 1] - first};
        e->n_narrow += leases[n].narrow ? (uint64_t)jobs[n].n : 0;
        n++;
    } while (n < FM_MAX_JOBS && (any ? fm_store_ready(e->store) : in_memory(e, done + n, &leases[n - 1])));
    return n;
}

static float largest_below(const fm_routing *r, int total, float limit) {
    float most = 0;
    for (int i = 0; i < total; i++) most = r->weights[i] < limit && r->weights[i] > most ? r->weights[i] : most;
    return most;
}

/* The experts that the next layer's router would choose now, by weight, each once, into e->advice. */
static int predict(fm_engine *e, int next, int n) {
    const fm_description *d = &e->model->description;
    int n_advice = 0, total;
    e->ops->predict(e->device, next, &e->predicted);
    if (!(total = n * e->predicted.top_k)) return 0;
    e->predicted_layer = next;
    float last = INFINITY;
    for (float weight; (weight = largest_below(&e->predicted, total, last)) > 0; last = weight) {
        for (int i = 0; i < total; i++) {
            int key = next * d->n_experts + e->predicted.experts[i], at = 0;
            if (e->predicted.weights[i] != weight) continue;
            while (at < n_advice && e->advice[at] != key) at++;
            if (at == n_advice) e->advice[n_advice++] = key;
        }
    }
    return n_advice;
}

/* Guesses which experts the next layer will ask for, and lets the store read them when the disk has nothing else to do. A long prompt asks for nearly all. */
static void look_ahead(fm_engine *e, int layer, int n) {
    const fm_description *d = &e->model->description;
    int next = layer + 1, n_advice = 0;
    e->predicted_layer = -1;
    if (next == d->n_layers || !d->layers[next].moe || e->routes_drawn || !(e->plan.n_guesses || e->predict_always)) return;
    if (n <= FM_GUESS_TOKENS)
        n_advice = predict(e, next, n);
    else if (n * e->top_k >= 2 * d->n_experts)
        for (; n_advice < d->n_experts; n_advice++) e->advice[n_advice] = next * d->n_experts + n_advice;
    fm_store_prefetch(e->store, e->advice, n_advice);
}

/* The routed experts of one layer: request what the router chose, compute the shared expert, take experts as they arrive, combine. */
static int experts(fm_engine *e, int layer, fm_routing *routing, int n, fm_error *err) {
    fm_lease leases[FM_MAX_JOBS];
    fm_expert_job jobs[FM_MAX_JOBS];
    fm_uses *u = &e->uses;
    double t = fm_now();
    int n_dropped = fm_approximate(e, layer, routing, n);
    collect_uses(e, layer, routing, n);
    int asked = fm_store_request_cold(e->store, u->keys, fm_cold_keys(e, routing, n), u->n, err), rc = asked, n_jobs, bad;
    if (rc < 0) return rc;
    if (n_dropped) fm_store_want(e->store, e->dropped, n_dropped);
    look_ahead(e, layer, n);
    clock_phase(e, FM_PHASE_ROUTER, &t);
    e->ops->shared(e->device, layer);
    clock_phase(e, FM_PHASE_SHARED, &t);
    for (int done = 0; done < u->n; done += n_jobs) {
        if ((rc = n_jobs = take_jobs(e, done, leases, jobs, err)) < 0) return rc;
        clock_phase(e, FM_PHASE_EXPERT_WAIT, &t);
        rc = e->ops->expert(e->device, layer, jobs, n_jobs, &bad, err);
        for (int i = 0; i < n_jobs; i++) (rc < 0 && leases[i].fresh ? fm_store_discard : fm_store_release)(e->store, &leases[i]);
        if (rc >= 0 && asked < u->n) {
            rc = fm_store_request(e->store, u->keys + asked, u->n - asked, err);
            asked += rc > 0 ? rc : 0;
        }
        if (rc < 0) {
            fm_store_cancel(e->store);
            return rc;
        }
        clock_phase(e, FM_PHASE_EXPERT_COMPUTE, &t);
    }
    e->ops->combine(e->device, layer);
    clock_phase(e, FM_PHASE_COMBINE, &t);
    return 0;
}

static void trace(fm_engine *e, int n_spans, const char *name) {
    int hidden = e->model->description.hidden;
    for (int i = 0; i < n_spans; i++) {
        const fm_span *s = &e->spans[i];
        fm_session *session = e->sessions[i];
        if (session->trace)
            session->trace(session->trace_user, name, s->position, s->n, hidden, e->ops->residual(e->device) + (size_t)s->first * (size_t)hidden);
    }
}

int fm_forward(fm_engine *e, int n_spans, int n, fm_error *err) {
    const fm_description *d = &e->model->description;
    fm_batch batch = {.ids = e->ids, .n = n, .spans = e->spans, .n_spans = n_spans, .captures = e->captures, .n_captures = e->n_captures};
    double t = fm_now();
    char name[24];
    int rc = 0;
    e->predicted_layer = -1;
    e->ops->embed(e->device, &batch);
    clock_phase(e, FM_PHASE_EMBED, &t);
    trace(e, n_spans, "embed");
    for (int layer = 0; layer < d->n_layers; layer++) {
        /* A long prompt is given up between layers (its sessions are lost then); a token is finished first. */
        if (!e->ops->any_order(e->device) && atomic_load(&e->cancelled)) return fm_fail(err, FM_ECANCELLED, "cancelled in layer %d of a prompt", layer);
        t = fm_now();
        e->ops->mixer(e->device, layer);
        clock_phase(e, FM_PHASE_MIXER, &t);
        if (!d->layers[layer].moe) {
            e->ops->dense(e->device, layer);
            clock_phase(e, FM_PHASE_SHARED, &t);
        } else {
            fm_routing routing;
            e->ops->route(e->device, layer, &routing);
            if (e->route_hook) {
                e->route_hook(e->route_user, &(fm_route_event){.layer = layer,
                                                               .n = n,
                                                               .top_k = routing.top_k,
                                                               .experts = routing.experts,
                                                               .weights = routing.weights,
                                                               .predicted = e->predicted_layer == layer ? e->predicted.experts : NULL});
            }
            clock_phase(e, FM_PHASE_ROUTER, &t);
            if ((rc = experts(e, layer, &routing, n, err)) < 0) return rc;
        }
        snprintf(name, sizeof name, "layer.%d", layer);
        trace(e, n_spans, name);
    }
    e->n_tokens += (uint64_t)n;
    return 0;
}
