/* tests/fuzz/fuzz_answers.c: any bytes as the body of a request to each API, and a made-up answer to what is taken. The first byte says which API, the second what happens to the
 * answer. A request is refused with a reason or makes jobs that the library can take; what is written is JSON, in a stream event by event. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api/apis.h"
#include "serve/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BROKEN = 1, STOPS = 2, NO_TEXT = 4, MODEL = 8 };

static fm_server server = {.lock = PTHREAD_MUTEX_INITIALIZER, .work = PTHREAD_COND_INITIALIZER};

static void check_json(const char *text, size_t n) {
    json_t *json = json_loadb(text, n, JSON_ALLOW_NUL, NULL);
    assert(json_is_object(json));
    json_decref(json);
}

/* Everything that was written. */
static void check_output(const fm_exchange *x) {
    const char *at = x->wire->out + x->wire->at_out, *end = x->wire->out + x->wire->n_out;
    assert(at < end);
    if (!x->stream) {
        check_json(at, (size_t)(end - at));
        return;
    }
    assert(end - at > 2 && !memcmp(end - 2, "\n\n", 2));
    while (at < end) {
        const char *line_end = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)(line_end - at);
        if (n > 6 && !memcmp(at, "data: ", 6) && !(n == 12 && !memcmp(at, "data: [DONE]", 12))) check_json(at + 6, n - 6);
        assert(n == 0 || !memcmp(at, "data: ", 6) || !memcmp(at, "event: ", 7));
        at = line_end + 1;
    }
}

static void check_job(const fm_job *job) {
    if (job->request) check_json(job->request, strlen(job->request));
    assert(job->request || job->text || job->n_ids > 0);
    for (int i = 0; i < job->n_stops; i++) assert(job->stops[i] && job->stops[i][0]);
    assert(job->max_tokens >= -1 && job->think_budget >= -1 && job->n_logprobs >= -1 && job->n_logprobs <= FM_MOST_LOGPROBS);
    for (int i = 0; i < job->sampling.n_bias; i++) assert(job->sampling.bias[i].id >= 0 && job->sampling.bias[i].id < server.facts.vocab);
}

static void give(fm_exchange *x, fm_job *job, int type, const char *text) {
    fm_event event = {.type = type, .text = text, .bytes = strlen(text), .id = "call_1", .name = "f\xff"};
    if (x->api->event) x->api->event(x, job, &event);
}

static void answer(fm_exchange *x, fm_job *job, uint8_t how) {
    job->n_prompt = 9;
    job->n_cached = 4;
    give(x, job, FM_EVENT_REASONING, "why");
    if (!(how & NO_TEXT)) give(x, job, FM_EVENT_TEXT, "a\xc3\xa9\xff");
    give(x, job, FM_EVENT_CALL, "");
    give(x, job, FM_EVENT_ARGUMENTS, "{\"a\": 1}");
    give(x, job, FM_EVENT_CALL_END, "");
    give(x, job, FM_EVENT_TEXT, "b");
    job->n_tokens = 7;
    job->n_reasoning = 1;
    job->stop = how & STOPS && job->n_stops ? FM_STOP_STRING : FM_STOP_LENGTH;
    job->stopped_by = job->stop == FM_STOP_STRING ? job->stops[0] : NULL;
    job->message = "{\"role\": \"assistant\", \"content\": \"a\", \"reasoning_content\": \"why\"}";
    if (x->api->end && !(how & BROKEN)) x->api->end(x, job);
}

/* The APIs look at tokens on the engine's side only for probabilities and for the echo of a prompt that is tokens: there is no engine here. */
static void answer_all(fm_exchange *x, uint8_t how) {
    fm_refusal why;
    for (int i = 0; i < x->n_jobs; i++) check_job(&x->jobs[i]);
    if (x->jobs[0].ids) return;
    if (x->stream) fm_exchange_begin_stream(x);
    if (x->api->start) x->api->start(x);
    for (int i = 0; i < x->n_jobs; i++) answer(x, &x->jobs[i], how);
    if (how & BROKEN) {
        fm_deny(&why, 500, NULL, "the disk failed");
        fm_exchange_refuse(x, &why);
    } else {
        if (x->api->finish) x->api->finish(x);
        if (x->stream) fm_exchange_finish(x);
    }
    check_output(x);
}

static void request(const fm_route *route, json_t *body, void *shared, uint8_t how) {
    fm_refusal why = {0};
    fm_exchange *x = fm_exchange_open(&server, NULL, route);
    assert(x);
    x->api = route->api;
    x->shared = shared;
    x->body = json_incref(body);
    if (x->api->parse(x, &why) >= 0) {
        answer_all(x, how);
    } else {
        assert(why.status >= 400 && why.status <= 500 && why.message[0]);
        json_t *error = x->api->error(&why);
        char *text = json_dumps(error, 0);
        assert(text);
        check_json(text, strlen(text));
        free(text);
        json_decref(error);
    }
    fm_exchange_leave(x, false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const fm_route *jobs[16];
    int n = 0;
    if (size < 2) return 0;
    server.facts = (fm_facts){.alias = "fuzz", .vocab = 1000, .context = 2048, .parallel = 2, .most_jobs = 8, .sampling = FM_SAMPLING_INIT, .max_tokens = -1};
    server.facts.think_budget = -1;
    server.facts.has_chat = server.facts.uses_thinking = true;
    server.facts.uses_effort = data[1] & MODEL;
    for (int i = 0; i < fm_n_routes && n < 16; i++)
        if (fm_routes[i].kind == FM_ROUTE_JOBS) jobs[n++] = &fm_routes[i];
    const fm_route *route = jobs[data[0] % n];
    json_t *body = json_loadb((const char *)data + 2, size - 2, 0, NULL);
    void *shared = route->api->open_shared ? route->api->open_shared(1 << 20) : NULL;
    if (json_is_object(body)) request(route, body, shared, data[1]);
    if (shared) route->api->close_shared(shared);
    json_decref(body);
    return 0;
}
