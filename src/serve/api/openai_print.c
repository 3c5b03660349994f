/* serve/api/openai_print.c: answers of POST /v1/chat/completions, streamed and whole. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "serve/api/openai.h"

static json_t *text(const char *bytes, size_t n) { return fm_utf8_json(bytes, n); }
static json_t *name_of(const fm_exchange *x) { return text(x->facts->alias, strlen(x->facts->alias)); }

static const char *finish_reason(const fm_job *job) { return job->stop == FM_STOP_CALLS ? "tool_calls" : job->stop == FM_STOP_LENGTH ? "length" : "stop"; }

/* {"prompt_tokens" …}, of all jobs. */
static json_t *usage_of(const fm_exchange *x) {
    int n_answer = 0, n_reasoning = 0, n_prompt = x->jobs[0].n_prompt;
    for (int i = 0; i < x->n_jobs; i++) {
        n_answer += x->jobs[i].n_tokens;
        n_reasoning += x->jobs[i].n_reasoning;
    }
    return json_pack("{s:i, s:i, s:i, s:{s:i}, s:{s:i}}", "prompt_tokens", n_prompt, "completion_tokens", n_answer, "total_tokens", n_prompt + n_answer,
                     "prompt_tokens_details", "cached_tokens", x->jobs[0].n_cached, "completion_tokens_details", "reasoning_tokens", n_reasoning);
}

/* How fast it was, under the names that other servers have, of an exchange of one job: calls are held back until they are whole, so clients cannot measure it. NULL: of several. */
static json_t *timings(const fm_exchange *x) {
    const fm_job *job = &x->jobs[0];
    int n_after = job->n_tokens > 1 ? job->n_tokens - 1 : 0;
    if (x->n_jobs != 1) return NULL;
    return json_pack("{s:i, s:i, s:f, s:i, s:f, s:f}", "cache_n", job->n_cached, "prompt_n", job->n_prompt - job->n_cached, "prompt_ms",
                     1e3 * job->prompt_seconds, "predicted_n", job->n_tokens, "predicted_ms", 1e3 * job->answer_seconds, "predicted_per_second",
                     n_after && job->answer_seconds > 0 ? n_after / job->answer_seconds : 0.0);
}

/* ---- probabilities ---- */

static json_t *probability(const fm_exchange *x, const fm_logprob *p) {
    const char *bytes;
    int n = fm_engine_token_bytes(fm_exchange_engine(x), p->id, &bytes);
    json_t *numbers = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(numbers, json_integer((unsigned char)bytes[i]));
    return json_pack("{s:o, s:f, s:o}", "token", text(bytes, (size_t)n), "logprob", isfinite(p->logprob) ? (double)p->logprob : -9999.0, "bytes", numbers);
}

static json_t *probabilities(const fm_job *job) {
    json_t *list = json_array();
    for (int i = 0; i < job->n_new; i++) {
        json_t *token = probability(job->exchange, &job->tokens[i].chosen), *top = json_array();
        for (int k = 0; k < job->n_logprobs; k++) json_array_append_new(top, probability(job->exchange, &job->tokens[i].top[k]));
        json_object_set_new(token, "top_logprobs", top);
        json_array_append_new(list, token);
    }
    return list;
}

static json_t *logprobs_object(json_t *content) { return content ? json_pack("{s:o, s:n}", "content", content, "refusal") : json_null(); }

/* ---- streamed ---- */

static json_t *chunk(const fm_exchange *x, json_t *choices) {
    const fm_openai_chat *chat = x->state;
    char id[48];
    snprintf(id, sizeof id, "chatcmpl-%s", x->id);
    json_t *json = json_pack("{s:s, s:s, s:I, s:o, s:s, s:o}", "id", id, "object", "chat.completion.chunk", "created", (json_int_t)x->created, "model",
                             name_of(x), "system_fingerprint", "flash-moe-" FM_VERSION, "choices", choices);
    if (json && chat->include_usage) json_object_set_new(json, "usage", json_null());
    return json;
}

static void send_delta(fm_exchange *x, const fm_job *job, json_t *delta, json_t *logprobs, const char *finish_reason) {
    fm_sse(x, NULL,
           chunk(x, json_pack("[{s:i, s:o, s:o, s:s?}]", "index", job->index, "delta", delta, "logprobs", logprobs_object(logprobs), "finish_reason",
                              finish_reason)));
}

void fm_openai_start(fm_exchange *x) {
    for (int i = 0; i < x->n_jobs && x->stream; i++) send_delta(x, &x->jobs[i], json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL, NULL);
}

void fm_openai_event(fm_exchange *x, fm_job *job, const fm_event *e) {
    fm_openai_chat *chat = x->state;
    json_t *logprobs = job->n_logprobs >= 0 && e->type == FM_EVENT_TEXT ? probabilities(job) : NULL;
    if (!x->stream) {
        if (!logprobs) return;
        if (!chat->logprobs[job->index]) chat->logprobs[job->index] = json_array();
        json_array_extend(chat->logprobs[job->index], logprobs);
        json_decref(logprobs);
        return;
    }
    json_t *delta = NULL;
    if (e->type == FM_EVENT_TEXT) delta = json_pack("{s:o}", "content", text(e->text, e->bytes));
    if (e->type == FM_EVENT_REASONING) delta = json_pack("{s:o}", "reasoning_content", text(e->text, e->bytes));
    if (e->type == FM_EVENT_CALL)
        delta = json_pack("{s:[{s:i, s:s, s:s, s:{s:o, s:s}}]}", "tool_calls", "index", e->call, "id", e->id, "type", "function", "function", "name",
                          text(e->name, strlen(e->name)), "arguments", "");
    if (e->type == FM_EVENT_ARGUMENTS)
        delta = json_pack("{s:[{s:i, s:{s:o}}]}", "tool_calls", "index", e->call, "function", "arguments", text(e->text, e->bytes));
    if (delta) send_delta(x, job, delta, logprobs, NULL);
}

void fm_openai_end(fm_exchange *x, fm_job *job) {
    if (x->stream) send_delta(x, job, json_object(), NULL, finish_reason(job));
}

static void finish_stream(fm_exchange *x) {
    const fm_openai_chat *chat = x->state;
    if (chat->include_usage) {
        json_t *last = chunk(x, json_array());
        json_object_set_new(last, "usage", usage_of(x));
        json_object_set_new(last, "timings", timings(x));
        fm_sse(x, NULL, last);
    }
    fm_put(x, "data: [DONE]\n\n", 14);
}

/* ---- whole ---- */

static json_t *choice(const fm_exchange *x, const fm_job *job) {
    fm_openai_chat *chat = x->state;
    json_t *logprobs = chat->logprobs[job->index], *message = job->message ? json_loads(job->message, 0, NULL) : NULL;
    if (!logprobs && job->n_logprobs >= 0) logprobs = json_array();
    chat->logprobs[job->index] = NULL;
    return json_pack("{s:i, s:o?, s:o, s:s}", "index", job->index, "message", message, "logprobs", logprobs_object(logprobs), "finish_reason",
                     finish_reason(job));
}

void fm_openai_finish(fm_exchange *x) {
    char id[48];
    if (x->stream) {
        finish_stream(x);
        return;
    }
    json_t *choices = json_array();
    for (int i = 0; i < x->n_jobs; i++) json_array_append_new(choices, choice(x, &x->jobs[i]));
    snprintf(id, sizeof id, "chatcmpl-%s", x->id);
    fm_reply_json(x, 200,
                  json_pack("{s:s, s:s, s:I, s:o, s:s, s:o, s:o}", "id", id, "object", "chat.completion", "created", (json_int_t)x->created, "model",
                            name_of(x), "system_fingerprint", "flash-moe-" FM_VERSION, "choices", choices, "usage", usage_of(x)));
}

void fm_openai_close(fm_exchange *x) {
    fm_openai_chat *chat = x->state;
    for (int i = 0; chat && chat->logprobs && i < x->n_jobs; i++) json_decref(chat->logprobs[i]);
}
