/* serve/routes.c: which address is answered by what. */
#include <stdio.h>
#include <string.h>

#include "serve/api/apis.h"
#include "serve/page/page.h"
#include "serve/server.h"
#include "serve/status.h"

const fm_route fm_routes[] = {
    {"POST", "/v1/chat/completions", FM_ROUTE_JOBS, &fm_api_openai_chat, NULL, false},
    {"POST", "/v1/completions", FM_ROUTE_JOBS, &fm_api_completions, NULL, false},
    {"POST", "/v1/responses", FM_ROUTE_JOBS, &fm_api_responses, NULL, false},
    {"GET", "/v1/responses/*", FM_ROUTE_NOW, &fm_api_responses, fm_responses_get, false},
    {"DELETE", "/v1/responses/*", FM_ROUTE_NOW, &fm_api_responses, fm_responses_delete, false},
    {"POST", "/v1/messages", FM_ROUTE_JOBS, &fm_api_messages, NULL, false},
    {"POST", "/v1/messages/count_tokens", FM_ROUTE_ENGINE, &fm_api_messages, fm_messages_count, false},
    {"POST", "/tokenize", FM_ROUTE_ENGINE, NULL, fm_small_tokenize, false},
    {"POST", "/detokenize", FM_ROUTE_ENGINE, NULL, fm_small_detokenize, false},
    {"POST", "/apply-template", FM_ROUTE_ENGINE, NULL, fm_small_apply_template, false},
    {"GET", "/v1/models", FM_ROUTE_NOW, NULL, fm_status_models, false},
    {"GET", "/v1/models/*", FM_ROUTE_NOW, NULL, fm_status_model, false},
    {"GET", "/health", FM_ROUTE_NOW, NULL, fm_status_health, true},
    {"GET", "/metrics", FM_ROUTE_NOW, NULL, fm_status_metrics, false},
    {"GET", "/props", FM_ROUTE_NOW, NULL, fm_status_props, false},
    {"GET", "/", FM_ROUTE_NOW, NULL, fm_page_index, true},
    {"GET", "/live", FM_ROUTE_NOW, NULL, fm_page_live, false},
};
const int fm_n_routes = sizeof fm_routes / sizeof *fm_routes;

static bool matches(const fm_route *route, const char *path, const char **rest) {
    size_t n = strlen(route->path);
    *rest = "";
    if (route->path[n - 1] != '*') return strcmp(route->path, path) == 0;
    if (strncmp(route->path, path, n - 1) || !path[n - 1] || strchr(path + n - 1, '/')) return false;
    *rest = path + n - 1;
    return true;
}

const fm_route *fm_route_find(const char *method, const char *path, const char **rest, const fm_api **api, fm_refusal *why) {
    const fm_route *other = NULL;
    for (int i = 0; i < fm_n_routes; i++) {
        const fm_route *route = &fm_routes[i];
        if (!matches(route, path, rest)) continue;
        *api = route->api;
        if (strcmp(route->method, method) == 0) return route;
        other = route;
    }
    *rest = "";
    if (other)
        fm_deny(why, 405, NULL, "%s takes %s, not %.20s", other->path, other->method, method);
    else
        fm_deny(why, 404, NULL, "there is nothing at %.200s", path);
    return NULL;
}
