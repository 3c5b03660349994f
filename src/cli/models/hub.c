/* cli/models/hub.c: see hub.h; and models by their names on the hub where a command takes the directory of one. */
#include "cli/models/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the environment ---- */

static const char *variable(const char *name) {
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* As huggingface_hub understands flags. */
static bool is_true(const char *name) {
    static const char *const yes[] = {"1", "ON", "YES", "TRUE"};
    const char *value = variable(name);

    for (int i = 0; i < 4 && value; i++)
        if (strcasecmp(value, yes[i]) == 0) return true;
    return false;
}

/* path/name with ~ as the home directory; false: too long, or no home. */
static bool expand(char *out, size_t size, const char *path, const char *name) {
    const char *home = variable("HOME");
    bool tilde = path[0] == '~' && (path[1] == '/' || path[1] == '\0');
    int n;

    if (tilde && !home) return false;
    n = snprintf(out, size, "%s%s%s%s", tilde ? home : "", tilde ? path + 1 : path, *name ? "/" : "", name);
    return n > 0 && (size_t)n < size;
}

static bool find_home(char *out, size_t size) {
    const char *own = variable("HF_HOME"), *cache = variable("XDG_CACHE_HOME");

    if (own) return expand(out, size, own, "");
    return expand(out, size, cache ? cache : "~/.cache", "huggingface");
}

static bool find_cache(char *out, size_t size) {
    const char *own = variable("HF_HUB_CACHE");
    char home[1024];

    if (!own) own = variable("HUGGINGFACE_HUB_CACHE");
    if (own) return expand(out, size, own, "");
    return find_home(home, sizeof home) && expand(out, size, home, "hub");
}

/* The words of text without what is around them. */
static void trim(char *text) {
    size_t begin = strspn(text, " \t\r\n"), n = strlen(text + begin);

    memmove(text, text + begin, n + 1);
    while (n > 0 && strchr(" \t\r\n", text[n - 1])) text[--n] = '\0';
}

/* From the environment, or the file that `hf auth login` writes. "": none. */
static int find_token(char *out, size_t size, fm_error *err) {
    const char *own = variable("HF_TOKEN"), *named = variable("HF_TOKEN_PATH");
    char home[1024], path[1100];
    size_t n;

    out[0] = '\0';
    if (!own) own = variable("HUGGING_FACE_HUB_TOKEN");
    if (own) {
        if (strlen(own) >= size) return fm_cli_fail(err, FM_EINVAL, "HF_TOKEN is too long to be a token");
        memcpy(out, own, strlen(own) + 1);
        trim(out);
        return 0;
    }
    if (is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN")) return 0;
    if (named ? !expand(path, sizeof path, named, "") : !(find_home(home, sizeof home) && expand(path, sizeof path, home, "token"))) return 0;
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    n = fread(out, 1, size - 1, file);
    out[n] = '\0';
    fclose(file);
    trim(out);
    return n < size - 1 ? 0 : fm_cli_fail(err, FM_EINVAL, "%s is too long to be a token", path);
}

int fm_hub_read(struct hub *hub, fm_error *err) {
    *hub = (struct hub){.endpoint = variable("HF_ENDPOINT"), .offline = is_true("HF_HUB_OFFLINE") || is_true("TRANSFORMERS_OFFLINE")};
    if (!find_cache(hub->cache, sizeof hub->cache)) return fm_cli_fail(err, FM_EINVAL, "there is no directory to keep models in: set HF_HOME to one (or HOME)");
    return find_token(hub->token, sizeof hub->token, err);
}

fm_pull_options fm_hub_options(const struct hub *hub, struct progress *progress) {
    fm_pull_options options = FM_PULL_OPTIONS_INIT;

    options.cache = hub->cache;
    options.endpoint = hub->endpoint;
    options.token = hub->token[0] ? hub->token : NULL;
    options.progress = fm_progress_show;
    options.user = progress;
    return options;
}

/* ---- models by name ---- */

static bool is_there(const char *path) {
    struct stat st;
    return stat(path, &st) == 0;
}

/* Whether someone who is there says yes. */
static bool agreed(void) {
    char answer[16];

    fputs("Pull it now? [y/N] ", stderr);
    fflush(stderr);
    return fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
}

/* Offers to pull it. 0: it was pulled. */
static int offer(const char *name, const struct hub *hub, fm_error *err) {
    struct progress progress;
    char size[SIZE_TEXT], room[SIZE_TEXT];
    fm_pull_plan plan;
    fm_pull_options options;
    int rc;

    fm_progress_open(&progress);
    options = fm_hub_options(hub, &progress);
    fm_catch_signals();
    rc = fm_pull_plan_make(&plan, name, &options, err);
    fm_progress_clear(&progress);
    if (rc < 0) {
        fm_error why = *err;
        return rc == FM_ECANCELLED ? rc : fm_cli_fail(err, rc, "there is no directory %s, and of the hub's model: %.300s", name, why.message);
    }
    fprintf(stderr, "flash-moe: %s is not here; it is %s on %s, and %s are free in %s\n", name, fm_disk_text(size, (double)(plan.bytes - plan.here_bytes)),
            hub->endpoint ? hub->endpoint : "the hub", fm_disk_text(room, (double)plan.free_bytes), hub->cache);
    if (!agreed()) return fm_cli_fail(err, FM_ECANCELLED, "%s was not pulled", name);
    rc = fm_pull(name, &options, NULL, err);
    fm_progress_clear(&progress);
    return rc;
}

int fm_find_model(const char **model, char path[MODEL_PATH], fm_error *err) {
    const char *name = *model;
    struct hub hub;
    int rc;

    if (is_there(name) || !strchr(name, '/')) return 0;
    if (fm_hub_read(&hub, err) < 0) return err->code;
    rc = fm_pull_find(path, MODEL_PATH, name, hub.cache, err);
    if (rc == FM_EINVAL) return 0; /* a path like any other */
    if (rc < 0 && !hub.offline && isatty(STDIN_FILENO) && isatty(STDERR_FILENO)) {
        if ((rc = offer(name, &hub, err)) == 0) rc = fm_pull_find(path, MODEL_PATH, name, hub.cache, err);
        if (rc < 0) return rc;
    }
    if (rc < 0)
        return fm_cli_fail(err, FM_EIO, "%s: there is no such directory, and no model of that name in %s; flash-moe pull %s fetches it from the hub", name,
                           hub.cache, name);
    *model = path;
    return 0;
}
