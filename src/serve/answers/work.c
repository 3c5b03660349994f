/* serve/answers/work.c: one answer, from its prompt to its last token. On the engine's thread. */
#include <stdlib.h>
#include <string.h>

#include "serve/server.h"

enum { LONG_STRETCH = 512, FIRST_STEP = 64 };

/* Events wait until the probability of the token that they came from is known. */
typedef struct fm_held_event {
    fm_event event;
    char *text, *id, *name;
} held_event;

static char *copy(const char *text, size_t n) {
    char *to = text ? malloc(n + 1) : NULL;
    if (!to) return NULL;
    memcpy(to, text, n);
    to[n] = '\0';
    return to;
}

static int on_event(void *user, const fm_event *event) {
    fm_work *r = user;
    if (r->calls_end && event->type != FM_EVENT_STOP) return 1;
    if (r->n_events == r->room_events) {
        int room = 2 * r->room_events + 8;
        held_event *events = realloc(r->events, (size_t)room * sizeof *events);
        if (!events) return 1;
        r->events = events;
        r->room_events = room;
    }
    held_event *h = &r->events[r->n_events++];
    *h = (held_event){.event = *event, .text = copy(event->text, event->bytes)};
    h->id = event->id ? strdup(event->id) : NULL;
    h->name = event->name ? strdup(event->name) : NULL;
    h->event.text = h->text;
    h->event.id = h->id;
    h->event.name = h->name;
    if (event->type == FM_EVENT_CALL_END && r->job->one_call) r->calls_end = true;
    return r->calls_end;
}

/* ---- opening ---- */

static void add_border(fm_work *r, int at) {
    int i = r->n_borders;
    while (i > 0 && r->borders[i - 1] > at) i--;
    if (at <= 0 || at >= r->n_ids || (i > 0 && r->borders[i - 1] == at)) return;
    memmove(r->borders + i + 1, r->borders + i, (size_t)(r->n_borders++ - i) * sizeof *r->borders);
    r->borders[i] = at;
}

/* Where snapshots are kept: the template's borders; some in long stretches; and for other answers to the same prompt, its end. */
static int set_borders(fm_work *r, const fm_prompt *prompt) {
    if (!(r->borders = calloc((size_t)prompt->n_borders + 16, sizeof *r->borders))) return -1;
    for (int i = 0; i < prompt->n_borders; i++) add_border(r, prompt->borders[i]);
    for (int step = FIRST_STEP; r->n_ids >= LONG_STRETCH && step < r->n_ids; step *= 4) add_border(r, (r->n_ids - 1) / step * step);
    if (r->job->exchange->n_jobs > 1) add_border(r, r->n_ids - 1);
    return 0;
}

/* The prompt's tokens: of a template, of a text, or given. */
static int make_prompt(fm_server *s, fm_job *job, fm_prompt *prompt, fm_refusal *why) {
    fm_error err = {0};
    int rc = 0;
    if (job->request) {
        if (!s->chat) return fm_deny(why, 400, NULL, "the model has no chat template: there is only /v1/completions");
        rc = fm_chat_prompt(s->chat, job->request, prompt, &err);
    } else if (job->text) {
        rc = prompt->n_ids = fm_engine_encode(s->engine, job->text, strlen(job->text), true, &prompt->ids, &err);
    } else {
        prompt->ids = malloc(((size_t)job->n_ids + 1) * sizeof *prompt->ids);
        if (!prompt->ids) return fm_deny(why, 500, NULL, "there is no memory for a prompt");
        memcpy(prompt->ids, job->ids, (size_t)job->n_ids * sizeof *prompt->ids);
        prompt->n_ids = job->n_ids;
    }
    if (rc < 0) {
        fm_deny_error(why, &err);
        if (why->status == 400) snprintf(why->param, sizeof why->param, job->request ? "messages" : "prompt");
        return -1;
    }
    for (int i = 0; i < prompt->n_ids; i++)
        if (prompt->ids[i] < 0 || prompt->ids[i] >= s->facts.vocab)
            return fm_deny(why, 400, "prompt", "token %d at place %d is outside the vocabulary of %d", (int)prompt->ids[i], i, s->facts.vocab);
    if (prompt->n_ids == 0) return fm_deny(why, 400, job->request ? "messages" : "prompt", "the prompt is empty");
    if (prompt->n_ids < s->facts.context) return 0;
    fm_deny(why, 400, job->request ? "messages" : "prompt", "the prompt has %d tokens and the context %d, of which at least one is the answer's", prompt->n_ids,
            s->facts.context);
    snprintf(why->code, sizeof why->code, "context_length_exceeded");
    return -1;
}

static int open_answer(fm_server *s, fm_work *r, const fm_prompt *prompt, fm_refusal *why) {
    const fm_job *job = r->job;
    fm_answer_options options = FM_ANSWER_OPTIONS_INIT;
    fm_error err = {0};
    options.max_tokens = job->max_tokens;
    options.think_budget = job->think_budget;
    options.stops = job->stops;
    options.n_stops = job->n_stops;
    options.force_call = job->force_call;
    options.event = on_event;
    options.user = r;
    int rc = fm_sampler_open(&r->sampler, s->facts.vocab, &job->sampling, &err);
    if (rc >= 0 && job->request) {
        rc = fm_answer_open(&r->answer, s->chat, job->request, prompt, &options, &err);
        if (rc < 0 && job->force_call) {
            fm_deny_error(why, &err);
            snprintf(why->param, sizeof why->param, "tool_choice");
            return -1;
        }
    } else if (rc >= 0 && !(r->raw = fm_raw_open(job, on_event, r))) {
        return fm_deny(why, 500, NULL, "there is no memory for an answer");
    }
    return rc < 0 ? fm_deny_error(why, &err) : 0;
}

int fm_work_open(fm_server *s, fm_job *job, fm_refusal *why) {
    fm_prompt prompt = {0};
    fm_work *r = job->run = calloc(1, sizeof *r);
    if (!r) return fm_deny(why, 500, NULL, "there is no memory for an answer");
    r->job = job;
    r->began = fm_serve_now();
    int rc = make_prompt(s, job, &prompt, why);
    if (rc == 0) rc = open_answer(s, r, &prompt, why);
    if (rc == 0) {
        job->n_prompt = r->n_prompt = r->n_ids = r->room_ids = prompt.n_ids;
        r->ids = prompt.ids;
        if (set_borders(r, &prompt) < 0) rc = fm_deny(why, 500, NULL, "there is no memory for an answer");
        prompt.ids = NULL;
    }
    fm_prompt_clear(&prompt);
    return rc;
}

int fm_work_begin(fm_work *r, fm_session *session, fm_error *err) {
    int kept = fm_session_rewind(session, r->ids, r->n_ids, err);
    if (kept < 0) return kept;
    if (!r->begun) {
        for (int i = 0; i < r->n_prompt; i++) fm_sampler_feed(r->sampler, r->ids[i]);
        r->job->n_cached = kept;
        r->begun = true;
    }
    r->session = session;
    return 0;
}

/* ---- tokens ---- */

/* The tokens that a piece of text is made of, from the beginning of those whose text has not come out. Tokens in between that are no part of it are dropped. */
static int match_tokens(const fm_engine *engine, fm_work *r, const char *text, size_t n, int *first) {
    int to = 0, from = 0;
    for (size_t at = 0; at < n && from < r->n_tokens; from++) {
        const char *bytes;
        int n_bytes = fm_engine_token_bytes(engine, r->tokens[from].chosen.id, &bytes);
        size_t left = n - at, common = (size_t)n_bytes < left ? (size_t)n_bytes : left;
        bool replaced = left >= 3 && memcmp(text + at, "\xef\xbf\xbd", 3) == 0;
        if (!common || (memcmp(bytes, text + at, common) && !replaced)) continue;
        at += replaced && memcmp(bytes, text + at, common) ? 3 : common;
        r->tokens[to++] = r->tokens[from];
    }
    *first = from;
    return to;
}

static void give_event(fm_server *s, fm_work *r, const fm_event *event) {
    fm_job *job = r->job;
    int used = r->n_tokens;
    if (event->type == FM_EVENT_STOP) {
        job->stop = r->calls_end ? FM_STOP_CALLS : event->stop;
        for (int i = 0; i < job->n_stops && event->text && job->stop == FM_STOP_STRING; i++)
            if (!strcmp(job->stops[i], event->text)) job->stopped_by = job->stops[i];
        return;
    }
    job->n_new = 0;
    if (event->type == FM_EVENT_TEXT && r->n_tokens) {
        job->n_new = match_tokens(s->engine, r, event->text, event->bytes, &used);
        job->tokens = r->tokens;
    }
    if (job->exchange->api->event) job->exchange->api->event(job->exchange, job, event);
    r->n_tokens -= used;
    if (r->n_tokens) memmove(r->tokens, r->tokens + used, (size_t)r->n_tokens * sizeof *r->tokens);
    job->n_new = 0;
}

static void give_events(fm_server *s, fm_work *r) {
    for (int i = 0; i < r->n_events; i++) {
        give_event(s, r, &r->events[i].event);
        free(r->events[i].text);
        free(r->events[i].id);
        free(r->events[i].name);
    }
    r->n_events = 0;
}

static int out_of_memory(fm_error *err) {
    *err = (fm_error){.code = FM_ENOMEM, .message = "no memory for an answer"};
    return FM_ENOMEM;
}

static int note_token(fm_server *s, fm_work *r, int32_t id, const float *logits, fm_error *err) {
    if (r->n_tokens == r->room_tokens) {
        int room = 2 * r->room_tokens + 16;
        fm_token *tokens = realloc(r->tokens, (size_t)room * sizeof *tokens);
        if (!tokens) return out_of_memory(err);
        r->tokens = tokens;
        r->room_tokens = room;
    }
    fm_token_probabilities(&r->tokens[r->n_tokens++], id, r->job->n_logprobs, logits, s->facts.vocab);
    return 0;
}

static int append(fm_work *r, int32_t id, fm_error *err) {
    if (r->n_ids == r->room_ids) {
        int room = r->room_ids + r->room_ids / 4 + 256;
        int32_t *ids = realloc(r->ids, (size_t)room * sizeof *ids);
        if (!ids) return out_of_memory(err);
        r->ids = ids;
        r->room_ids = room;
    }
    r->ids[r->n_ids++] = id;
    return 0;
}

static void count(fm_work *r) {
    r->job->n_tokens = r->answer ? fm_answer_n_tokens(r->answer) : fm_raw_n_tokens(r->raw);
    r->job->n_reasoning = r->answer ? fm_answer_n_reasoning(r->answer) : 0;
}

static int ended(fm_server *s, fm_work *r) {
    count(r);
    give_events(s, r);
    r->job->message = r->answer ? fm_answer_message(r->answer) : NULL;
    r->ended = true;
    return 1;
}

static void note_times(fm_work *r) {
    double now = fm_serve_now();
    if (!r->first) r->first = now;
    r->job->prompt_seconds = r->first - r->began;
    r->job->answer_seconds = now - r->first;
}

static void stop_work(fm_server *s, fm_work *r, int stop) {
    fm_error err;
    if (r->ended) return;
    if (r->answer && fm_answer_end(r->answer, stop, &err) < 0) r->job->stop = stop;
    if (r->raw) fm_raw_end(r->raw, stop);
    ended(s, r);
}

int fm_work_next(fm_server *s, fm_work *r, fm_error *err) {
    const float *logits = fm_session_logits(r->session);
    int before = r->job->n_tokens;
    int32_t id = -1;
    int rc = r->answer ? fm_answer_next(r->answer, r->sampler, logits, &id, err) : fm_raw_next(r->raw, s->engine, r->sampler, logits, &id, err);
    if (rc < 0) return rc;
    count(r);
    note_times(r);
    if (r->job->n_logprobs >= 0 && r->job->n_tokens > before && !fm_engine_token_is_eos(s->engine, id)) {
        int noted = note_token(s, r, id, logits, err);
        if (noted < 0) return noted;
    }
    if (rc == 1) return ended(s, r);
    give_events(s, r);
    if (fm_session_position(r->session) == s->facts.context) {
        stop_work(s, r, FM_STOP_LENGTH);
        return 1;
    }
    return append(r, id, err);
}

void fm_work_close(fm_job *job) {
    fm_work *r = job->run;
    if (!r) return;
    for (int i = 0; i < r->n_events; i++) {
        free(r->events[i].text);
        free(r->events[i].id);
        free(r->events[i].name);
    }
    fm_answer_close(&r->answer);
    fm_raw_close(r->raw);
    fm_sampler_close(&r->sampler);
    free(r->events);
    free(r->tokens);
    free(r->borders);
    fm_free(r->ids);
    free(r);
    job->run = NULL;
    job->message = NULL;
}
