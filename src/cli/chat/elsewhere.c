/* cli/chat/elsewhere.c: the conversation with a server's model (--connect): which options are the server's affair, the request, and what is said about an answer. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli/chat/chat.h"
#include "cli/chat/signals.h"

/* ---- connecting ---- */

static size_t value_bytes(int kind) {
    switch (kind) {
    case OPTION_FLAG: return sizeof(bool);
    case OPTION_TEXT:
    case OPTION_ID: return sizeof(const char *);
    case OPTION_SEED:
    case OPTION_SIZE: return sizeof(uint64_t);
    case OPTION_FLOAT: return sizeof(float);
    default: return sizeof(int);
    }
}

/* The first option whose value is not zero; NULL: there is none. */
static const char *first_given(const struct cli_option *table, int n, const void *values) {
    static const char zero[sizeof(uint64_t)];

    for (int i = 0; i < n; i++)
        if (memcmp((const char *)values + table[i].offset, zero, value_bytes(table[i].kind))) return table[i].name;
    return NULL;
}

static const char *server_option(const struct chat_options *o) {
    const char *given = first_given(fm_engine_table, fm_engine_table_n, &o->engine);

    if (!given) given = first_given(fm_session_table, fm_session_table_n, &o->session);
    if (!given && o->template_file) given = "template";
    if (!given && o->heat) given = "heat";
    if (!given && o->sampling.repeat_last != NOT_GIVEN) given = "repeat-last";
    return given;
}

int fm_chat_connect(struct chat *c, fm_error *err) {
    const char *given = server_option(c->options);

    if (given) return fm_cli_fail(err, FM_EINVAL, "--%s is the server's affair: it cannot be given with --connect", given);
    int rc = fm_remote_open(&c->remote, c->options->connect, c->options->key, err);
    if (rc >= 0) snprintf(c->talk.model, sizeof c->talk.model, "%s at %s", fm_remote_model(c->remote), fm_remote_url(c->remote));
    return rc;
}

bool fm_chat_is_elsewhere(struct chat *c, const char *what) {
    if (!c->remote) return false;
    fm_view_note(&c->view, "%s is about a model of this process; this one is at %s, where /metrics and the page have its figures", what,
                 fm_remote_url(c->remote));
    return true;
}

/* ---- the request ---- */

static void add_number(json_t *request, const char *name, float value) {
    char text[32];

    if (isnan(value)) return;
    snprintf(text, sizeof text, "%.7g", (double)value); /* 0.7, not 0.699999988 */
    json_object_set_new(request, name, json_real(strtod(text, NULL)));
}

static void add_settings(struct chat *c, json_t *request) {
    const struct sampling_choices *s = &c->options->sampling;
    const struct settings *set = &c->options->settings;

    add_number(request, "temperature", s->temp);
    add_number(request, "top_p", s->top_p);
    add_number(request, "min_p", s->min_p);
    add_number(request, "repeat_penalty", s->repeat_penalty);
    add_number(request, "presence_penalty", s->presence_penalty);
    add_number(request, "frequency_penalty", s->frequency_penalty);
    if (s->top_k != NOT_GIVEN) json_object_set_new(request, "top_k", json_integer(s->top_k));
    if (set->max_tokens >= 0) json_object_set_new(request, "max_tokens", json_integer(set->max_tokens));
    if (set->think_budget >= 0) json_object_set_new(request, "think_budget", json_integer(set->think_budget));
    json_object_set_new(request, "seed", json_integer((json_int_t)((s->seed + (uint64_t)c->n_answers++) & INT64_MAX))); /* /retry gives another answer */
    json_t *bias = s->biases.n ? json_object() : NULL;
    for (int i = 0; i < s->biases.n && bias; i++) {
        char id[16];
        snprintf(id, sizeof id, "%d", (int)c->bias[i].id);
        add_number(bias, id, c->bias[i].bias);
    }
    if (bias) json_object_set_new(request, "logit_bias", bias);
}

/* ---- the answer ---- */

/* "reading the prompt, 512 of 3000 tokens" becomes the line that an engine here would show. */
static void on_comment(void *user, const char *text) {
    struct chat *c = user;
    unsigned long long done, total;

    if (sscanf(text, "reading the prompt, %llu of %llu", &done, &total) == 2) fm_progress_show(&c->progress, "prompt", done, total);
}

int fm_chat_ask(struct chat *c, json_t *request, fm_answered *out, fm_error *err) {
    const struct remote_calls calls = {.event = fm_view_event, .user = &c->view, .comment = on_comment, .comment_user = c, .stop = fm_signals_interrupted};

    add_settings(c, request);
    char *text = json_dumps(request, JSON_COMPACT);
    if (!text) return fm_cli_fail(err, FM_ENOMEM, "no memory for the conversation");
    int rc = fm_remote_answer(c->remote, text, &calls, out, err);
    free(text);
    return rc;
}

void fm_chat_asked(struct chat *c, const fm_answered *a) {
    const char *how = a->stop == FM_STOP_CANCELLED ? "stopped" : a->stop == FM_STOP_LENGTH ? "cut at the limit" : "";
    int context = fm_remote_context(c->remote), held = a->n_prompt + a->n_tokens;
    char speed[48] = "", fill[64] = "", wait[96] = "";

    if (a->n_tokens < 0 || a->n_prompt < 0) { /* stopped, or a server that does not count */
        if (*how) fm_view_note(&c->view, "%s", how);
        return;
    }
    if (a->n_tokens > 1 && a->decode_seconds > 0) snprintf(speed, sizeof speed, ", %.1f tokens/s", (a->n_tokens - 1) / a->decode_seconds);
    if (context > 0) snprintf(fill, sizeof fill, ", context %d of %d (%.0f %%)", held, context, 100.0 * held / context);
    if (a->first_token_seconds >= 1)
        snprintf(wait, sizeof wait, "\nbegan after %.1f s: prompt of %d tokens, %d of them known", a->first_token_seconds, a->n_prompt,
                 a->synced.n_kept > 0 ? a->synced.n_kept : 0);
    fm_view_note(&c->view, "%s%s%d tokens%s%s%s", how, *how ? ": " : "", a->n_tokens, speed, fill, wait);
}
