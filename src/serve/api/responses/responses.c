/* serve/api/responses/responses.c: OpenAI's POST /v1/responses, and GET and DELETE of one that is kept: a request's fields as a job. */
#include "serve/api/responses/responses.h"

#include <stdlib.h>
#include <string.h>

#include "serve/api/apis.h"

static const fm_field FIELDS[] = {
    {"model", FM_FIELD_USED},
    {"input", FM_FIELD_USED},
    {"instructions", FM_FIELD_USED},
    {"max_output_tokens", FM_FIELD_USED},
    {"temperature", FM_FIELD_USED},
    {"top_p", FM_FIELD_USED},
    {"tools", FM_FIELD_USED},
    {"tool_choice", FM_FIELD_USED},
    {"parallel_tool_calls", FM_FIELD_USED},
    {"previous_response_id", FM_FIELD_USED},
    {"store", FM_FIELD_USED},
    {"stream", FM_FIELD_USED},
    {"reasoning", FM_FIELD_USED},
    {"text", FM_FIELD_USED},
    {"include", FM_FIELD_USED},
    {"top_logprobs", FM_FIELD_USED},
    {"metadata", FM_FIELD_ADVISORY},
    {"user", FM_FIELD_ADVISORY},
    {"safety_identifier", FM_FIELD_ADVISORY},
    {"prompt_cache_key", FM_FIELD_ADVISORY},
    {"prompt_cache_options", FM_FIELD_ADVISORY},
    {"prompt_cache_retention", FM_FIELD_ADVISORY},
    {"stream_options", FM_FIELD_ADVISORY}, /* include_obfuscation */
    {"client_metadata", FM_FIELD_ADVISORY},
    {"max_tool_calls", FM_FIELD_ADVISORY}, /* of built-in tools, of which there are none */
    {"service_tier", FM_FIELD_ONLY, "\"auto\"\n\"default\""},
    {"truncation", FM_FIELD_ONLY, "\"disabled\""},
    {"background", FM_FIELD_ONLY, "false"},
    {"context_management", FM_FIELD_ONLY, "[]"},
    {"conversation", FM_FIELD_REFUSED},
    {"prompt", FM_FIELD_REFUSED},
    {"moderation", FM_FIELD_REFUSED},
};

/* ---- tool_choice ---- */

typedef struct choice {
    bool none;
    const char *force;     /* as in fm_job */
    const json_t *allowed; /* NULL: all tools */
} choice;

static int read_choice(const json_t *body, choice *out, fm_refusal *why) {
    const json_t *value = json_object_get(body, "tool_choice");
    const char *mode = json_string_value(value), *type = fm_member_text(value, "type");
    *out = (choice){0};
    if (!fm_is_given(value)) return 0;
    if (type && !strcmp(type, "allowed_tools")) {
        out->allowed = json_object_get(value, "tools");
        mode = fm_member_text(value, "mode");
        if (!json_is_array(out->allowed)) return fm_deny(why, 400, "tool_choice.tools", "tool_choice.tools: not a list");
    } else if (type) {
        out->force = fm_member_text(value, "name");
        if (strcmp(type, "function") || !out->force)
            return fm_deny(why, 400, "tool_choice", "tool_choice: only a function with its name, or allowed_tools, can be chosen, not '%.60s'", type);
        return 0;
    }
    if (!mode || (strcmp(mode, "auto") && strcmp(mode, "none") && strcmp(mode, "required")))
        return fm_deny(why, 400, "tool_choice", "tool_choice: it has to be auto, none, required, a function or allowed_tools");
    out->none = !strcmp(mode, "none");
    if (!strcmp(mode, "required")) out->force = "";
    return 0;
}

/* The tools that the model is shown, new; NULL: none. */
static int choose_tools(fm_exchange *x, const choice *picks, json_t **tools, fm_refusal *why) {
    if (fm_responses_read_tools(x->body, picks->allowed, tools, why) < 0) return -1;
    int rc = picks->force && !fm_has_tool(*tools, picks->force) ? -1 : 0;
    x->jobs[0].force_call = picks->force;
    if (rc >= 0 && !picks->none && json_array_size(*tools)) return 0;
    json_decref(*tools);
    *tools = NULL;
    return rc < 0 ? fm_deny(why, 400, "tool_choice", "tool_choice: there is no such tool among the tools ('%.100s')", picks->force) : 0;
}

/* ---- reasoning, text, include ---- */

static const fm_field REASONING[] = {
    {"effort", FM_FIELD_ONLY, "\"none\"\n\"minimal\"\n\"low\"\n\"medium\"\n\"high\"\n\"xhigh\"\n\"max\""},
    {"summary", FM_FIELD_ADVISORY}, /* reasoning is shown as it is */
    {"generate_summary", FM_FIELD_ADVISORY},
    {"context", FM_FIELD_ONLY, "\"auto\"\n\"current_turn\""},
    {"mode", FM_FIELD_ONLY, "\"standard\""},
};

static const fm_field TEXT[] = {
    {"format", FM_FIELD_ONLY, "{\"type\": \"text\"}"},
    {"verbosity", FM_FIELD_ONLY, "\"medium\""},
};

static int read_reasoning(fm_exchange *x, json_t *kwargs, fm_refusal *why) {
    const json_t *reasoning = json_object_get(x->body, "reasoning"), *text = json_object_get(x->body, "text");
    fm_responses_state *state = x->state;
    if (fm_is_given(reasoning) && !json_is_object(reasoning)) return fm_deny(why, 400, "reasoning", "reasoning: it has to be an object");
    if (fm_is_given(text) && !json_is_object(text)) return fm_deny(why, 400, "text", "text: it has to be an object");
    if (fm_denied_inside("reasoning", fm_fields_check(reasoning, REASONING, FM_COUNT(REASONING), why), why) < 0) return -1;
    if (fm_denied_inside("text", fm_fields_check(text, TEXT, FM_COUNT(TEXT), why), why) < 0) return -1;
    const char *effort = state->effort = fm_member_text(reasoning, "effort");
    if (!effort) return 0;
    bool none = !strcmp(effort, "none");
    if (none) x->jobs[0].think_budget = 0;
    if (x->facts->uses_thinking) json_object_set_new(kwargs, "enable_thinking", json_boolean(!none));
    if (none || !x->facts->uses_effort) return 0;
    if (!strcmp(effort, "minimal")) effort = "low"; /* the least and the most that templates know */
    if (!strcmp(effort, "xhigh") || !strcmp(effort, "max")) effort = "high";
    return json_object_set_new(kwargs, "reasoning_effort", json_string(effort)) ? fm_no_memory(why) : 0;
}

static int read_include(fm_exchange *x, fm_refusal *why) {
    const json_t *include = json_object_get(x->body, "include");
    fm_responses_state *state = x->state;
    int top = 0;
    if (fm_field_int(x->body, "top_logprobs", 0, FM_MOST_LOGPROBS, &top, why) < 0) return -1;
    if (fm_is_given(include) && !json_is_array(include)) return fm_deny(why, 400, "include", "include: not a list");
    state->top_logprobs = top > 0;
    for (size_t i = 0; i < json_array_size(include); i++) {
        const char *what = json_string_value(json_array_get(include, i));
        if (!what) return fm_deny(why, 400, "include", "include[%zu]: not a string", i);
        state->top_logprobs |= !strcmp(what, "message.output_text.logprobs"); /* the others are of things that no answer has */
    }
    if (state->top_logprobs) x->jobs[0].n_logprobs = top;
    return 0;
}

/* ---- a request ---- */

static int read_previous(fm_exchange *x, json_t **messages, fm_refusal *why) {
    const char *id = NULL;
    char *kept = NULL;
    *messages = NULL;
    if (fm_field_text(x->body, "previous_response_id", &id, why) < 0) return -1;
    if (id && x->shared && fm_responses_store_find(x->shared, id, &kept, NULL)) {
        *messages = kept ? json_loads(kept, JSON_ALLOW_NUL, NULL) : NULL;
        free(kept);
    } else if (id) {
        fm_deny(why, 400, "previous_response_id", "there is no response with the id '%.100s': it was not stored, or is forgotten", id);
        strcpy(why->code, "previous_response_not_found");
        return -1;
    } else {
        *messages = json_array();
    }
    return *messages ? 0 : fm_no_memory(why);
}

/* The conversation, whose messages without instructions are kept if it is to be stored. */
static int make_request(fm_exchange *x, const choice *picks, json_t *kwargs, fm_refusal *why) {
    const json_t *instructions = json_object_get(x->body, "instructions");
    fm_responses_state *state = x->state;
    bool store = true;
    json_t *messages, *tools;
    if (fm_field_bool(x->body, "store", &store, why) < 0 || read_previous(x, &messages, why) < 0) return -1;
    int rc = fm_responses_read(json_object_get(x->body, "input"), messages, why);
    if (rc >= 0 && store) state->conversation = json_copy(messages);
    if (rc >= 0 && fm_is_given(instructions)) {
        rc = json_is_string(instructions) ? 0 : fm_deny(why, 400, "instructions", "instructions: only a string is supported");
        if (rc >= 0) json_array_insert_new(messages, 0, json_pack("{s:s, s:O}", "role", "system", "content", instructions));
    }
    if (rc >= 0 && !json_array_size(messages)) rc = fm_deny(why, 400, "input", "input: it is empty");
    if (rc < 0 || choose_tools(x, picks, &tools, why) < 0) {
        json_decref(messages);
        return -1;
    }
    json_t *all = json_pack("{s:o, s:O}", "messages", messages, "chat_template_kwargs", kwargs);
    if (all && tools) json_object_set(all, "tools", tools);
    json_decref(tools);
    x->jobs[0].request = all ? fm_exchange_dump(x, all) : NULL;
    return x->jobs[0].request ? 0 : fm_no_memory(why);
}

static int read_options(fm_exchange *x, choice *picks, fm_refusal *why) {
    fm_job *job = x->jobs;
    bool parallel = true;
    if (fm_field_int(x->body, "max_output_tokens", 1, 1 << 30, &job->max_tokens, why) < 0) return -1;
    if (fm_field_number(x->body, "temperature", 0, 2, &job->sampling.temperature, why) < 0) return -1;
    if (fm_field_number(x->body, "top_p", 0, 1, &job->sampling.top_p, why) < 0 || fm_field_bool(x->body, "parallel_tool_calls", &parallel, why) < 0) return -1;
    if (fm_field_bool(x->body, "stream", &x->stream, why) < 0 || read_choice(x->body, picks, why) < 0) return -1;
    job->one_call = !parallel;
    return read_include(x, why);
}

static int parse(fm_exchange *x, fm_refusal *why) {
    choice picks;
    x->state = fm_exchange_alloc(x, sizeof(fm_responses_state));
    if (!x->state) return fm_no_memory(why);
    if (!x->facts->has_chat) return fm_deny(why, 400, "model", "this model has no chat template");
    if (fm_fields_check(x->body, FIELDS, FM_COUNT(FIELDS), why) < 0 || fm_field_model(x, why) < 0 || fm_exchange_jobs(x, 1, why) < 0) return -1;
    if (read_options(x, &picks, why) < 0) return -1;
    json_t *kwargs = json_object();
    int rc = kwargs ? read_reasoning(x, kwargs, why) : fm_no_memory(why);
    if (rc >= 0) rc = make_request(x, &picks, kwargs, why);
    json_decref(kwargs);
    return rc;
}

/* ---- what is kept ---- */

static int not_found(const fm_exchange *x, fm_refusal *why) { return fm_deny(why, 404, NULL, "there is no response with the id '%.100s'", x->rest); }

int fm_responses_get(fm_exchange *x, fm_refusal *why) {
    char *response = NULL;
    if (!x->shared || !fm_responses_store_find(x->shared, x->rest, NULL, &response)) return not_found(x, why);
    json_t *json = response ? json_loads(response, JSON_ALLOW_NUL, NULL) : NULL;
    free(response);
    if (!json) return fm_no_memory(why);
    fm_reply_json(x, 200, json);
    return 0;
}

int fm_responses_delete(fm_exchange *x, fm_refusal *why) {
    if (!x->shared || !fm_responses_store_remove(x->shared, x->rest)) return not_found(x, why);
    fm_reply_json(x, 200, json_pack("{s:s, s:s, s:b}", "id", x->rest, "object", "response", "deleted", 1));
    return 0;
}

static void *open_shared(uint64_t most_bytes) { return fm_responses_store_open((size_t)most_bytes); }

static void close_shared(void *shared) {
    fm_responses_store *store = shared;
    fm_responses_store_close(&store);
}

const fm_api fm_api_responses = {
    .name = "responses",
    .parse = parse,
    .start = fm_responses_start,
    .event = fm_responses_event,
    .finish = fm_responses_finish,
    .error = fm_openai_error,
    .broken = fm_responses_broken,
    .close = fm_responses_close,
    .open_shared = open_shared,
    .close_shared = close_shared,
};
