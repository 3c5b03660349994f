/* chat/chat.c: opening a model's way of conversation, and one turn of it. */
#include "chat/chat.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/system.h"
#include "text/tool_format.h"

/* ---- opening ---- */

/* bos_token and the like of tokenizer_config.json: text, or an object with it. */
static int read_tokens(fm_chat *chat, fm_error *err) {
    char path[1100];
    const char *key;
    json_t *root = NULL, *value;
    chat->tokens = json_object();
    if (!fm_model_find_file(path, sizeof path, chat->engine->model->path, chat->engine->options.config_from, "tokenizer_config.json")) return 0;
    char *text;
    size_t bytes;
    int rc = fm_file_read_text(&text, &bytes, path, (size_t)64 << 20, err);
    if (rc < 0) return rc;
    root = json_loadb(text, bytes, 0, NULL);
    free(text);
    if (!json_is_object(root)) rc = fm_fail(err, FM_EFORMAT, "%s: it is not a JSON object", path);
    json_object_foreach(root, key, value) {
        size_t n = strlen(key);
        if (n < 6 || strcmp(key + n - 6, "_token")) continue;
        if (json_is_object(value)) value = json_object_get(value, "content");
        if (json_is_string(value)) json_object_set(chat->tokens, key, value);
    }
    json_decref(root);
    return rc;
}

static int open_templates(fm_chat *chat, const char *file, fm_error *err) {
    fm_template_source *source = &chat->source;
    size_t bytes;
    int rc = file ? fm_file_read_text(&source->text, &bytes, file, (size_t)4 << 20, err)
                  : fm_info_template(source, chat->engine->model->path, chat->engine->options.config_from, err);
    if (rc >= 0 && !source->text) rc = fm_fail(err, FM_EUNSUPPORTED, "%s: it has no chat template", chat->engine->model->path);
    if (rc >= 0) rc = fm_template_open(&chat->template, source->text, strlen(source->text), file ? file : source->file, err);
    if (rc >= 0 && source->tool_text) rc = fm_template_open(&chat->tool_template, source->tool_text, strlen(source->tool_text), source->file, err);
    if (rc >= 0) {
        chat->format = fm_tool_format_name(source->tool_text ? source->tool_text : source->text);
        chat->knows_developer = strstr(source->text, "developer") != NULL;
    }
    return rc;
}

int fm_chat_open(fm_chat **out, fm_engine *engine, const fm_chat_options *options, fm_error *err) {
    fm_chat_options o = FM_CHAT_OPTIONS_INIT;
    if (options) memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    *out = NULL;
    if (!engine->tokenizer) return fm_fail(err, FM_EFORMAT, "%s: it has no tokenizer.json", engine->model->path);
    fm_chat *chat = calloc(1, sizeof *chat);
    if (!chat) return fm_fail(err, FM_ENOMEM, "no memory for a chat");
    chat->engine = engine;
    int rc = open_templates(chat, o.template_file, err);
    if (rc >= 0) rc = read_tokens(chat, err);
    if (rc >= 0) rc = fm_chat_probe(chat, err);
    *out = chat;
    if (rc < 0) fm_chat_close(out);
    return rc;
}

void fm_chat_close(fm_chat **chat) {
    fm_chat *c = *chat;
    if (!c) return;
    fm_template_close(&c->template);
    fm_template_close(&c->tool_template);
    fm_template_source_close(&c->source);
    json_decref(c->tokens);
    free(c->think_end);
    fm_memory_close(&c->memory);
    free(c);
    *chat = NULL;
}

const char *fm_chat_tool_format(const fm_chat *chat) { return chat->format; }

static bool has_word(const char *text, const char *word) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
    size_t n = strlen(word);
    for (const char *at = text; n && at && (at = strstr(at, word)); at++) {
        if ((at == text || !strchr(letters, at[-1])) && (!at[n] || !strchr(letters, at[n]))) return true;
    }
    return false;
}

bool fm_chat_template_uses(const fm_chat *chat, const char *name) { return has_word(chat->source.text, name) || has_word(chat->source.tool_text, name); }

/* ---- one turn ---- */

typedef struct turn {
    fm_chat *chat;
    fm_session *session;
    fm_sampler *sampler;
    fm_answer *answer;
    double start;
    int stop;
} turn;

static int watch(void *user, const fm_event *event) {
    void **pair = user;
    const fm_answer_options *o = pair[0];
    if (event->type == FM_EVENT_STOP) ((turn *)pair[1])->stop = event->stop;
    return o->event ? o->event(o->user, event) : 0;
}

/* Tokens until the answer ends. */
static int decode(turn *t, fm_answered *out, fm_error *err) {
    fm_engine *e = t->chat->engine;
    while (true) {
        int32_t id;
        if (atomic_load(&e->cancelled)) return fm_answer_end(t->answer, FM_STOP_CANCELLED, err);
        double begin = fm_now();
        int rc = fm_answer_next(t->answer, t->sampler, fm_session_logits(t->session), &id, err);
        fm_engine_spent(e, FM_PHASE_SAMPLER, fm_now() - begin);
        if (fm_answer_n_tokens(t->answer) == 1) out->first_token_seconds = fm_now() - t->start;
        out->decode_seconds = fm_now() - t->start - out->first_token_seconds;
        if (rc != 0) return rc;
        if (fm_session_position(t->session) == e->plan.context) return fm_answer_end(t->answer, FM_STOP_LENGTH, err);
        if ((rc = fm_session_feed(t->session, &id, 1, FM_LOGITS_LAST, NULL, NULL, err)) < 0) return rc;
    }
}

static int answer_prompt(turn *t, const fm_prompt *prompt, fm_answered *out, fm_error *err) {
    for (int i = 0; i < prompt->n_ids; i++) fm_sampler_feed(t->sampler, prompt->ids[i]);
    int rc = fm_session_sync(t->session, prompt->ids, prompt->n_ids, prompt->borders, prompt->n_borders, &out->synced, err);
    if (rc >= 0) rc = decode(t, out, err);
    if (rc == FM_ECANCELLED && atomic_load(&t->chat->engine->cancelled)) rc = fm_answer_end(t->answer, FM_STOP_CANCELLED, err);
    return rc;
}

int fm_chat_answer(fm_chat *chat, fm_session *session, const char *request, const fm_sampling *sampling, const fm_answer_options *options, fm_answered *out,
                   fm_error *err) {
    fm_answer_options given = FM_ANSWER_OPTIONS_INIT, o;
    fm_sampling own = FM_SAMPLING_INIT;
    fm_prompt prompt = {0};
    turn t = {.chat = chat, .session = session, .start = fm_now()};
    if (options) memcpy(&given, options, options->size < sizeof given ? options->size : sizeof given);
    o = given;
    o.size = sizeof o;
    o.event = watch;
    o.user = (void *[]){&given, &t};
    *out = (fm_answered){0};
    if (!sampling) fm_engine_sampling(chat->engine, &own);
    int rc = fm_chat_prompt(chat, request, &prompt, err);
    out->n_prompt = prompt.n_ids;
    if (rc >= 0) rc = fm_sampler_open(&t.sampler, chat->engine->info.vocab, sampling ? sampling : &own, err);
    if (rc >= 0) rc = fm_answer_open(&t.answer, chat, request, &prompt, &o, err);
    if (rc >= 0) rc = answer_prompt(&t, &prompt, out, err);
    if (t.answer) {
        const char *message = fm_answer_message(t.answer);
        out->stop = t.stop;
        out->n_tokens = fm_answer_n_tokens(t.answer);
        out->n_reasoning = fm_answer_n_reasoning(t.answer);
        if (rc >= 0 && (!message || !(out->message = strdup(message)))) rc = fm_fail(err, FM_ENOMEM, "no memory for an answer's message");
    }
    fm_answer_close(&t.answer);
    fm_sampler_close(&t.sampler);
    fm_prompt_clear(&prompt);
    return rc < 0 ? rc : 0;
}
