/* serve/api/completions.c: OpenAI's POST /v1/completions: texts or tokens that go on, without a chat template. Each prompt has n answers; the jobs are in that order. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "serve/api/apis.h"
#include "serve/api/joined.h"

enum { DEFAULT_MAX_TOKENS = 16 }; /* as OpenAI has it */

typedef struct answer { /* of one job */
    fm_joined text;
    json_t *tokens, *token_logprobs, *top_logprobs, *offsets; /* NULL: no probabilities yet */
    size_t offset;                                            /* of the next token, in characters */
} answer;

typedef struct state {
    bool echo, usage;
    int n;           /* answers of each prompt */
    answer *answers; /* [n_jobs] */
} state;

/* ---- prompts ---- */

static int read_ids(fm_exchange *x, fm_job *job, const json_t *list, fm_refusal *why) {
    size_t n = json_array_size(list);
    int32_t *ids = fm_exchange_alloc(x, (n + 1) * sizeof *ids);
    if (!ids) return fm_no_memory(why);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(list, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= x->facts->vocab)
            return fm_deny(why, 400, "prompt", "prompt: token %zu is not a number from 0 to %d", i, x->facts->vocab - 1);
        ids[i] = (int32_t)json_integer_value(id);
    }
    job->ids = ids;
    job->n_ids = (int)n;
    return n ? 0 : fm_deny(why, 400, "prompt", "prompt: it is empty");
}

static int read_prompt(fm_exchange *x, fm_job *job, const json_t *prompt, fm_refusal *why) {
    if (json_is_array(prompt)) return read_ids(x, job, prompt, why);
    if (!json_is_string(prompt)) return fm_deny(why, 400, "prompt", "prompt: neither a string, nor tokens, nor a list of such");
    job->text = json_string_value(prompt);
    if (strlen(job->text) != json_string_length(prompt)) return fm_deny(why, 400, "prompt", "prompt: it holds a NUL");
    return *job->text ? 0 : fm_deny(why, 400, "prompt", "prompt: it is empty");
}

/* Makes the jobs: of each prompt, n. */
static int read_prompts(fm_exchange *x, int n, fm_refusal *why) {
    const json_t *prompt = json_object_get(x->body, "prompt");
    bool several = json_is_array(prompt) && !json_is_integer(json_array_get(prompt, 0));
    size_t n_prompts = several ? json_array_size(prompt) : 1;
    if (!fm_is_given(prompt)) return fm_deny(why, 400, "prompt", "prompt: it has to be there");
    if (!n_prompts) return fm_deny(why, 400, "prompt", "prompt: it is empty");
    if (n_prompts * (size_t)n > (size_t)x->facts->most_jobs)
        return fm_deny(why, 400, n > 1 ? "n" : "prompt", "%zu answers are asked for at once, and there may be at most %d", n_prompts * (size_t)n,
                       x->facts->most_jobs);
    if (fm_exchange_jobs(x, (int)n_prompts * n, why) < 0) return -1;
    for (int i = 0; i < x->n_jobs; i++) {
        if (i % n) {
            x->jobs[i].text = x->jobs[i - 1].text;
            x->jobs[i].ids = x->jobs[i - 1].ids;
            x->jobs[i].n_ids = x->jobs[i - 1].n_ids;
        } else if (read_prompt(x, &x->jobs[i], several ? json_array_get(prompt, (size_t)(i / n)) : prompt, why) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- the other fields ---- */

static const fm_field FIELDS[] = {
    {"model", FM_FIELD_USED},
    {"prompt", FM_FIELD_USED},
    {"echo", FM_FIELD_USED},
    {"best_of", FM_FIELD_USED},
    {"logprobs", FM_FIELD_USED},
    {"max_tokens", FM_FIELD_USED},
    {"n", FM_FIELD_USED},
    {"stream", FM_FIELD_USED},
    {"stream_options", FM_FIELD_USED},
    {"stop", FM_FIELD_USED},
    {"temperature", FM_FIELD_USED},
    {"top_p", FM_FIELD_USED},
    {"top_k", FM_FIELD_USED},
    {"min_p", FM_FIELD_USED},
    {"presence_penalty", FM_FIELD_USED},
    {"frequency_penalty", FM_FIELD_USED},
    {"repeat_penalty", FM_FIELD_USED},
    {"repetition_penalty", FM_FIELD_USED},
    {"logit_bias", FM_FIELD_USED},
    {"seed", FM_FIELD_USED},
    {"user", FM_FIELD_ADVISORY},
    {"suffix", FM_FIELD_ONLY, "\"\""},
};

static const fm_field STREAM_OPTIONS[] = {
    {"include_usage", FM_FIELD_USED},
    {"include_obfuscation", FM_FIELD_ADVISORY},
};

static int read_stream(fm_exchange *x, state *its, fm_refusal *why) {
    const json_t *options = json_object_get(x->body, "stream_options");
    if (fm_field_bool(x->body, "stream", &x->stream, why) < 0) return -1;
    if (!fm_is_given(options)) return 0;
    if (!json_is_object(options)) return fm_deny(why, 400, "stream_options", "stream_options: it has to be an object");
    if (!x->stream) return fm_deny(why, 400, "stream_options", "stream_options: it is only for streams");
    int rc = fm_fields_check(options, STREAM_OPTIONS, FM_COUNT(STREAM_OPTIONS), why);
    if (rc >= 0) rc = fm_field_bool(options, "include_usage", &its->usage, why);
    return fm_denied_inside("stream_options", rc, why);
}

static int read_options(fm_exchange *x, state *its, fm_refusal *why) {
    fm_job *job = x->jobs;
    int best_of = its->n;
    job->max_tokens = DEFAULT_MAX_TOKENS;
    if (fm_field_int(x->body, "max_tokens", 1, 1 << 30, &job->max_tokens, why) < 0 || fm_field_stops(x, "stop", &job->stops, &job->n_stops, why) < 0) return -1;
    if (fm_field_bool(x->body, "echo", &its->echo, why) < 0 || fm_field_int(x->body, "logprobs", 0, FM_MOST_LOGPROBS, &job->n_logprobs, why) < 0) return -1;
    if (fm_field_int(x->body, "best_of", 1, 1 << 30, &best_of, why) < 0) return -1;
    if (best_of != its->n) return fm_deny(why, 400, "best_of", "best_of: choosing among more answers than n is not supported");
    if (its->echo && job->n_logprobs >= 0) return fm_deny(why, 400, "logprobs", "logprobs: those of the prompt (echo) are not supported");
    for (int i = 1; i < x->n_jobs; i++) {
        x->jobs[i].max_tokens = job->max_tokens;
        x->jobs[i].stops = job->stops;
        x->jobs[i].n_stops = job->n_stops;
        x->jobs[i].n_logprobs = job->n_logprobs;
    }
    return 0;
}

static int parse(fm_exchange *x, fm_refusal *why) {
    state *its = x->state = fm_exchange_alloc(x, sizeof *its);
    if (!its) return fm_no_memory(why);
    its->n = 1;
    if (fm_fields_check(x->body, FIELDS, FM_COUNT(FIELDS), why) < 0 || fm_field_model(x, why) < 0) return -1;
    if (fm_field_int(x->body, "n", 1, x->facts->most_jobs, &its->n, why) < 0 || read_stream(x, its, why) < 0 || read_prompts(x, its->n, why) < 0) return -1;
    if (fm_fields_sampling(x, why) < 0 || read_options(x, its, why) < 0) return -1;
    its->answers = fm_exchange_alloc(x, (size_t)x->n_jobs * sizeof *its->answers);
    return its->answers ? 0 : fm_no_memory(why);
}

/* ---- probabilities ---- */

/* A token as the key of a list of probabilities: what is no UTF-8 as OpenAI has it, "bytes:\\xff". */
static json_t *name_of(const fm_exchange *x, int32_t id) {
    const char *bytes = "";
    int n = fm_engine_token_bytes(fm_exchange_engine(x), id, &bytes);
    json_t *name = json_stringn(n ? bytes : "", (size_t)n);
    if (name && strlen(json_string_value(name)) == json_string_length(name)) return name;
    json_decref(name);
    fm_joined text = {0};
    fm_joined_add(&text, "bytes:", 6);
    for (int i = 0; i < n; i++) {
        char hex[8];
        fm_joined_add(&text, hex, (size_t)snprintf(hex, sizeof hex, "\\x%02x", (unsigned char)bytes[i]));
    }
    return fm_joined_take(&text);
}

static void put_probability(const fm_exchange *x, json_t *top, const fm_logprob *p) {
    json_t *name = name_of(x, p->id);
    if (name) json_object_set_new(top, json_string_value(name), json_real(isfinite(p->logprob) ? (double)p->logprob : -9999.0));
    json_decref(name);
}

static void note_tokens(const fm_exchange *x, const fm_job *job, answer *a) {
    if (!a->tokens) {
        a->tokens = json_array();
        a->token_logprobs = json_array();
        a->top_logprobs = job->n_logprobs > 0 ? json_array() : json_null();
        a->offsets = json_array();
    }
    for (int i = 0; i < job->n_new; i++) {
        const fm_token *token = &job->tokens[i];
        json_t *top = json_object();
        for (int k = 0; k < job->n_logprobs; k++) put_probability(x, top, &token->top[k]);
        put_probability(x, top, &token->chosen);
        json_array_append_new(a->tokens, name_of(x, token->chosen.id));
        json_array_append_new(a->token_logprobs, json_real(isfinite(token->chosen.logprob) ? (double)token->chosen.logprob : -9999.0));
        json_array_append_new(a->offsets, json_integer((json_int_t)a->offset));
        if (job->n_logprobs > 0) json_array_append(a->top_logprobs, top);
        json_decref(top);
        const char *bytes;
        int n = fm_engine_token_bytes(fm_exchange_engine(x), token->chosen.id, &bytes);
        for (int k = 0; k < n; k++) a->offset += (bytes[k] & 0xc0) != 0x80;
    }
}

/* What was noted, and nothing more of it is. */
static json_t *take_tokens(answer *a) {
    if (!a->tokens) return json_null();
    json_t *logprobs =
        json_pack("{s:o, s:o, s:o, s:o}", "tokens", a->tokens, "token_logprobs", a->token_logprobs, "top_logprobs", a->top_logprobs, "text_offset", a->offsets);
    a->tokens = a->token_logprobs = a->top_logprobs = a->offsets = NULL;
    return logprobs;
}

/* ---- answers ---- */

static json_t *choice_of(const fm_job *job, json_t *text, json_t *logprobs, bool ended) {
    const char *reason = !ended ? NULL : job->stop == FM_STOP_LENGTH ? "length" : "stop";
    return json_pack("{s:o, s:i, s:o, s:s?}", "text", text, "index", job->index, "logprobs", logprobs, "finish_reason", reason);
}

static json_t *completion_of(const fm_exchange *x, json_t *choices, json_t *usage) {
    json_t *all =
        json_pack("{s:o, s:s, s:I, s:o, s:s, s:o}", "id", json_sprintf("cmpl-%s", x->id), "object", "text_completion", "created", (json_int_t)x->created,
                  "model", fm_utf8_json(x->facts->alias, strlen(x->facts->alias)), "system_fingerprint", "flash-moe-" FM_VERSION, "choices", choices);
    if (usage) json_object_set_new(all, "usage", usage);
    return all;
}

/* Each prompt counts once. */
static json_t *usage_of(const fm_exchange *x) {
    const state *its = x->state;
    int n_prompt = 0, n_cached = 0, n_tokens = 0;
    for (int i = 0; i < x->n_jobs; i++) {
        n_tokens += x->jobs[i].n_tokens;
        if (i % its->n) continue;
        n_prompt += x->jobs[i].n_prompt;
        n_cached += x->jobs[i].n_cached;
    }
    return json_pack("{s:i, s:i, s:i, s:{s:i}}", "prompt_tokens", n_prompt, "completion_tokens", n_tokens, "total_tokens", n_prompt + n_tokens,
                     "prompt_tokens_details", "cached_tokens", n_cached);
}

static void send_choice(fm_exchange *x, json_t *choice) {
    const state *its = x->state;
    fm_sse(x, NULL, completion_of(x, json_pack("[o]", choice), its->usage ? json_null() : NULL));
}

/* A prompt's text, for echo. */
static json_t *prompt_of(const fm_exchange *x, const fm_job *job) {
    fm_joined text = {0};
    if (job->text) fm_joined_add(&text, job->text, strlen(job->text));
    for (int i = 0; i < job->n_ids; i++) {
        const char *bytes;
        int n = fm_engine_token_bytes(fm_exchange_engine(x), job->ids[i], &bytes);
        fm_joined_add(&text, bytes, (size_t)n);
    }
    return fm_joined_take(&text);
}

static void start(fm_exchange *x) {
    state *its = x->state;
    for (int i = 0; i < x->n_jobs && its->echo; i++) {
        json_t *prompt = prompt_of(x, &x->jobs[i]);
        if (x->stream) {
            send_choice(x, choice_of(&x->jobs[i], prompt, json_null(), false));
            continue;
        }
        fm_joined_add_json(&its->answers[i].text, prompt);
        json_decref(prompt);
    }
}

static void take_event(fm_exchange *x, fm_job *job, const fm_event *event) {
    state *its = x->state;
    answer *a = &its->answers[job->index];
    if (event->type != FM_EVENT_TEXT) return;
    if (job->n_logprobs >= 0) note_tokens(x, job, a);
    if (x->stream)
        send_choice(x, choice_of(job, fm_utf8_json(event->text, event->bytes), take_tokens(a), false));
    else
        fm_joined_add(&a->text, event->text, event->bytes);
}

static void end_job(fm_exchange *x, fm_job *job) {
    if (x->stream) send_choice(x, choice_of(job, json_string(""), json_null(), true));
}

static void finish(fm_exchange *x) {
    state *its = x->state;
    if (x->stream) {
        if (its->usage) fm_sse(x, NULL, completion_of(x, json_array(), usage_of(x)));
        fm_put(x, "data: [DONE]\n\n", 14);
        return;
    }
    json_t *choices = json_array();
    for (int i = 0; i < x->n_jobs; i++)
        json_array_append_new(choices, choice_of(&x->jobs[i], fm_joined_take(&its->answers[i].text), take_tokens(&its->answers[i]), true));
    fm_reply_json(x, 200, completion_of(x, choices, usage_of(x)));
}

static void close_state(fm_exchange *x) {
    state *its = x->state;
    for (int i = 0; its && its->answers && i < x->n_jobs; i++) {
        fm_joined_clear(&its->answers[i].text);
        json_decref(take_tokens(&its->answers[i]));
    }
}

const fm_api fm_api_completions = {
    .name = "completions",
    .parse = parse,
    .start = start,
    .event = take_event,
    .end = end_job,
    .finish = finish,
    .error = fm_openai_error,
    .close = close_state,
};
