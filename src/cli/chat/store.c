/* cli/chat/store.c: a conversation as JSON, and the folder of conversations. */
#include "cli/chat/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "cli/cli.h"

#define FORMAT "flash-moe conversation 1"

/* ---- messages ---- */

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

int fm_talk_open(struct talk *talk, const char *model, fm_error *err) {
    uint16_t number = 0;
    char date[20];
    struct tm tm;
    time_t now = time(NULL);

    *talk = (struct talk){.begun = now, .changed_ms = now_ms(), .messages = json_array()};
    if (!talk->messages) return fm_cli_fail(err, FM_ENOMEM, "no memory for a conversation");
    if (getentropy(&number, sizeof number)) number = (uint16_t)getpid();
    strftime(date, sizeof date, "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
    snprintf(talk->id, sizeof talk->id, "%s-%04x", date, number);
    if (!realpath(model, talk->model)) snprintf(talk->model, sizeof talk->model, "%s", model);
    return 0;
}

void fm_talk_close(struct talk *talk) {
    json_decref(talk->messages);
    *talk = (struct talk){0};
}

const char *fm_talk_role(const json_t *message) {
    const char *role = json_string_value(json_object_get(message, "role"));
    return role ? role : "";
}

const char *fm_talk_text(const json_t *message) {
    const char *text = json_string_value(json_object_get(message, "content"));
    return text ? text : "";
}

int fm_talk_last(const struct talk *talk, const char *role) {
    int i = (int)json_array_size(talk->messages) - 1;

    while (i >= 0 && strcmp(fm_talk_role(json_array_get(talk->messages, (size_t)i)), role) != 0) i--;
    return i;
}

void fm_talk_cut(struct talk *talk, int index) {
    while ((int)json_array_size(talk->messages) > index && index >= 0) json_array_remove(talk->messages, json_array_size(talk->messages) - 1);
}

static int added(struct talk *talk, int failed, fm_error *err) {
    talk->changed_ms = now_ms();
    return failed ? fm_cli_fail(err, FM_ENOMEM, "no memory for a message") : 0;
}

int fm_talk_add(struct talk *talk, const char *role, const char *text, size_t n, fm_error *err) {
    return added(talk, json_array_append_new(talk->messages, json_pack("{s:s, s:o}", "role", role, "content", fm_json_text(text, n))), err);
}

int fm_talk_add_json(struct talk *talk, const char *json, fm_error *err) {
    json_error_t error;
    json_t *message = json_loads(json, 0, &error);

    if (!message) return fm_cli_fail(err, FM_EFORMAT, "a message is no JSON: %s", error.text);
    return added(talk, json_array_append_new(talk->messages, message), err);
}

static bool has_system(const struct talk *talk) { return strcmp(fm_talk_role(json_array_get(talk->messages, 0)), "system") == 0; }

const char *fm_talk_system(const struct talk *talk) { return has_system(talk) ? fm_talk_text(json_array_get(talk->messages, 0)) : ""; }

int fm_talk_set_system(struct talk *talk, const char *text, fm_error *err) {
    if (has_system(talk)) json_array_remove(talk->messages, 0);
    if (!text || !*text) return 0;
    return added(talk, json_array_insert_new(talk->messages, 0, json_pack("{s:s, s:o}", "role", "system", "content", fm_json_text(text, strlen(text)))), err);
}

int fm_talk_n_turns(const struct talk *talk) {
    json_t *message;
    size_t i;
    int n = 0;

    json_array_foreach(talk->messages, i, message) n += strcmp(fm_talk_role(message), "user") == 0;
    return n;
}

/* ---- files ---- */

static int write_file(const char *path, const char *text, fm_error *err) {
    char temporary[PATH_MAX];
    size_t n = strlen(text), done = 0;
    int fd, failed = 0;

    snprintf(temporary, sizeof temporary, "%.4080s.%d", path, (int)getpid());
    if ((fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)) < 0)
        return fm_cli_fail(err, FM_EIO, "%s cannot be written: %s", temporary, strerror(errno));
    while (done < n && !failed) {
        ssize_t wrote = write(fd, text + done, n - done);
        if (wrote >= 0)
            done += (size_t)wrote;
        else if (errno != EINTR)
            failed = errno;
    }
    if (!failed && fsync(fd)) failed = errno;
    if (close(fd) && !failed) failed = errno;
    if (!failed && rename(temporary, path)) failed = errno;
    if (!failed) return 0;
    unlink(temporary);
    return fm_cli_fail(err, FM_EIO, "%s cannot be written: %s", path, strerror(failed));
}

int fm_talk_save(const struct talk *talk, const char *path, fm_error *err) {
    json_t *file = json_pack("{s:s, s:s, s:s, s:I, s:I, s:O}", "format", FORMAT, "id", talk->id, "model", talk->model, "begun", (json_int_t)talk->begun,
                             "changed_ms", (json_int_t)talk->changed_ms, "messages", talk->messages);
    char *text = file ? json_dumps(file, JSON_INDENT(1)) : NULL;
    int rc = text ? write_file(path, text, err) : fm_cli_fail(err, FM_ENOMEM, "no memory to write %s", path);

    free(text);
    json_decref(file);
    return rc;
}

/* What is wrong with a message; NULL: nothing. */
static const char *wrong_with(const json_t *message) {
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    const json_t *content = json_object_get(message, "content");
    bool known = false;

    if (!json_is_object(message)) return "is no object";
    for (int i = 0; i < 4; i++) known = known || strcmp(fm_talk_role(message), roles[i]) == 0;
    if (!known) return "has no role of system, user, assistant or tool";
    if (content && !json_is_string(content) && !json_is_null(content)) return "has a content that is no text";
    return NULL;
}

static int from_json(struct talk *talk, const json_t *file, const char *path, fm_error *err) {
    const char *format = json_string_value(json_object_get(file, "format")), *id = json_string_value(json_object_get(file, "id")), *wrong;
    json_t *messages = json_object_get(file, "messages"), *message;
    size_t i;

    if (!format || strcmp(format, FORMAT) != 0) return fm_cli_fail(err, FM_EFORMAT, "%s is no conversation: \"format\" is not \"%s\"", path, FORMAT);
    if (!id || !*id || strlen(id) >= TALK_ID || strspn(id, "0123456789abcdef-") != strlen(id))
        return fm_cli_fail(err, FM_EFORMAT, "%s: \"id\" is not that of a conversation", path);
    if (!json_is_array(messages)) return fm_cli_fail(err, FM_EFORMAT, "%s: \"messages\" is no list", path);
    json_array_foreach(messages, i, message) {
        if ((wrong = wrong_with(message))) return fm_cli_fail(err, FM_EFORMAT, "%s: message %zu %s", path, i, wrong);
    }
    fm_talk_close(talk);
    snprintf(talk->id, sizeof talk->id, "%s", id);
    const char *model = json_string_value(json_object_get(file, "model"));
    snprintf(talk->model, sizeof talk->model, "%s", model ? model : "");
    talk->begun = json_integer_value(json_object_get(file, "begun"));
    talk->changed_ms = json_integer_value(json_object_get(file, "changed_ms"));
    talk->messages = json_incref(messages);
    return 0;
}

int fm_talk_load(struct talk *talk, const char *path, fm_error *err) {
    json_t *file;
    int rc = fm_json_read(&file, path, err);

    if (rc >= 0) rc = from_json(talk, file, path, err);
    json_decref(file);
    return rc;
}

/* ---- the folder ---- */

const char *fm_data_path(char *path, size_t size, const char *name) {
    return fm_user_path(path, size, &(struct user_folder){"XDG_DATA_HOME", "/.local/share", 0700}, name);
}

static bool is_conversation(const char *name) {
    size_t n = strlen(name);
    return n > 5 && n - 5 < TALK_ID && strcmp(name + n - 5, ".json") == 0;
}

static void make_title(char title[80], const struct talk *talk) {
    json_t *message;
    size_t i;
    const char *text = "";
    int n = 0;

    json_array_foreach(talk->messages, i, message) {
        text = strcmp(fm_talk_role(message), "user") == 0 ? fm_talk_text(message) : "";
        if (*text) break;
    }
    for (; *text && n < 60; text++) title[n++] = *text == '\n' || *text == '\t' ? ' ' : *text;
    while (*text && n < 78 && ((unsigned char)*text & 0xc0) == 0x80) title[n++] = *text++;
    title[n] = '\0';
}

static int by_change(const void *a, const void *b) {
    const struct talk_entry *x = a, *y = b;
    return x->changed_ms != y->changed_ms ? (x->changed_ms < y->changed_ms ? 1 : -1) : strcmp(y->id, x->id);
}

int fm_talk_list(struct talk_entry **out, fm_error *err) {
    char folder[PATH_MAX - 64], path[PATH_MAX];
    struct dirent *file;
    DIR *directory;
    int n = 0;

    *out = NULL;
    if (!fm_data_path(folder, sizeof folder, "sessions/"))
        return fm_cli_fail(err, FM_EIO, "there is no directory for sessions: neither XDG_DATA_HOME nor HOME");
    if (!(directory = opendir(folder))) return fm_cli_fail(err, FM_EIO, "%s cannot be read: %s", folder, strerror(errno));
    while ((file = readdir(directory))) {
        struct talk talk = {0};
        struct talk_entry *grown, *entry;
        if (!is_conversation(file->d_name)) continue;
        snprintf(path, sizeof path, "%.4000s%.90s", folder, file->d_name);
        if (fm_talk_load(&talk, path, err) < 0) continue;
        if ((grown = realloc(*out, (size_t)(n + 1) * sizeof *grown))) {
            *out = grown;
            entry = &grown[n++];
            *entry = (struct talk_entry){.changed_ms = talk.changed_ms, .n_turns = fm_talk_n_turns(&talk)};
            memcpy(entry->id, talk.id, sizeof entry->id);
            make_title(entry->title, &talk);
        }
        fm_talk_close(&talk);
    }
    closedir(directory);
    if (n) qsort(*out, (size_t)n, sizeof **out, by_change);
    return n;
}

int fm_talk_find(char path[PATH_MAX], const char *id, fm_error *err) {
    struct talk_entry *entries;
    char name[64], other[TALK_ID] = "";
    int n = fm_talk_list(&entries, err), found = -1;

    if (n < 0) return n;
    for (int i = 0; i < n; i++) {
        if (id && strncmp(entries[i].id, id, strlen(id)) != 0) continue;
        if (found >= 0 && id) snprintf(other, sizeof other, "%s", entries[i].id);
        if (found < 0) found = i;
    }
    if (found >= 0) snprintf(name, sizeof name, "sessions/%.40s.json", entries[found].id);
    free(entries);
    if (found < 0 && id) return fm_cli_fail(err, FM_EINVAL, "there is no session '%s'; /sessions lists them", id);
    if (found < 0) return fm_cli_fail(err, FM_EINVAL, "there is no session to resume yet");
    if (*other) return fm_cli_fail(err, FM_EINVAL, "several sessions begin with '%s', %s is one of them", id, other);
    return fm_data_path(path, PATH_MAX, name) ? 0 : fm_cli_fail(err, FM_EIO, "there is no directory for sessions");
}
