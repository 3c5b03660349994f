/* serve/api/anthropic/messages.c: Anthropic's POST /v1/messages and /v1/messages/count_tokens: a request's fields as a job.
 *
 * Thinking is as Anthropic has it: off unless it is asked for; budget_tokens may be any number below max_tokens. A model whose template has no switch and begins to reason all the
 * same is stopped from it at once. */
#include "serve/api/anthropic/messages.h"

#include <string.h>

#include "serve/api/apis.h"

static const fm_field FIELDS[] = {
    {"model", FM_FIELD_USED},
    {"messages", FM_FIELD_USED},
    {"system", FM_FIELD_USED},
    {"max_tokens", FM_FIELD_USED},
    {"stream", FM_FIELD_USED},
    {"stop_sequences", FM_FIELD_USED},
    {"temperature", FM_FIELD_USED},
    {"top_p", FM_FIELD_USED},
    {"top_k", FM_FIELD_USED},
    {"tools", FM_FIELD_USED},
    {"tool_choice", FM_FIELD_USED},
    {"thinking", FM_FIELD_USED},
    {"output_config", FM_FIELD_USED},
    {"context_management", FM_FIELD_USED},
    {"cache_control", FM_FIELD_ADVISORY},
    {"metadata", FM_FIELD_ADVISORY},
    {"service_tier", FM_FIELD_ADVISORY},
    {"inference_geo", FM_FIELD_ADVISORY},
    {"diagnostics", FM_FIELD_ADVISORY},
    {"user_profile_id", FM_FIELD_ADVISORY},
    {"workspace_id", FM_FIELD_ADVISORY},
    {"speed", FM_FIELD_ONLY, "\"standard\""},
    {"mcp_servers", FM_FIELD_ONLY, "[]"},
    {"container", FM_FIELD_REFUSED},
    {"compaction", FM_FIELD_REFUSED},
    {"thread", FM_FIELD_REFUSED},
    {"billing_policy", FM_FIELD_ADVISORY},
    {"fallbacks", FM_FIELD_ADVISORY}, /* this model never declines */
};

/* Clients that would have the server keep the conversation do without when they are told so in these words. */
static int check_fields(const json_t *body, fm_refusal *why) {
    int rc = fm_fields_check(body, FIELDS, FM_COUNT(FIELDS), why);
    if (rc < 0 && !strcmp(why->param, "thread")) strcpy(why->code, "thread_unsupported_request");
    return rc;
}

/* ---- thinking ---- */

static const fm_field THINKING[] = {
    {"type", FM_FIELD_ONLY, "\"enabled\"\n\"disabled\"\n\"adaptive\""},
    {"budget_tokens", FM_FIELD_USED},
    {"display", FM_FIELD_ONLY, "\"summarized\"\n\"omitted\""},
};

typedef struct thinking {
    bool on, omitted;
    int budget; /* -1: any */
} thinking;

static int read_thinking_inside(const json_t *value, int max_tokens, thinking *out, fm_refusal *why) {
    const char *type = NULL, *display = NULL;
    int budget = -1;
    if (!json_is_object(value)) return fm_deny(why, 400, NULL, "it has to be an object");
    if (fm_fields_check(value, THINKING, FM_COUNT(THINKING), why) < 0 || fm_field_text(value, "type", &type, why) < 0) return -1;
    if (fm_field_text(value, "display", &display, why) < 0) return -1;
    if (!type) return fm_deny(why, 400, "type", "it has to be there");
    if (!strcmp(type, "disabled")) return 0;
    out->on = true;
    out->omitted = display && !strcmp(display, "omitted");
    out->budget = -1;
    if (strcmp(type, "enabled")) return 0;
    if (fm_field_int(value, "budget_tokens", 1, 1 << 30, &budget, why) < 0) return -1;
    if (budget < 0) return fm_deny(why, 400, "budget_tokens", "it has to be there when thinking is enabled");
    if (max_tokens >= 0 && budget >= max_tokens)
        return fm_deny(why, 400, "budget_tokens", "max_tokens (%d) has to be greater than it (%d)", max_tokens, budget);
    out->budget = budget;
    return 0;
}

/* max_tokens: -1 if it is not known. */
static int read_thinking(const json_t *body, int max_tokens, thinking *out, fm_refusal *why) {
    const json_t *value = json_object_get(body, "thinking");
    *out = (thinking){.budget = 0};
    return fm_is_given(value) ? fm_denied_inside("thinking", read_thinking_inside(value, max_tokens, out, why), why) : 0;
}

/* ---- tool_choice ---- */

static const fm_field CHOICE[] = {
    {"type", FM_FIELD_ONLY, "\"auto\"\n\"any\"\n\"tool\"\n\"none\""},
    {"name", FM_FIELD_USED},
    {"disable_parallel_tool_use", FM_FIELD_USED},
};

typedef struct choice {
    bool none, one_call;
    const char *force; /* as in fm_job */
} choice;

static int read_choice_inside(const json_t *value, const json_t *tools, choice *out, fm_refusal *why) {
    const char *type = NULL, *name = NULL;
    if (!json_is_object(value)) return fm_deny(why, 400, NULL, "it has to be an object");
    if (fm_fields_check(value, CHOICE, FM_COUNT(CHOICE), why) < 0 || fm_field_text(value, "type", &type, why) < 0) return -1;
    if (fm_field_text(value, "name", &name, why) < 0 || fm_field_bool(value, "disable_parallel_tool_use", &out->one_call, why) < 0) return -1;
    if (!type) return fm_deny(why, 400, "type", "it has to be there");
    out->none = !strcmp(type, "none");
    if (!strcmp(type, "any")) out->force = "";
    if (!strcmp(type, "tool")) {
        if (!name) return fm_deny(why, 400, "name", "it has to be there");
        out->force = name;
    }
    if (!out->force || fm_has_tool(tools, out->force)) return 0;
    return fm_deny(why, 400, *out->force ? "name" : NULL, "there is no tool '%.100s' among the tools", out->force);
}

static int read_choice(const json_t *body, const json_t *tools, choice *out, fm_refusal *why) {
    const json_t *value = json_object_get(body, "tool_choice");
    *out = (choice){0};
    return fm_is_given(value) ? fm_denied_inside("tool_choice", read_choice_inside(value, tools, out, why), why) : 0;
}

/* ---- what says how, and changes nothing or the template's arguments ---- */

static const fm_field OUTPUT[] = {
    {"effort", FM_FIELD_ONLY, "\"low\"\n\"medium\"\n\"high\"\n\"xhigh\"\n\"max\""},
    {"format", FM_FIELD_REFUSED},
};

static int read_effort(const json_t *body, const char **effort, fm_refusal *why) {
    const json_t *output = json_object_get(body, "output_config");
    *effort = NULL;
    if (!fm_is_given(output)) return 0;
    if (!json_is_object(output)) return fm_deny(why, 400, "output_config", "output_config: it has to be an object");
    if (fm_denied_inside("output_config", fm_fields_check(output, OUTPUT, FM_COUNT(OUTPUT), why), why) < 0) return -1;
    *effort = fm_member_text(output, "effort");
    if (*effort && (!strcmp(*effort, "xhigh") || !strcmp(*effort, "max"))) *effort = "high"; /* the most that templates know */
    return 0;
}

/* Edits of the conversation: only the one that edits nothing. */
static int check_context_management(const json_t *body, fm_refusal *why) {
    const json_t *edits = json_object_get(json_object_get(body, "context_management"), "edits");
    for (size_t i = 0; i < json_array_size(edits); i++) {
        const json_t *edit = json_array_get(edits, i);
        const char *type = fm_member_text(edit, "type"), *keep = fm_member_text(edit, "keep");
        if (type && keep && !strcmp(type, "clear_thinking_20251015") && !strcmp(keep, "all")) continue;
        return fm_deny(why, 400, "context_management.edits", "context_management.edits.%zu: edits of the conversation are not supported by this server", i);
    }
    return 0;
}

/* ---- a request ---- */

/* The conversation as fm_chat_prompt takes it, in *request. */
static int make_request(fm_exchange *x, const thinking *thinks, bool no_tools, json_t *tools, const char **request, fm_refusal *why) {
    const char *effort;
    json_t *messages, *kwargs = json_object(), *all;
    if (read_effort(x->body, &effort, why) < 0 || check_context_management(x->body, why) < 0 || fm_messages_read(x->body, &messages, why) < 0) {
        json_decref(kwargs);
        return -1;
    }
    if (x->facts->uses_thinking) json_object_set_new(kwargs, "enable_thinking", json_boolean(thinks->on));
    if (effort && x->facts->uses_effort) json_object_set_new(kwargs, "reasoning_effort", json_string(effort));
    all = json_pack("{s:o, s:o}", "messages", messages, "chat_template_kwargs", kwargs);
    if (all && tools && !no_tools) json_object_set(all, "tools", tools);
    *request = all ? fm_exchange_dump(x, all) : NULL;
    return *request ? 0 : fm_no_memory(why);
}

static int read_sampling(const json_t *body, fm_sampling *sampling, fm_refusal *why) {
    if (fm_field_number(body, "temperature", 0, 2, &sampling->temperature, why) < 0 || fm_field_number(body, "top_p", 0, 1, &sampling->top_p, why) < 0)
        return -1;
    return fm_field_int(body, "top_k", 0, 1 << 30, &sampling->top_k, why);
}

static int read_options(fm_exchange *x, thinking *thinks, choice *picks, json_t *tools, fm_refusal *why) {
    fm_job *job = x->jobs;
    int max_tokens = -1;
    if (fm_field_int(x->body, "max_tokens", 1, 1 << 30, &max_tokens, why) < 0) return -1;
    if (max_tokens < 0) return fm_deny(why, 400, "max_tokens", "max_tokens: it has to be there");
    if (!fm_is_given(json_object_get(x->body, "model"))) return fm_deny(why, 400, "model", "model: it has to be there");
    if (read_thinking(x->body, max_tokens, thinks, why) < 0 || read_choice(x->body, tools, picks, why) < 0) return -1;
    if (read_sampling(x->body, &job->sampling, why) < 0 || fm_field_bool(x->body, "stream", &x->stream, why) < 0) return -1;
    if (fm_field_stops(x, "stop_sequences", &job->stops, &job->n_stops, why) < 0) return -1;
    job->max_tokens = max_tokens;
    job->think_budget = thinks->budget;
    job->force_call = picks->force;
    job->one_call = picks->one_call;
    return 0;
}

static int parse(fm_exchange *x, fm_refusal *why) {
    thinking thinks = {0};
    choice picks = {0};
    json_t *tools = NULL;
    fm_messages_state *state = x->state = fm_exchange_alloc(x, sizeof *state);
    if (!state) return fm_no_memory(why);
    if (!x->facts->has_chat) return fm_deny(why, 400, "model", "this model has no chat template");
    if (check_fields(x->body, why) < 0 || fm_field_model(x, why) < 0 || fm_exchange_jobs(x, 1, why) < 0) return -1;
    int rc = fm_messages_read_tools(x->body, &tools, why);
    if (rc >= 0) rc = read_options(x, &thinks, &picks, tools, why);
    if (rc >= 0) rc = make_request(x, &thinks, picks.none, tools, &x->jobs[0].request, why);
    json_decref(tools);
    if (rc < 0) return rc;
    state->omit_thinking = thinks.omitted;
    return 0;
}

/* ---- count_tokens ---- */

int fm_messages_count(fm_exchange *x, fm_refusal *why) {
    thinking thinks = {0};
    choice picks = {0};
    const char *request;
    fm_prompt prompt;
    fm_error err = {0};
    json_t *tools = NULL;
    if (!fm_exchange_chat(x)) return fm_deny(why, 400, "model", "this model has no chat template");
    if (check_fields(x->body, why) < 0 || fm_field_model(x, why) < 0 || fm_messages_read_tools(x->body, &tools, why) < 0) return -1;
    int rc = read_thinking(x->body, -1, &thinks, why);
    if (rc >= 0) rc = read_choice(x->body, tools, &picks, why);
    if (rc >= 0) rc = make_request(x, &thinks, picks.none, tools, &request, why);
    json_decref(tools);
    if (rc < 0) return rc;
    if (fm_chat_prompt(fm_exchange_chat(x), request, &prompt, &err) < 0) return fm_deny_error(why, &err);
    fm_reply_json(x, 200, json_pack("{s:i}", "input_tokens", prompt.n_ids));
    fm_prompt_clear(&prompt);
    return 0;
}

const fm_api fm_api_messages = {
    .name = "messages",
    .parse = parse,
    .start = fm_messages_start,
    .event = fm_messages_event,
    .finish = fm_messages_finish,
    .error = fm_messages_error,
    .broken = fm_messages_broken,
    .alive = "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    .close = fm_messages_close,
};
