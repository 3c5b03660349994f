/* tests/fuzz/fuzz_request.c: any bytes as a request. The first says which of the routes it is for; what follows is the body, and also goes to the guard as the headers that a
 * client chooses. It becomes jobs, or is refused with a status and a sentence that are JSON in the API's form. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "serve/server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static fm_server server;

static void open_server(void) {
    if (server.shared) return;
    json_object_seed(1);
    pthread_mutex_init(&server.lock, NULL);
    pthread_cond_init(&server.work, NULL);
    server.shared = calloc((size_t)fm_n_routes, sizeof *server.shared);
    server.facts = (fm_facts){.alias = "ember",
                              .vocab = 4096,
                              .context = 1024,
                              .parallel = 4,
                              .most_jobs = 68,
                              .max_tokens = -1,
                              .think_budget = -1,
                              .has_chat = true,
                              .path = "ember",
                              .tool_format = "none",
                              .sampling = FM_SAMPLING_INIT};
    for (int i = 0; i < fm_n_routes; i++) {
        const fm_api *api = fm_routes[i].api;
        if (api && api->open_shared) server.shared[i] = api->open_shared(1 << 20);
    }
}

static const fm_route *choose(uint8_t number) {
    int n = 0;
    for (int i = 0; i < fm_n_routes; i++) n += fm_routes[i].kind == FM_ROUTE_JOBS;
    n = number % n;
    for (int i = 0;; i++)
        if (fm_routes[i].kind == FM_ROUTE_JOBS && n-- == 0) return &fm_routes[i];
}

static void check_refusal(const fm_api *api, const fm_refusal *why) {
    assert(why->status >= 400 && why->status < 600 && *why->message);
    json_t *error = api->error(why);
    char *text = json_dumps(error, 0);
    assert(text);
    free(text);
    json_decref(error);
}

static void check_jobs(const fm_exchange *x) {
    assert(x->n_jobs >= 1 && x->n_jobs <= server.facts.most_jobs);
    for (int i = 0; i < x->n_jobs; i++) {
        const fm_job *job = &x->jobs[i];
        assert(job->request || job->text || job->ids);
        assert(job->index == i && job->exchange == x && job->n_logprobs >= -1 && job->n_logprobs <= FM_MOST_LOGPROBS);
        assert(job->sampling.temperature >= 0 && job->sampling.top_p >= 0 && job->sampling.top_p <= 1);
        for (int k = 0; k < job->n_stops; k++) assert(*job->stops[k]);
        json_t *request = job->request ? json_loads(job->request, 0, NULL) : NULL;
        assert(!job->request || json_is_array(json_object_get(request, "messages")));
        json_decref(request);
    }
}

static void check_guard(const char *text) {
    const char *hosts[] = {"box"}, *origins[] = {"https://friend"}, *origin;
    const fm_server_options o = {.host = "127.0.0.1", .key = "key", .hosts = hosts, .n_hosts = 1, .origins = origins, .n_origins = 1};
    const fm_asked asked = {.host = text, .origin = text, .authorization = text, .x_api_key = text};
    fm_refusal why = {0};
    const char *rest;
    const fm_api *api = NULL;
    if (fm_guard_check(&o, &asked, false, &origin, &why) < 0) assert(why.status == 401 || why.status == 403);
    if (!fm_route_find("GET", text, &rest, &api, &why)) assert(why.status == 404 || why.status == 405);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fm_refusal why = {0};
    open_server();
    if (size == 0) return 0;
    const fm_route *route = choose(data[0]);
    fm_exchange *x = fm_exchange_open(&server, NULL, route);
    assert(x);
    x->api = route->api;
    x->shared = server.shared[route - fm_routes];
    int rc = fm_exchange_read(x, (const char *)data + 1, size - 1, &why);
    if (rc == 0) rc = x->api->parse(x, &why);
    if (rc == 0)
        check_jobs(x);
    else
        check_refusal(x->api, &why);
    fm_exchange_leave(x, true);
    char *text = strndup((const char *)data + 1, size - 1);
    check_guard(text);
    free(text);
    return 0;
}
