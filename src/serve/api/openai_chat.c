/* serve/api/openai_chat.c: POST /v1/chat/completions: requests in OpenAI's form, which is also the one that the library takes. */
#include <stdio.h>
#include <string.h>

#include "serve/api/fields.h"
#include "serve/api/openai.h"

static const fm_field fields[] = {
    {"messages", FM_FIELD_USED},
    {"model", FM_FIELD_USED},
    {"stream", FM_FIELD_USED},
    {"stream_options", FM_FIELD_USED},
    {"max_tokens", FM_FIELD_USED},
    {"max_completion_tokens", FM_FIELD_USED},
    {"temperature", FM_FIELD_USED},
    {"top_p", FM_FIELD_USED},
    {"presence_penalty", FM_FIELD_USED},
    {"frequency_penalty", FM_FIELD_USED},
    {"logit_bias", FM_FIELD_USED},
    {"seed", FM_FIELD_USED},
    {"stop", FM_FIELD_USED},
    {"n", FM_FIELD_USED},
    {"logprobs", FM_FIELD_USED},
    {"top_logprobs", FM_FIELD_USED},
    {"tools", FM_FIELD_USED},
    {"tool_choice", FM_FIELD_USED},
    {"parallel_tool_calls", FM_FIELD_USED},
    {"reasoning_effort", FM_FIELD_USED},
    /* what others have too */
    {"chat_template_kwargs", FM_FIELD_USED},
    {"top_k", FM_FIELD_USED},
    {"min_p", FM_FIELD_USED},
    {"repeat_penalty", FM_FIELD_USED},
    {"repetition_penalty", FM_FIELD_USED},
    {"think_budget", FM_FIELD_USED},
    /* what does not change the answer */
    {"user", FM_FIELD_ADVISORY},
    {"metadata", FM_FIELD_ADVISORY},
    {"safety_identifier", FM_FIELD_ADVISORY},
    {"prompt_cache_key", FM_FIELD_ADVISORY},
    {"prompt_cache_retention", FM_FIELD_ADVISORY},
    {"cache_control", FM_FIELD_ADVISORY},
    {"cache_prompt", FM_FIELD_ADVISORY},
    {"prediction", FM_FIELD_ADVISORY},
    {"store", FM_FIELD_ONLY, "false"},
    {"service_tier", FM_FIELD_ONLY, "\"auto\"\n\"default\""},
    {"verbosity", FM_FIELD_ONLY, "\"medium\""},
    {"modalities", FM_FIELD_ONLY, "[\"text\"]"},
    {"response_format", FM_FIELD_ONLY, "{\"type\": \"text\"}"},
    {"functions", FM_FIELD_ONLY, "[]"},
    {"function_call", FM_FIELD_ONLY, "\"none\""},
    {"audio", FM_FIELD_REFUSED},
    {"web_search_options", FM_FIELD_REFUSED},
    {"grammar", FM_FIELD_REFUSED},
};

/* ---- tools ---- */

static int check_tools(const json_t *tools, fm_refusal *why) {
    if (!json_is_array(tools)) return fm_deny(why, 400, "tools", "'tools' has to be a list");
    for (size_t i = 0; i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        const char *type = fm_member_text(tool, "type"), *name = fm_member_text(function, "name");
        if (!type || strcmp(type, "function"))
            return fm_deny(why, 400, "tools", "tool %zu is of type '%.60s', but only functions are supported", i, type ? type : "");
        if (!name || !*name) return fm_deny(why, 400, "tools", "tool %zu has no function with a name", i);
    }
    return 0;
}

/* The tools that the model is told of, and whether it has to call one. */
static int read_tools(fm_exchange *x, const json_t **tools, const char **force, fm_refusal *why) {
    const json_t *choice = json_object_get(x->body, "tool_choice"), *function = json_object_get(choice, "function");
    const char *word = json_string_value(choice), *type = fm_member_text(choice, "type");
    *tools = json_object_get(x->body, "tools");
    *force = NULL;
    if (fm_is_given(*tools) && check_tools(*tools, why) < 0) return -1;
    if (json_array_size(*tools) == 0) *tools = NULL;
    if (!fm_is_given(choice) || (word && strcmp(word, "auto") == 0)) return 0;
    if (word && strcmp(word, "none") == 0) {
        *tools = NULL;
        return 0;
    }
    if (word && strcmp(word, "required") == 0)
        *force = "";
    else if (type && strcmp(type, "function") == 0)
        *force = fm_member_text(function, "name");
    if (!*force || (!word && !**force))
        return fm_deny(why, 400, "tool_choice", "'tool_choice' has to be none, auto, required, or {\"type\": \"function\", \"function\": {\"name\"}}");
    if (!*tools) return fm_deny(why, 400, "tool_choice", "'tool_choice' asks for a call, but the request has no tools");
    return 0;
}

/* ---- the template's arguments ---- */

/* reasoning_effort, in the words of the template; "none" also is enable_thinking. A new reference, NULL: there are none. */
static int read_kwargs(fm_exchange *x, json_t **out, fm_refusal *why) {
    json_t *given = json_object_get(x->body, "chat_template_kwargs");
    const char *effort = NULL;
    *out = NULL;
    if (fm_is_given(given) && !json_is_object(given)) return fm_deny(why, 400, "chat_template_kwargs", "'chat_template_kwargs' has to be an object");
    if (fm_field_text(x->body, "reasoning_effort", &effort, why) < 0) return -1;
    json_t *kwargs = json_is_object(given) ? json_copy(given) : json_object();
    if (effort && x->facts->uses_effort) {
        json_object_set_new(kwargs, "reasoning_effort", json_string(effort));
    } else if (effort && x->facts->uses_thinking) {
        json_object_set_new(kwargs, "enable_thinking", json_boolean(strcmp(effort, "none") != 0));
    } else if (effort && strcmp(effort, "none")) {
        json_decref(kwargs);
        return fm_deny(why, 400, "reasoning_effort", "the model's template knows no reasoning_effort");
    }
    if (kwargs && json_object_size(kwargs)) {
        *out = kwargs;
        return 0;
    }
    json_decref(kwargs);
    return 0;
}

/* ---- the request ---- */

static int check_messages(const json_t *messages, fm_refusal *why) {
    enum { MOST = 4096 };
    if (!messages) return fm_deny(why, 400, "messages", "the field 'messages' is missing");
    if (!json_is_array(messages)) return fm_deny(why, 400, "messages", "'messages' has to be a list");
    if (json_array_size(messages) == 0) return fm_deny(why, 400, "messages", "'messages' is empty");
    if (json_array_size(messages) > MOST) return fm_deny(why, 400, "messages", "'messages' has %zu messages, at most %d", json_array_size(messages), MOST);
    return 0;
}

static int read_options(fm_exchange *x, fm_job *job, fm_refusal *why) {
    int most = 1 << 30, n_top = 0;
    bool logprobs = false, parallel = true;
    if (fm_field_int(x->body, "max_tokens", 1, most, &job->max_tokens, why) < 0) return -1;
    if (fm_field_int(x->body, "max_completion_tokens", 1, most, &job->max_tokens, why) < 0) return -1;
    if (fm_field_int(x->body, "think_budget", -1, most, &job->think_budget, why) < 0) return -1;
    if (fm_field_stops(x, "stop", &job->stops, &job->n_stops, why) < 0) return -1;
    if (fm_field_bool(x->body, "logprobs", &logprobs, why) < 0) return -1;
    if (fm_field_int(x->body, "top_logprobs", 0, FM_MOST_LOGPROBS, &n_top, why) < 0) return -1;
    if (n_top && !logprobs) return fm_deny(why, 400, "top_logprobs", "'top_logprobs' needs 'logprobs': true");
    if (fm_field_bool(x->body, "parallel_tool_calls", &parallel, why) < 0) return -1;
    job->n_logprobs = logprobs ? n_top : -1;
    job->one_call = !parallel;
    return 0;
}

static int read_request(fm_exchange *x, fm_job *job, fm_refusal *why) {
    const json_t *tools;
    json_t *kwargs;
    if (read_tools(x, &tools, &job->force_call, why) < 0 || read_kwargs(x, &kwargs, why) < 0) return -1;
    json_t *request = json_object();
    json_object_set(request, "messages", json_object_get(x->body, "messages"));
    if (tools) json_object_set(request, "tools", (json_t *)tools);
    if (kwargs) json_object_set_new(request, "chat_template_kwargs", kwargs);
    job->request = fm_exchange_dump(x, request);
    return job->request ? 0 : fm_no_memory(why);
}

static int read_stream(fm_exchange *x, fm_openai_chat *chat, fm_refusal *why) {
    const json_t *options = json_object_get(x->body, "stream_options");
    static const fm_field known[] = {{"include_usage", FM_FIELD_USED}, {"include_obfuscation", FM_FIELD_ONLY, "false"}};
    if (fm_field_bool(x->body, "stream", &x->stream, why) < 0) return -1;
    if (!fm_is_given(options)) return 0;
    if (!json_is_object(options)) return fm_deny(why, 400, "stream_options", "'stream_options' has to be an object");
    if (!x->stream) return fm_deny(why, 400, "stream_options", "'stream_options' needs 'stream': true");
    if (fm_fields_check(options, known, FM_COUNT(known), why) < 0) return -1;
    return fm_field_bool(options, "include_usage", &chat->include_usage, why);
}

static int parse(fm_exchange *x, fm_refusal *why) {
    fm_openai_chat *chat = x->state = fm_exchange_alloc(x, sizeof *chat);
    int n = 1;
    if (!chat) return fm_no_memory(why);
    if (fm_fields_check(x->body, fields, FM_COUNT(fields), why) < 0) return -1;
    if (fm_field_model(x, why) < 0 || check_messages(json_object_get(x->body, "messages"), why) < 0) return -1;
    if (read_stream(x, chat, why) < 0 || fm_field_int(x->body, "n", 1, x->facts->most_jobs, &n, why) < 0) return -1;
    if (fm_exchange_jobs(x, n, why) < 0 || fm_fields_sampling(x, why) < 0) return -1;
    if (read_options(x, &x->jobs[0], why) < 0 || read_request(x, &x->jobs[0], why) < 0) return -1;
    if (!(chat->logprobs = fm_exchange_alloc(x, (size_t)n * sizeof *chat->logprobs))) return fm_no_memory(why);
    for (int i = 1; i < n; i++) {
        fm_sampling sampling = x->jobs[i].sampling;
        x->jobs[i] = x->jobs[0];
        x->jobs[i].index = i;
        x->jobs[i].sampling = sampling;
    }
    return 0;
}

/* ---- errors ---- */

json_t *fm_openai_error(const fm_refusal *why) {
    const char *type = why->status == 401   ? "authentication_error"
                       : why->status == 403 ? "permission_error"
                       : why->status == 429 ? "rate_limit_error"
                       : why->status >= 500 ? "server_error"
                                            : "invalid_request_error";
    const char *code = *why->code ? why->code : why->status == 401 ? "invalid_api_key" : why->status == 429 ? "rate_limit_exceeded" : NULL;
    return json_pack("{s:{s:o, s:s, s:o, s:s?}}", "error", "message", fm_utf8_json(why->message, strlen(why->message)), "type", type, "param",
                     *why->param ? fm_utf8_json(why->param, strlen(why->param)) : json_null(), "code", code);
}

const fm_api fm_api_openai_chat = {
    .name = "chat/completions",
    .parse = parse,
    .start = fm_openai_start,
    .event = fm_openai_event,
    .end = fm_openai_end,
    .finish = fm_openai_finish,
    .error = fm_openai_error,
    .close = fm_openai_close,
};
