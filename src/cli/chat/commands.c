/* cli/chat/commands.c: the lines that begin with /. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/chat/chat.h"
#include "cli/chat/process.h"
#include "cli/chat/signals.h"

#define AT(field) offsetof(struct settings, field)

const struct cli_option fm_settings_table[] = {
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N", "tokens of an answer; -1: until the model ends or the context is full\n(default: -1)", -1, 2147483647},
    {"think-budget", 0, OPTION_INT, AT(think_budget), "N", "tokens of reasoning, then its end is forced; -1: any number (default: -1)", -1, 2147483647},
    {"thinking", 0, OPTION_CHOICE, AT(thinking), "auto|on|off", "asks the template for reasoning, or for none (default: auto)", 0, 0},
    {"reasoning", 0, OPTION_CHOICE, AT(reasoning), "show|fold|hide",
     "reasoning on the screen; fold: a few lines, then one\n(default: fold; hide without a terminal)", 0, 0},
    {"tool-timeout", 0, OPTION_FLOAT, AT(tool_seconds), "SECONDS", "then a tool is killed (default: 60)", 0.1, 86400},
};
const int fm_settings_table_n = sizeof fm_settings_table / sizeof *fm_settings_table;

/* ---- conversations ---- */

static void show_message(struct chat *c, const json_t *message) {
    const char *role = fm_talk_role(message), *text = fm_talk_text(message);
    fm_event event = {.type = FM_EVENT_TEXT, .text = text, .bytes = strlen(text)};

    if (strcmp(role, "user") == 0) {
        printf(c->view.styles ? "\033[1;32m> \033[0m" : "> ");
        fm_visible_print(stdout, text, strlen(text));
        putchar('\n');
    } else if (strcmp(role, "assistant") == 0 && *text) {
        fm_view_begin(&c->view);
        fm_view_event(&c->view, &event);
        fm_view_end(&c->view);
    }
}

/* The last turns of a conversation that is taken up, at a terminal. */
static void show_last(struct chat *c) {
    size_t n = json_array_size(c->talk.messages), first = n > 4 ? n - 4 : 0;

    for (size_t i = first; i < n && c->view.terminal; i++) show_message(c, json_array_get(c->talk.messages, i));
    fflush(stdout);
}

int fm_chat_resume(struct chat *c, const char *id, fm_error *err) {
    char path[PATH_MAX], model[PATH_MAX];
    int rc = fm_talk_find(path, id, err);

    memcpy(model, c->talk.model, sizeof model);
    if (rc >= 0) rc = fm_talk_load(&c->talk, path, err);
    if (rc < 0) return rc;
    show_last(c);
    fm_view_note(&c->view, "session %s, turns: %d", c->talk.id, fm_talk_n_turns(&c->talk));
    if (strcmp(model, c->talk.model) != 0) fm_view_note(&c->view, "it began with another model, %s", c->talk.model);
    memcpy(c->talk.model, model, sizeof model);
    fm_chat_restore(c);
    return 0;
}

static bool on_clear(struct chat *c, const char *argument) {
    struct talk fresh;
    fm_error err = {0};

    (void)argument;
    fm_chat_leave(c);
    if (fm_talk_open(&fresh, c->talk.model, &err) < 0 || fm_talk_set_system(&fresh, fm_talk_system(&c->talk), &err) < 0) {
        fm_chat_complain(c, &err);
        return false;
    }
    if (fm_talk_n_turns(&c->talk)) fm_view_note(&c->view, "a new conversation; /resume %s has the old one", c->talk.id);
    fm_talk_close(&c->talk);
    c->talk = fresh;
    return false;
}

static bool on_system(struct chat *c, const char *argument) {
    const char *now = fm_talk_system(&c->talk);
    fm_error err = {0};

    if (*argument && fm_talk_set_system(&c->talk, strcmp(argument, "off") ? argument : NULL, &err) < 0)
        fm_chat_complain(c, &err);
    else if (!*argument && !*now)
        fm_view_note(&c->view, "there is no system prompt; /system TEXT sets one");
    else if (!*argument)
        fm_view_quote(&c->view, now, strlen(now));
    return false;
}

static bool on_sessions(struct chat *c, const char *argument) {
    struct talk_entry *entries;
    fm_error err = {0};
    int n = fm_talk_list(&entries, &err);

    (void)argument;
    if (n < 0) fm_chat_complain(c, &err);
    if (n == 0) fm_view_note(&c->view, "no sessions are kept yet");
    for (int i = 0; i < n && i < 30; i++) {
        char line[256], date[32];
        struct tm tm;
        time_t changed = (time_t)(entries[i].changed_ms / 1000);
        strftime(date, sizeof date, "%Y-%m-%d %H:%M", localtime_r(&changed, &tm));
        snprintf(line, sizeof line, "%s  %s  %3d turn%s  %s", entries[i].id, date, entries[i].n_turns, entries[i].n_turns == 1 ? " " : "s", entries[i].title);
        fm_view_quote(&c->view, line, strlen(line));
    }
    if (n > 30) fm_view_note(&c->view, "and %d older ones", n - 30);
    free(entries);
    return false;
}

static bool on_resume(struct chat *c, const char *argument) {
    fm_error err = {0};

    fm_chat_leave(c);
    if (fm_chat_resume(c, *argument ? argument : NULL, &err) < 0) fm_chat_complain(c, &err);
    return false;
}

static bool state_path(struct chat *c, char path[PATH_MAX], const char *argument) {
    if (!*argument) fm_view_note(&c->view, "/save FILE writes the conversation to FILE and the model's state to FILE.state; /load FILE reads them");
    return *argument && snprintf(path, PATH_MAX, "%s.state", argument) < PATH_MAX;
}

static bool on_save(struct chat *c, const char *argument) {
    char path[PATH_MAX];
    fm_error err = {0};

    if (!state_path(c, path, argument)) return false;
    if (fm_talk_save(&c->talk, argument, &err) < 0 || (c->session && fm_session_position(c->session) > 0 && fm_session_save(c->session, path, &err) < 0))
        fm_chat_complain(c, &err);
    else if (c->remote)
        fm_view_note(&c->view, "saved; turns: %d; the model's state is the server's", fm_talk_n_turns(&c->talk));
    else
        fm_view_note(&c->view, "saved; turns: %d, tokens of the state: %d", fm_talk_n_turns(&c->talk), fm_session_position(c->session));
    return false;
}

static bool on_load(struct chat *c, const char *argument) {
    struct talk fresh = {0};
    char path[PATH_MAX];
    fm_error err = {0};

    if (!state_path(c, path, argument)) return false;
    fm_chat_leave(c);
    if (fm_talk_open(&fresh, c->talk.model, &err) >= 0) {
        char id[TALK_ID]; /* a conversation of its own from here on */
        memcpy(id, fresh.id, sizeof id);
        if (fm_talk_load(&fresh, argument, &err) >= 0) {
            memcpy(fresh.id, id, sizeof id);
            memcpy(fresh.model, c->talk.model, sizeof fresh.model);
            fm_talk_close(&c->talk);
            c->talk = fresh;
            fresh = (struct talk){0};
        }
    }
    fm_talk_close(&fresh);
    if (err.code < 0) {
        fm_chat_complain(c, &err);
        return false;
    }
    show_last(c);
    if (c->session && access(path, F_OK) == 0 && fm_session_load(c->session, path, &err) < 0) fm_chat_complain(c, &err); /* then it is computed again */
    fm_chat_restore(c);
    return false;
}

/* ---- answers ---- */

static bool on_retry(struct chat *c, const char *argument) {
    int last = fm_talk_last(&c->talk, "user");

    (void)argument;
    if (last < 0) {
        fm_view_note(&c->view, "nothing has been said yet");
        return false;
    }
    fm_talk_cut(&c->talk, last + 1);
    fm_chat_turn(c);
    return false;
}

/* The text after the editor, malloc'd; NULL after an error. */
static char *edited(const char *text, fm_error *err) {
    char path[] = "/tmp/flash-moe-message-XXXXXX.md";
    int fd = mkstemps(path, 3);
    FILE *file = fd >= 0 ? fdopen(fd, "w") : NULL;
    struct text changed = {0};

    if (!file) {
        fm_cli_fail(err, FM_EIO, "%s cannot be written: %s", path, strerror(errno));
        return NULL;
    }
    fputs(text, file);
    fclose(file);
    if (fm_process_edit(path, err) >= 0 && fm_read_text(&changed, NULL, path, false, err) >= 0)
        while (changed.n > 0 && changed.bytes[changed.n - 1] == '\n') changed.bytes[--changed.n] = '\0';
    unlink(path);
    return changed.bytes;
}

static bool on_edit(struct chat *c, const char *argument) {
    int last = fm_talk_last(&c->talk, "user");
    const char *old = last >= 0 ? fm_talk_text(json_array_get(c->talk.messages, (size_t)last)) : "";
    fm_error err = {0};
    char *text = edited(old, &err);

    (void)argument;
    fm_signals_forget();
    if (err.code < 0) {
        fm_chat_complain(c, &err);
    } else if (text && *text && strcmp(text, old) != 0) {
        if (last >= 0) fm_talk_cut(&c->talk, last);
        fm_view_quote(&c->view, text, strlen(text));
        fm_chat_say(c, text);
    } else {
        fm_view_note(&c->view, "the message is as it was");
    }
    free(text);
    return false;
}

static bool on_tools(struct chat *c, const char *argument) {
    (void)argument;
    fm_tools_describe(c->tools, &c->view);
    return false;
}

/* ---- settings ---- */

static void setting_groups(struct chat *c, struct option_group groups[2]) {
    groups[0] = (struct option_group){"", fm_settings_table, fm_settings_table_n, &c->options->settings};
    groups[1] = (struct option_group)SAMPLING_GROUP(&c->options->sampling);
}

static void show_setting(struct chat *c, const struct cli_option *o, const void *values) {
    const void *value = (const char *)values + o->offset;
    int whole = o->kind == OPTION_INT || o->kind == OPTION_CHOICE ? *(const int *)value : 0;
    const char *choice = o->argument;

    if (o->kind == OPTION_SEED)
        fm_view_note(&c->view, "%s %llu", o->name, (unsigned long long)*(const uint64_t *)value);
    else if (o->kind == OPTION_FLOAT && !isnan(*(const float *)value))
        fm_view_note(&c->view, "%s %g", o->name, (double)*(const float *)value);
    else if (o->kind == OPTION_FLOAT || whole == NOT_GIVEN)
        fm_view_note(&c->view, "%s: the default", o->name);
    else if (o->kind == OPTION_INT)
        fm_view_note(&c->view, "%s %d", o->name, whole);
    else if (o->kind == OPTION_CHOICE) {
        for (; whole > 0; whole--) choice = strchr(choice, '|') + 1;
        fm_view_note(&c->view, "%s %.*s", o->name, (int)strcspn(choice, "|"), choice);
    }
}

static bool on_set(struct chat *c, const char *argument) {
    struct option_group groups[2];
    char name[40];
    size_t n = strcspn(argument, " ");
    fm_error err = {0};

    setting_groups(c, groups);
    for (int g = 0; g < 2 && !*argument; g++)
        for (int i = 0; i < groups[g].n; i++) show_setting(c, &groups[g].options[i], groups[g].values);
    if (!*argument) return false;
    snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), argument);
    if (fm_options_set(groups, 2, name, argument + n + strspn(argument + n, " "), &err) < 0) {
        fm_chat_complain(c, &err);
        return false;
    }
    if (c->options->settings.reasoning != NOT_GIVEN) c->view.reasoning = c->options->settings.reasoning;
    fm_tools_set_seconds(c->tools, (double)c->options->settings.tool_seconds);
    if (strcmp(name, "thinking") == 0 && c->chat && !fm_chat_template_uses(c->chat, "enable_thinking"))
        fm_view_note(&c->view, "the chat template has no enable_thinking: this changes nothing");
    if (strcmp(name, "reasoning") == 0 && c->view.reasoning == REASONING_SHOW) fm_view_thought(&c->view); /* unfolds it */
    return false;
}

static bool on_stats(struct chat *c, const char *argument) {
    char a[SIZE_TEXT], b[SIZE_TEXT], d[SIZE_TEXT], e[SIZE_TEXT];
    fm_stats s;

    (void)argument;
    if (fm_chat_is_elsewhere(c, "/stats")) return false;
    const fm_plan *p = fm_engine_plan(c->engine);
    fm_engine_stats(c->engine, &s);
    fm_view_note(&c->view, "memory: budget %s, experts %s, sessions %s; peak %s", fm_memory_text(a, p->budget_bytes), fm_memory_text(b, p->cache_bytes),
                 fm_memory_text(d, p->session_bytes), fm_memory_text(e, fm_peak_memory()));
    fm_view_note(&c->view, "experts: %d of %d fit; %llu asked for, %.1f %% of them found in memory", p->n_slots, p->n_experts_total,
                 (unsigned long long)s.n_requests, s.n_requests ? 100 * (double)s.n_hits / (double)s.n_requests : 0.0);
    fm_view_note(&c->view, "disk: %s, %s read in %.2f s, waited for %.2f s", fm_engine_io(c->engine), fm_disk_text(a, (double)s.disk_bytes), s.disk_seconds,
                 s.stall_seconds);
    fm_view_note(&c->view, "cpu: %s, %d threads; %llu tokens computed", fm_engine_cpu(c->engine), fm_engine_n_threads(c->engine),
                 (unsigned long long)s.n_tokens);
    fm_view_note(&c->view, "last answer: first token after %.2f s; prompt %d tokens, %d known, %d restored in %.2f s, %d computed; %d made, %d of reasoning",
                 c->last.first_token_seconds, c->last.n_prompt, c->last.synced.n_kept, c->last.synced.n_restored, c->last.synced.restore_seconds,
                 c->last.synced.n_computed, c->last.n_tokens, c->last.n_reasoning);
    fm_view_note(&c->view, "session %s: turns: %d, tokens: %d of %d", c->talk.id, fm_talk_n_turns(&c->talk), fm_session_position(c->session), p->context);
    return false;
}

/* ---- the table ---- */

static bool on_quit(struct chat *c, const char *argument) {
    (void)c;
    (void)argument;
    return true;
}

static bool on_help(struct chat *c, const char *argument);

static const struct {
    const char *name, *argument, *help;
    bool (*obey)(struct chat *c, const char *argument);
} commands[] = {
    {"help", "", "this list", on_help},
    {"clear", "", "a new conversation; the old one is kept", on_clear},
    {"system", "[TEXT]", "shows or sets the system prompt; off removes it", on_system},
    {"save", "FILE", "writes the conversation and the model's state to files", on_save},
    {"load", "FILE", "reads them back", on_load},
    {"sessions", "", "lists the conversations that are kept", on_sessions},
    {"resume", "[ID]", "takes one up, or the last one", on_resume},
    {"retry", "", "another answer to your last message", on_retry},
    {"edit", "", "your last message in $EDITOR, then a new answer", on_edit},
    {"tools", "", "what the model may call", on_tools},
    {"set", "[NAME VALUE]", "shows or changes settings, as the options of the same names", on_set},
    {"stats", "", "memory, experts, disk", on_stats},
    {"quit", "", "leaves; so does Ctrl-D", on_quit},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static bool on_help(struct chat *c, const char *argument) {
    (void)argument;
    for (int i = 0; i < N_COMMANDS; i++) {
        char head[40];
        snprintf(head, sizeof head, "/%s %s", commands[i].name, commands[i].argument);
        fm_view_note(&c->view, "%-20s %s", head, commands[i].help);
    }
    fm_view_note(&c->view, "A message goes on in the next line after \\, between \"\"\" and \"\"\", in a ``` block, and after Alt-Enter.\n"
                           "Ctrl-C stops an answer or a tool. // begins a message with a slash.");
    return false;
}

bool fm_chat_obey(struct chat *c, const char *line) {
    const char *names[N_COMMANDS], *closest, *argument;
    char name[40];
    size_t n = strcspn(++line, " \n");
    fm_error err = {0};

    argument = line + n + strspn(line + n, " \n");
    snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), line);
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i].name, name) == 0) return commands[i].obey(c, argument);
        names[i] = commands[i].name;
    }
    closest = fm_closest(name, names, N_COMMANDS);
    fm_cli_fail(&err, FM_EINVAL, "there is no command /%s; %s%s", name, closest ? "did you mean /" : "/help lists them, // begins a message with a slash",
                closest ? closest : "");
    fm_chat_complain(c, &err);
    return false;
}
