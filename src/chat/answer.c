/* chat/answer.c: one answer: which token comes next, what ends it, and what it was. */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "chat/chat.h"

enum { OPENING, OPENED, NO_CALL };

/* The openings of calls, of which one has to come: those that agree with what has come. */
typedef struct opening {
    int32_t *ids;
    int n;
} opening;

struct fm_answer {
    fm_chat *chat;
    fm_answer_options options; /* stops, force_call: not kept */
    fm_events *events;
    fm_message message;
    char *json, *head;
    json_t *call_names; /* of a forced call: one of them */
    opening *openings;  /* [n_openings] */
    int n_openings, n_opened;
    int call_state; /* of it */
    bool reasoned;
    int32_t *forced; /* [n_forced] tokens that have to come, from next_forced on */
    int n_forced, next_forced;
    int32_t *ids; /* [n_ids] made, without the end-of-text token */
    int n_ids, capacity, n_tokens, n_reasoning;
    bool ended, think_ended;
};

static int take_event(void *user, const fm_event *event) {
    fm_answer *a = user;
    fm_message_add(&a->message, event);
    return a->options.event ? a->options.event(a->options.user, event) : 0;
}

/* ---- opening ---- */

static int open_call(fm_answer *a, const json_t *tools, const char *name, fm_error *err) {
    const fm_call_format *format = fm_call_format_find(a->chat->format);
    if (!format) return fm_fail(err, FM_EUNSUPPORTED, "a call cannot be forced: how this model writes calls ('%s') is not known", a->chat->format);
    if (!json_array_size(tools)) return fm_fail(err, FM_EINVAL, "a call cannot be forced: the request has no tools");
    if (*name && !fm_tool_find(tools, name)) return fm_fail(err, FM_EINVAL, "a call of '%.100s' cannot be forced: the request has no such tool", name);
    a->call_names = json_array();
    for (size_t i = 0; !*name && i < json_array_size(tools); i++) {
        const json_t *tool = json_array_get(tools, i), *function = json_object_get(tool, "function");
        json_t *its = json_object_get(function ? function : tool, "name");
        if (json_is_string(its)) json_array_append(a->call_names, its);
    }
    if (*name) json_array_append_new(a->call_names, json_string(name));
    a->call_state = OPENING;
    return json_array_size(a->call_names) ? 0 : fm_fail(err, FM_EINVAL, "a call cannot be forced: no tool has a name");
}

/* The assistant's header at the end of the prompt, by which the answer is found again. */
static char *find_head(const fm_chat *chat, const char *request, const fm_prompt *prompt) {
    fm_request read;
    if (fm_request_read(&read, chat, request, NULL) < 0) return NULL;
    char *head = read.generate ? fm_chat_head(chat, &read) : NULL;
    size_t n = head ? strlen(head) : 0;
    fm_request_close(&read);
    if (n && n <= prompt->text_bytes && !memcmp(prompt->text + prompt->text_bytes - n, head, n)) return head;
    free(head);
    return NULL;
}

int fm_answer_open(fm_answer **out, fm_chat *chat, const char *request, const fm_prompt *prompt, const fm_answer_options *options, fm_error *err) {
    json_t *tools;
    int rc = fm_request_tools(&tools, request, err);
    *out = NULL;
    if (rc < 0) return rc;
    fm_answer *a = calloc(1, sizeof *a);
    if (!a) {
        json_decref(tools);
        return fm_fail(err, FM_ENOMEM, "no memory for an answer");
    }
    a->chat = chat;
    a->options = (fm_answer_options)FM_ANSWER_OPTIONS_INIT;
    if (options) memcpy(&a->options, options, options->size < sizeof a->options ? options->size : sizeof a->options);
    a->call_state = NO_CALL;
    a->reasoned = prompt->in_reasoning;
    a->head = find_head(chat, request, prompt);
    fm_events_config config = {.format = chat->format, .tools = tools, .in_reasoning = prompt->in_reasoning, .event = take_event, .user = a};
    config.stops = a->options.stops;
    config.n_stops = a->options.n_stops;
    config.seed = XXH3_64bits_withSeed(prompt->ids, (size_t)prompt->n_ids * sizeof *prompt->ids, ++chat->n_answers);
    rc = fm_events_open(&a->events, &config, err);
    if (rc >= 0 && a->options.force_call) rc = open_call(a, tools, a->options.force_call, err);
    json_decref(tools);
    a->options.stops = NULL;
    a->options.force_call = NULL;
    *out = a;
    if (rc < 0) fm_answer_close(out);
    return rc < 0 ? rc : 0;
}

/* ---- tokens ---- */

static int end(fm_answer *a, int stop, fm_error *err) {
    a->ended = true;
    int rc = fm_events_finish(a->events, stop, err);
    return rc < 0 ? rc : 1;
}

static int force(fm_answer *a, const char *text, fm_error *err) {
    fm_chars all = {0};
    fm_chars_put(&all, text);
    fm_free(a->forced);
    a->forced = NULL;
    a->n_forced = a->next_forced = 0;
    int n = fm_chars_check(&all, "an answer", err);
    if (n >= 0) n = fm_engine_encode(a->chat->engine, all.bytes, all.n, true, &a->forced, err);
    if (n > 0) a->n_forced = n;
    fm_chars_close(&all);
    return n < 0 ? n : 0;
}

static void close_openings(fm_answer *a) {
    for (int i = 0; i < a->n_openings; i++) fm_free(a->openings[i].ids);
    free(a->openings);
    a->openings = NULL;
    a->n_openings = a->n_opened = 0;
}

/* A call has to come now, of any of the names: text that comes before it, and what calls begin with. */
static int force_call(fm_answer *a, const char *before, fm_error *err) {
    const fm_call_format *format = fm_call_format_find(a->chat->format);
    size_t n = json_array_size(a->call_names);
    if (!(a->openings = calloc(n, sizeof *a->openings))) return fm_fail(err, FM_ENOMEM, "no memory for a forced call");
    for (size_t i = 0; i < n; i++) {
        fm_chars all = {0};
        fm_chars_put(&all, before);
        format->force(&all, json_string_value(json_array_get(a->call_names, i)));
        int rc = fm_chars_check(&all, "a forced call", err);
        if (rc >= 0) rc = fm_engine_encode(a->chat->engine, all.bytes, all.n, true, &a->openings[i].ids, err);
        fm_chars_close(&all);
        if (rc < 0) return rc;
        a->openings[a->n_openings++].n = rc;
    }
    return 0;
}

/* The next token of an opening: where they part, the likeliest. */
static int32_t open_next(fm_answer *a, const float *logits) {
    int32_t best = -1;
    int n = 0;
    for (int i = 0; i < a->n_openings; i++) {
        int32_t id = a->openings[i].ids[a->n_opened];
        if (best < 0 || (id != best && logits && logits[id] > logits[best])) best = id;
    }
    a->n_opened++;
    for (int i = 0; i < a->n_openings; i++) {
        opening o = a->openings[i];
        if (o.ids[a->n_opened - 1] == best && o.n > a->n_opened)
            a->openings[n++] = o;
        else
            fm_free(o.ids);
    }
    if (!(a->n_openings = n)) close_openings(a);
    return best;
}

/* What has to come now, if anything: the end of reasoning that took too long, or a call. */
static int plan(fm_answer *a, fm_error *err) {
    if (a->next_forced < a->n_forced || a->n_openings) return 0;
    bool reasoning = fm_events_in_reasoning(a->events);
    a->reasoned |= reasoning;
    if (reasoning && a->options.think_budget >= 0 && a->n_reasoning >= a->options.think_budget && !a->think_ended && !fm_events_in_character(a->events)) {
        a->think_ended = true;
        return force(a, a->chat->think_end, err);
    }
    if (a->call_state != OPENING || reasoning || !fm_events_silent(a->events)) return 0;
    a->call_state = OPENED;
    const char *gap = strstr(a->chat->think_end, "</think>");
    bool at_once = a->n_ids > 0 && a->reasoned && !a->think_ended; /* the model has just ended its reasoning */
    return force_call(a, at_once && gap ? gap + 8 : "", err);
}

static int keep(fm_answer *a, int32_t id, fm_error *err) {
    if (a->n_ids == a->capacity) {
        int capacity = 2 * a->capacity + 256;
        int32_t *ids = realloc(a->ids, (size_t)capacity * sizeof *ids);
        if (!ids) return fm_fail(err, FM_ENOMEM, "no memory for the %d tokens of an answer", capacity);
        a->ids = ids;
        a->capacity = capacity;
    }
    a->ids[a->n_ids++] = id;
    return 0;
}

int fm_answer_next(fm_answer *a, fm_sampler *sampler, const float *logits, int32_t *id, fm_error *err) {
    const char *bytes;
    int rc;
    if (a->ended) return 1;
    if (a->options.max_tokens >= 0 && a->n_tokens >= a->options.max_tokens) return end(a, FM_STOP_LENGTH, err);
    if ((rc = plan(a, err)) < 0) return rc;
    bool forced = a->next_forced < a->n_forced, opens = !forced && a->n_openings > 0;
    if (!forced && !logits) return fm_fail(err, FM_EINVAL, "there are no logits to choose a token from");
    *id = forced ? a->forced[a->next_forced++] : opens ? open_next(a, logits) : fm_sampler_choose(sampler, logits, err);
    forced |= opens;
    if (*id < 0) return *id;
    fm_sampler_feed(sampler, *id);
    a->n_tokens++;
    if (!forced && fm_engine_token_is_eos(a->chat->engine, *id)) return end(a, FM_STOP_EOS, err);
    if ((rc = keep(a, *id, err)) < 0) return rc;
    a->n_reasoning += fm_events_in_reasoning(a->events) && !forced;
    int n = fm_engine_token_bytes(a->chat->engine, *id, &bytes);
    if ((rc = fm_events_feed(a->events, bytes, (size_t)n, err)) < 0) return rc;
    if (rc == FM_EVENTS_STRING) return end(a, FM_STOP_STRING, err);
    if (rc == FM_EVENTS_REFUSED) return end(a, FM_STOP_CANCELLED, err);
    return a->options.max_tokens >= 0 && a->n_tokens >= a->options.max_tokens ? end(a, FM_STOP_LENGTH, err) : 0;
}

int fm_answer_end(fm_answer *a, int stop, fm_error *err) {
    if (a->ended) return 0;
    int rc = end(a, stop, err);
    return rc < 0 ? rc : 0;
}

int fm_answer_n_tokens(const fm_answer *a) { return a->n_tokens; }
int fm_answer_n_reasoning(const fm_answer *a) { return a->n_reasoning; }

const char *fm_answer_message(fm_answer *a) {
    json_t *message = fm_message_json(&a->message);
    free(a->json);
    a->json = message ? json_dumps(message, 0) : NULL;
    json_decref(message);
    return a->json;
}

/* ---- closing ---- */

static void remember(fm_answer *a) {
    fm_memory_entry entry = {.head = a->head, .ids = a->ids, .n = a->n_ids};
    json_t *message = fm_message_json(&a->message);
    fm_chars bytes = {0};
    entry.ends = malloc(((size_t)a->n_ids + 1) * sizeof *entry.ends);
    for (int i = 0; entry.ends && i < a->n_ids; i++) {
        const char *its;
        int n = fm_engine_token_bytes(a->chat->engine, a->ids[i], &its);
        fm_chars_add(&bytes, its, (size_t)n);
        entry.ends[i] = bytes.n;
    }
    entry.bytes = bytes.bytes;
    a->head = NULL;
    a->ids = NULL;
    if (message && entry.ends && !bytes.failed) {
        entry.message = fm_message_key(message, &entry.call);
        fm_memory_add(&a->chat->memory, &entry);
    } else {
        fm_memory_entry_close(&entry);
    }
    json_decref(message);
}

void fm_answer_close(fm_answer **answer) {
    fm_answer *a = *answer;
    if (!a) return;
    if (a->head && a->n_ids) remember(a);
    fm_events_close(&a->events);
    fm_message_close(&a->message);
    close_openings(a);
    json_decref(a->call_names);
    fm_free(a->forced);
    free(a->json);
    free(a->head);
    free(a->ids);
    free(a);
    *answer = NULL;
}
