/* cli/common.c: what the commands do alike: the engine's options, Ctrl-C, errors, and reading a text. */
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/cli.h"

/* ---- options of the engine ---- */

#define AT(field) offsetof(struct engine_choices, field)

const struct cli_option fm_engine_table[] = {
    {"memory", 'm', OPTION_SIZE, AT(memory), "SIZE", "all memory the program may use: 12G, 1.5G, 800M\n(default: what is free, less a reserve)", 0, 0},
    {"context", 'c', OPTION_INT, AT(context), "N", "tokens of prompt and answer together\n(default: what a tenth of the memory holds, at most 32768)", 1,
     16777216},
    {"threads", 't', OPTION_INT, AT(threads), "N", "computing threads (default: one per CPU)", 1, 1024},
    {"experts-per-token", 0, OPTION_INT, AT(experts_per_token), "K", "fewer experts than the model was trained with: faster, not exact", 1, 1024},
    {"activations", 0, OPTION_CHOICE, AT(activations), "int8|f32", "what multiplies quantised weights; f32 is slow and the reference\n(default: int8)", 0, 0},
    {"prefetch", 0, OPTION_CHOICE, AT(prefetch), "on|off", "read the next layer's likely experts while the disk is idle;\npacked models only (default: on)", 0,
     0},
    {"profile", 0, OPTION_TEXT, AT(profile), "FILE", "fill the cache in the order of this profile (flash-moe profile)", 0, 0},
    {"pin", 0, OPTION_PERCENT, AT(pin), "PERCENT", "of the cache, for the profile's most used experts, which stay there", 0, 90},
    {"missing", 0, OPTION_CHOICE, AT(missing), "read|drop",
     "experts that are not in memory while decoding: read them, or leave them\nout: faster, not exact (packed models only)", 0, 0},
    {"cold-bits", 0, OPTION_INT, AT(cold_bits), "N",
     "while decoding, experts that are not in memory come as their copies of so\nmany bits if their weight is below --cold-below: not exact\n(pack --experts 4,2)",
     2, 8},
    {"cold-below", 0, OPTION_FLOAT, AT(cold_below), "W", "router weight below which --cold-bits is enough (0.05)", 0, 1000},
    {"mirror", 0, OPTION_TEXT, AT(mirror), "DIR", "a copy of the packed model on another disk: half of each expert\nis read from it", 0, 0},
    {"no-verify", 0, OPTION_FLAG, AT(no_verify), NULL, "do not check a packed model's experts when they are first read", 0, 0},
    {"kv", 0, OPTION_CHOICE, AT(kv), "bf16|f32|q8", "numbers of the KV cache: q8 takes half of bf16's memory; f32 is the reference\n(default: bf16)", 0, 0},
    {"policy", 0, OPTION_TEXT, AT(policy), "NAME", "which experts stay in memory: lru, lfu (default: the best known)", 0, 0},
    {"io", 0, OPTION_TEXT, AT(io), "NAME", "how experts are read: uring, pread (default: the best that works)", 0, 0},
    {"cpu", 0, OPTION_TEXT, AT(cpu), "NAME", "kernels: scalar, avx2, avxvnni, avx512, amx, neon or i8mm (default: the best)", 0, 0},
    {"config-from", 0, OPTION_TEXT, AT(config_from), "DIR", "where config.json and tokenizer.json are, if not in MODEL", 0, 0},
};
const int fm_engine_table_n = sizeof fm_engine_table / sizeof *fm_engine_table;

fm_engine_options fm_engine_choose(const struct engine_choices *choices, struct progress *progress) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;

    options.config_from = choices->config_from;
    options.memory_bytes = choices->memory;
    options.n_threads = choices->threads;
    options.context = choices->context;
    options.experts_per_token = choices->experts_per_token;
    options.activations = choices->activations;
    options.prefetch = choices->prefetch;
    options.mirror = choices->mirror;
    options.profile = choices->profile;
    options.pin = choices->pin;
    options.missing = choices->missing;
    options.cold_bits = choices->cold_bits;
    options.cold_below = choices->cold_below > 0 ? choices->cold_below : 0.05F;
    options.kv = choices->kv;
    options.no_verify = choices->no_verify;
    options.io = choices->io;
    options.policy = choices->policy;
    options.cpu = choices->cpu;
    options.log = fm_progress_log;
    options.progress = fm_progress_show;
    options.user = progress;
    return options;
}

const char *fm_user_path(char *path, size_t size, const struct user_folder *folder, const char *name) {
    const char *given = getenv(folder->variable), *home = getenv("HOME");
    bool own = given && given[0] == '/';

    if (!own && !(home && home[0] == '/')) return NULL;
    int n = snprintf(path, size, "%s%s/flash-moe/%s", own ? given : home, own ? "" : folder->in_home, name);
    if (n < 0 || (size_t)n >= size) return NULL;
    for (char *p = strchr(path + 1, '/'); p; p = strchr(p + 1, '/')) {
        *p = '\0';
        bool made = mkdir(path, (mode_t)folder->mode) == 0 || errno == EEXIST;
        *p = '/';
        if (!made) return NULL;
    }
    return path;
}

static const struct user_folder cache = {"XDG_CACHE_HOME", "/.cache", 0777};

const char *fm_session_cache_path(char *path, size_t size, const char *asked) {
    if (asked) return strcmp(asked, "off") ? asked : NULL;
    return fm_user_path(path, size, &cache, "sessions");
}

const char *fm_heat_path(char *path, size_t size, const char *asked, const char *model) {
    char real[PATH_MAX], name[128];
    uint64_t hash = 14695981039346656037u; /* FNV-1a: models of one name in several places are several */

    if (asked) return strcmp(asked, "off") ? asked : NULL;
    if (!realpath(model, real)) return NULL;
    for (const char *p = real; *p; p++) hash = (hash ^ (unsigned char)*p) * 1099511628211u;
    snprintf(name, sizeof name, "%.100s-%08x.heat", strrchr(real, '/') + 1, (unsigned)(hash ^ hash >> 32));
    return fm_user_path(path, size, &cache, name);
}

int fm_json_read(json_t **out, const char *path, fm_error *err) {
    FILE *file = fopen(path, "rb");
    json_error_t at;

    *out = NULL;
    if (!file) return fm_cli_fail(err, FM_EIO, "%s cannot be opened: %s", path, strerror(errno));
    *out = json_loadf(file, 0, &at);
    fclose(file);
    return *out ? 0 : fm_cli_fail(err, FM_EFORMAT, "%s is no JSON: line %d: %s", path, at.line, at.text);
}

/* ---- options of the chat template ---- */

int fm_template_args(json_t *object, const struct text_list *list, fm_error *err) {
    static const char *const python[] = {"True", "False", "None"};

    for (int i = 0; i < list->n; i++) {
        const char *equals = strchr(list->items[i], '=');
        char name[64];
        if (!equals || equals == list->items[i] || (size_t)(equals - list->items[i]) >= sizeof name)
            return fm_cli_fail(err, FM_EINVAL, "--template-arg takes KEY=VALUE such as enable_thinking=false, not '%.200s'", list->items[i]);
        snprintf(name, sizeof name, "%.*s", (int)(equals - list->items[i]), list->items[i]);
        for (int k = 0; k < 3; k++) { /* as a text each of them would be true */
            if (strcmp(equals + 1, python[k]) == 0) return fm_cli_fail(err, FM_EINVAL, "--template-arg takes JSON: true, false or null, not '%s'", python[k]);
        }
        json_t *value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
        json_object_set_new(object, name, value ? value : fm_json_text(equals + 1, strlen(equals + 1)));
    }
    return 0;
}

int fm_template_check(const fm_chat *chat, const json_t *object, fm_error *err) {
    const char *name;
    json_t *value;

    json_object_foreach((json_t *)object, name, value) {
        if (!fm_chat_template_uses(chat, name)) return fm_cli_fail(err, FM_EINVAL, "the chat template has no variable %s, which --template-arg sets", name);
    }
    return 0;
}

const char *fm_kv_text(int kv) { return kv == FM_KV_F32 ? "f32" : kv == FM_KV_Q8 ? "q8" : "bf16"; }

/* ---- Ctrl-C ---- */

static fm_engine *volatile signalled_engines[2]; /* a signal handler has no other way to find them */
static volatile sig_atomic_t signalled;

static void on_signal(int signal_number) {
    (void)signal_number;
    signalled = 1;
    for (int i = 0; i < 2; i++) {
        fm_engine *engine = signalled_engines[i];
        if (engine) fm_engine_cancel(engine, true);
    }
}

bool fm_cancelled(void) { return signalled != 0; }
bool fm_stop_loading(void) { return signalled && !signalled_engines[0]; }

void fm_catch_signals(void) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int fm_open_engine(fm_engine **out, const char *model, const fm_engine_options *options, fm_error *err) {
    int rc;

    fm_catch_signals();
    rc = fm_engine_open(out, model, options, err);
    if (rc < 0) return rc;
    signalled_engines[signalled_engines[0] != NULL] = *out;
    if (signalled) fm_engine_cancel(*out, true); /* it came before there was an engine to tell */
    return 0;
}

void fm_close_engine(fm_engine **engine) {
    for (int i = 0; i < 2; i++)
        if (signalled_engines[i] == *engine) signalled_engines[i] = NULL;
    fm_engine_close(engine);
}

/* ---- errors ---- */

int fm_report(const fm_error *err) {
    size_t n = strlen(err->message);
    bool ended = n > 0 && strchr(".?!", err->message[n - 1]);

    if (err->code == FM_ECANCELLED && fm_cancelled())
        fputs("flash-moe: stopped.\n", stderr);
    else
        fprintf(stderr, "flash-moe: %s%s\n", n ? err->message : "an error without a message", ended ? "" : ".");
    return err->code == FM_ECANCELLED ? EXIT_CANCELLED : 1;
}

int fm_report_given(const fm_error *err) {
    int status = fm_report(err);
    return err->code == FM_EINVAL ? EXIT_USAGE : status;
}

int fm_cli_fail(fm_error *err, int code, const char *format, ...) {
    va_list arguments;

    err->code = code;
    va_start(arguments, format);
    vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    return code;
}

int fm_usage_error(const char *format, ...) {
    fm_error err = {.code = FM_EINVAL};
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(err.message, sizeof err.message, format, arguments);
    va_end(arguments);
    fm_report(&err);
    return EXIT_USAGE;
}

/* ---- texts ---- */

bool fm_text_add(struct text *t, const char *bytes, size_t n) {
    if (t->n + n + 1 > t->room) {
        size_t room = 2 * (t->n + n) + 256;
        char *grown = realloc(t->bytes, room);
        if (!grown) return false;
        t->bytes = grown;
        t->room = room;
    }
    if (n) memcpy(t->bytes + t->n, bytes, n);
    t->bytes[t->n += n] = '\0';
    return true;
}

static int read_all(struct text *out, FILE *file, const char *name, fm_error *err) {
    char bytes[65536];
    size_t n;

    do {
        n = fread(bytes, 1, sizeof bytes, file);
        if (!fm_text_add(out, bytes, n)) return fm_cli_fail(err, FM_ENOMEM, "%s does not fit in memory", name);
    } while (n > 0);
    if (ferror(file)) return fm_cli_fail(err, FM_EIO, "%s cannot be read: %s", name, strerror(errno));
    return 0;
}

int fm_read_text(struct text *out, const char *prompt, const char *path, bool standard_input, fm_error *err) {
    int rc, n = (prompt != NULL) + (path != NULL) + standard_input;
    FILE *file;

    *out = (struct text){0};
    if (n == 0) return fm_cli_fail(err, FM_EINVAL, "there is no text: give -p TEXT, -f FILE, or - for standard input");
    if (n > 1) return fm_cli_fail(err, FM_EINVAL, "there is more than one text: give one of -p TEXT, -f FILE and -");
    if (prompt) return fm_text_add(out, prompt, strlen(prompt)) ? 0 : fm_cli_fail(err, FM_ENOMEM, "no memory for the text");
    if (standard_input || strcmp(path, "-") == 0) {
        rc = read_all(out, stdin, "standard input", err);
    } else {
        if (!(file = fopen(path, "rb"))) return fm_cli_fail(err, FM_EIO, "%s cannot be opened: %s", path, strerror(errno));
        rc = read_all(out, file, path, err);
        fclose(file);
    }
    if (rc < 0) {
        free(out->bytes);
        *out = (struct text){0};
    }
    return rc;
}
