/* cli/serve/serve.c: `flash-moe serve`: options, the key, signals, and what is said on standard error. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/sampling.h"
#include "cli/session_options.h"
#include "serve/serve.h"

#define AT(field) offsetof(struct serve_options, field)

struct serve_options {
    struct engine_choices engine;
    struct session_choices session;
    struct sampling_choices sampling;
    const char *host, *key, *alias, *heat, *template_file;
    struct text_list origins, hosts;
    int port, parallel, queue, connections, max_tokens, think_budget;
    float idle, alive, stall, grace;
    uint64_t body;
    bool strict_model;
};

static const struct cli_option serve_table[] = {
    {"host", 0, OPTION_TEXT, AT(host), "ADDRESS", "where to listen; 0.0.0.0 is everywhere (default: 127.0.0.1)", 0, 0},
    {"port", 0, OPTION_INT, AT(port), "N", "0: any that is free (default: 8080)", 0, 65535},
    {"api-key", 0, OPTION_TEXT, AT(key), "FILE|env", "clients need the key in FILE, or in the variable FLASH_MOE_API_KEY", 0, 0},
    {"alias", 0, OPTION_TEXT, AT(alias), "NAME", "what the model is called (default: its directory's name)", 0, 0},
    {"strict-model", 0, OPTION_FLAG, AT(strict_model), NULL, "requests for models of other names are refused", 0, 0},
    {"parallel", 0, OPTION_INT, AT(parallel), "N", "answers that are made at once (default: 4)", 1, 64},
    {"queue", 0, OPTION_INT, AT(queue), "N", "answers that may wait; more get 429 (default: 64)", 0, 65536},
    {"max-tokens", 'n', OPTION_INT, AT(max_tokens), "N", "tokens of an answer whose request does not say; -1: any (default: -1)", -1, 2147483647},
    {"think-budget", 0, OPTION_INT, AT(think_budget), "N", "end the model's reasoning after N tokens; -1: any (default: -1)", -1, 2147483647},
    {"template", 0, OPTION_TEXT, AT(template_file), "FILE", "another chat template (Jinja) than the model's own", 0, 0},
    {"cors", 0, OPTION_LIST, AT(origins), "ORIGIN", "pages of http://host:port may ask; * is any; may be given again", 0, 0},
    {"allow-host", 0, OPTION_LIST, AT(hosts), "NAME", "a name that the server is called by, besides localhost and addresses;\nmay be given again", 0, 0},
    {"connections", 0, OPTION_INT, AT(connections), "N", "open at once (default: 2048)", 1, 65536},
    {"idle", 0, OPTION_FLOAT, AT(idle), "SECONDS", "a silent connection is closed (default: 60)", 1, 86400},
    {"alive", 0, OPTION_FLOAT, AT(alive), "SECONDS", "a stream that waits says so this often (default: 3)", 0.05, 86400},
    {"stall", 0, OPTION_FLOAT, AT(stall), "SECONDS", "a stream whose client takes nothing is given up (default: 20)", 0.05, 86400},
    {"grace", 0, OPTION_FLOAT, AT(grace), "SECONDS", "answers may finish when the server is told to stop (default: 10)", 0, 86400},
    {"body", 0, OPTION_SIZE, AT(body), "SIZE", "the largest request (default: 8M, or less if memory or context are\nsmall)", 1, 0},
    {"heat", 0, OPTION_TEXT, AT(heat), "FILE",
     "remembers which experts were used most, for the next start; off: nowhere\n(default: a file of the model's in the user's cache directory)", 0, 0},
};

/* ---- signals ---- */

static int signal_pipe[2];

static void on_signal(int number) {
    int before = errno;
    (void)number;
    if (write(signal_pipe[1], "", 1) < 0) errno = before;
}

static int catch_signals(fm_error *err) {
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = (int)SA_RESTART};
    if (pipe(signal_pipe)) return fm_cli_fail(err, FM_EIO, "cannot make a pipe: %s", strerror(errno));
    for (int i = 0; i < 2; i++) fcntl(signal_pipe[i], F_SETFL, O_NONBLOCK);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    return 0;
}

/* ---- the key ---- */

/* Of the file, without white space around it. malloc'd. */
static int read_key(char **key, const char *from, fm_error *err) {
    char line[4096] = "";
    *key = NULL;
    if (!from) return 0;
    if (strcmp(from, "env") == 0) {
        const char *value = getenv("FLASH_MOE_API_KEY");
        if (!value || !*value) return fm_cli_fail(err, FM_EINVAL, "--api-key env needs the variable FLASH_MOE_API_KEY");
        *key = strdup(value);
    } else {
        FILE *file = fopen(from, "r");
        if (!file) return fm_cli_fail(err, FM_EIO, "cannot open the file of --api-key, %s: %s", from, strerror(errno));
        size_t n = fread(line, 1, sizeof line - 1, file);
        fclose(file);
        while (n && strchr(" \t\r\n", line[n - 1])) line[--n] = '\0';
        char *start = line + strspn(line, " \t\r\n");
        if (!*start || start[strcspn(start, " \t\r\n")]) return fm_cli_fail(err, FM_EFORMAT, "%s has to hold one API key", from);
        *key = strdup(start);
    }
    return *key ? 0 : fm_cli_fail(err, FM_ENOMEM, "no memory for the API key");
}

/* ---- running ---- */

struct chosen {
    const struct sampling_choices *choices;
    const fm_logit_bias *bias;
};

static void choose_sampling(void *user, const fm_engine *engine, fm_sampling *out) {
    const struct chosen *c = user;
    fm_sampling_choose(out, engine, c->choices, c->bias);
}

static void say_ready(const fm_server *server, const struct serve_options *o) {
    const char *open = strchr(o->host, ':') ? "[" : "", *close = *open ? "]" : "";
    fprintf(stderr, "flash-moe: ready at http://%s%s%s:%d\n", open, o->host, close, fm_server_port(server));
}

/* Until a signal or an error. */
static int serve(fm_server *server, const struct serve_options *o, struct progress *progress, fm_error *err) {
    bool ready = false;
    int rc = 1;
    while (rc == 1) {
        struct pollfd wait = {.fd = signal_pipe[0], .events = POLLIN};
        char byte;
        poll(&wait, 1, 100);
        while (read(signal_pipe[0], &byte, 1) == 1) fm_server_stop(server);
        rc = fm_server_tick(server, err);
        if (rc == 1 && !ready && fm_server_ready(server)) {
            ready = true;
            fm_progress_clear(progress);
            say_ready(server, o);
        }
    }
    return rc;
}

/* Each connection is a file. */
static void raise_files(int connections) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur >= (rlim_t)connections + 256) return;
    files.rlim_cur = files.rlim_max < (rlim_t)connections + 256 ? files.rlim_max : (rlim_t)connections + 256;
    setrlimit(RLIMIT_NOFILE, &files);
}

static int run(const char *model, struct serve_options *o, char *key, const fm_logit_bias *bias) {
    struct chosen chosen = {.choices = &o->sampling, .bias = bias};
    struct progress progress;
    fm_server *server = NULL;
    fm_error err = {0};
    char heat[4200];
    fm_progress_open(&progress);
    fm_server_options options = {.model = model, .engine = fm_engine_choose(&o->engine, &progress)};
    fm_session_choose(&o->session, &options.engine);
    options.engine.heat = fm_heat_path(heat, sizeof heat, o->heat, model);
    options.host = o->host;
    options.port = o->port;
    options.key = key;
    options.parallel = o->parallel;
    options.queue = o->queue;
    options.alias = o->alias;
    options.strict_model = o->strict_model;
    options.origins = o->origins.items;
    options.n_origins = o->origins.n;
    options.hosts = o->hosts.items;
    options.n_hosts = o->hosts.n;
    options.connections = o->connections;
    options.idle_seconds = o->idle;
    options.alive_seconds = o->alive;
    options.stall_seconds = o->stall;
    options.grace_seconds = o->grace;
    options.body_bytes = o->body;
    options.template_file = o->template_file;
    options.max_tokens = o->max_tokens;
    options.think_budget = o->think_budget;
    options.sampling = choose_sampling;
    options.user = &chosen;
    raise_files(o->connections);
    if (!fm_guard_loopback(o->host))
        fprintf(stderr, "flash-moe: warning: %s can be reached from other machines%s\n", o->host, key ? "" : ", without an API key (--api-key FILE)");
    int rc = catch_signals(&err);
    if (rc >= 0) rc = fm_server_open(&server, &options, &err);
    if (rc >= 0) {
        fprintf(stderr, "flash-moe: listening at %s port %d, loading %s\n", o->host, fm_server_port(server), model);
        rc = serve(server, o, &progress, &err);
    }
    fm_progress_clear(&progress);
    fm_server_close(&server);
    return rc < 0 ? fm_report(&err) : 0;
}

static int serve_main(const struct cli_command *command, int argc, char **argv) {
    struct serve_options options = {.sampling = SAMPLING_CHOICES_INIT,
                                    .host = "127.0.0.1",
                                    .port = 8080,
                                    .parallel = 4,
                                    .queue = 64,
                                    .connections = 2048,
                                    .max_tokens = -1,
                                    .think_budget = -1,
                                    .idle = 60,
                                    .alive = 3,
                                    .stall = 20,
                                    .grace = 10};
    const struct option_group groups[] = {OPTION_GROUP("Server", serve_table, &options), SAMPLING_GROUP(&options.sampling), ENGINE_GROUP(&options.engine),
                                          SESSION_GROUP(&options.session)};
    struct cli_words words;
    fm_logit_bias *bias = NULL;
    char *key = NULL;
    fm_error err = {0};
    int status;

    (void)argc;
    if (fm_options_parse(command, groups, 4, 1, &words, argv, &status) != 0) goto end;
    int rc = fm_sampling_biases(&bias, &options.sampling, &err);
    if (rc >= 0) rc = read_key(&key, options.key, &err);
    if (rc >= 0)
        status = run(words.words[0], &options, key, bias);
    else
        status = fm_report_given(&err);

end:
    free(bias);
    free(key);
    free(options.origins.items);
    free(options.hosts.items);
    free(options.sampling.biases.items);
    return status;
}

const struct cli_command fm_command_serve = {
    .name = "serve",
    .arguments = "MODEL [options]",
    .summary = "answer programs over HTTP, as OpenAI's API does",
    .text = "Clients of OpenAI's API work with http://127.0.0.1:8080/v1. The port opens at once; GET /health\n"
            "says when the model is loaded. Sampling, length and context are defaults, which a request may\n"
            "change where its API can. Ctrl-C or SIGTERM ends it: answers in the making may finish, and\n"
            "what was read is kept for the next start.\n"
            "\n"
            "Examples\n"
            "  flash-moe serve models/ember\n"
            "  flash-moe serve MODEL --memory 12G --context 32768 --parallel 2 --alias coder\n"
            "  flash-moe serve MODEL --host 0.0.0.0 --api-key key.txt --allow-host big-box.local\n",
    .main = serve_main,
};
