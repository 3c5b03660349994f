/* cli/chat/process.c: posix_spawn, two pipes, a clock. Not fork: its copy of the page tables takes long with a large model in memory, and it must not copy pages
 * that the disk is being read into. */
#include "cli/chat/process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

extern char **environ;

enum { LOOK_MS = 20 }; /* how often is looked whether it has ended */

/* ---- output that is kept ---- */

struct kept {
    char *head, *tail; /* [half] each; tail is a ring */
    size_t half, n_head;
    uint64_t n_tail; /* bytes that ever went there */
};

static int kept_open(struct kept *k, size_t bytes) {
    *k = (struct kept){.half = bytes / 2 + 1};
    k->head = malloc(k->half);
    k->tail = malloc(k->half);
    return k->head && k->tail ? 0 : -1;
}

static void keep(struct kept *k, const char *bytes, size_t n) {
    size_t room = k->half - k->n_head, first = n < room ? n : room;

    memcpy(k->head + k->n_head, bytes, first);
    k->n_head += first;
    for (size_t i = first; i < n; i++) k->tail[k->n_tail++ % k->half] = bytes[i];
}

static bool continues(char c) { return ((unsigned char)c & 0xc0) == 0x80; }

/* What was kept, as one text; whole characters where it is cut. */
static int kept_text(const struct kept *k, struct process_result *out) {
    size_t tail = k->n_tail < k->half ? (size_t)k->n_tail : k->half;

    out->left_out = k->n_tail - tail;
    if (!(out->output = malloc(k->n_head + tail + 1))) return -1;
    memcpy(out->output, k->head, out->n = k->n_head);
    if (out->left_out) {
        int cut = 0;
        while (cut < 4 && out->n > 0 && continues(out->output[out->n - 1])) out->n--, cut++;
        if (out->n > 0 && (unsigned char)out->output[out->n - 1] >= 0xc0) out->n--, cut++;
        out->left_out += (uint64_t)cut;
        for (; tail > 0 && continues(k->tail[(k->n_tail - tail) % k->half]); tail--) out->left_out++;
    }
    out->head = out->n;
    for (; tail > 0; tail--) out->output[out->n++] = k->tail[(k->n_tail - tail) % k->half];
    out->output[out->n] = '\0';
    return 0;
}

/* ---- starting ---- */

struct process {
    pid_t pid;
    int in, out; /* our ends of its pipes; -1: closed */
    const char *input;
    size_t input_left;
};

static void shut(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static int open_pipes(int pipes[2][2]) {
    for (int i = 0; i < 2; i++) pipes[i][0] = pipes[i][1] = -1;
    for (int i = 0; i < 2; i++) {
        if (pipe(pipes[i])) return -1;
        for (int j = 0; j < 2; j++) fcntl(pipes[i][j], F_SETFD, FD_CLOEXEC);
    }
    return 0;
}

static int spawn(struct process *p, const char *const *argv, int pipes[2][2], const char *directory) {
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, usual;
    int failed;

    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_adddup2(&files, pipes[0][0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, pipes[1][1], STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, pipes[1][1], STDERR_FILENO);
    if (directory) posix_spawn_file_actions_addchdir_np(&files, directory);
    sigemptyset(&none);
    sigemptyset(&usual);
    for (int i = 0; i < 5; i++) sigaddset(&usual, (const int[]){SIGPIPE, SIGINT, SIGTERM, SIGHUP, SIGQUIT}[i]);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &usual);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    failed = posix_spawnp(&p->pid, argv[0], &files, &attributes, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&files);
    posix_spawnattr_destroy(&attributes);
    return failed;
}

static int start(struct process *p, const char *const *argv, const char *directory, fm_error *err) {
    int pipes[2][2], failed = open_pipes(pipes) ? errno : 0;

    if (!failed) failed = spawn(p, argv, pipes, directory);
    p->in = pipes[0][1];
    p->out = pipes[1][0];
    shut(&pipes[0][0]);
    shut(&pipes[1][1]);
    if (!failed) {
        fcntl(p->in, F_SETFL, O_NONBLOCK);
        fcntl(p->out, F_SETFL, O_NONBLOCK);
        return 0;
    }
    shut(&p->in);
    shut(&p->out);
    return fm_cli_fail(err, FM_EIO, "%s cannot be run%s%s: %s", argv[0], directory ? " in " : "", directory ? directory : "", strerror(failed));
}

/* ---- while it runs ---- */

static void write_input(struct process *p) {
    ssize_t n = p->input_left ? write(p->in, p->input, p->input_left) : 0;

    if (n > 0) {
        p->input += n;
        p->input_left -= (size_t)n;
    }
    if (p->input_left == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) shut(&p->in); /* it need not read */
}

/* Reads what is there. */
static void read_output(struct process *p, struct kept *kept) {
    char bytes[16384];
    ssize_t n;

    while ((n = read(p->out, bytes, sizeof bytes)) > 0) keep(kept, bytes, (size_t)n);
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) shut(&p->out);
}

/* One look, of LOOK_MS at most, at pipes and process. Returns true when it has ended. */
static bool look(struct process *p, struct kept *kept, int *status) {
    struct pollfd fds[2] = {{.fd = p->out, .events = POLLIN}, {.fd = p->in, .events = POLLOUT}}; /* poll skips -1 */

    poll(fds, 2, LOOK_MS);
    if (p->in >= 0 && fds[1].revents) write_input(p);
    if (p->out >= 0 && fds[0].revents) read_output(p, kept);
    return waitpid(p->pid, status, WNOHANG) == p->pid;
}

static void wait_for(struct process *p, const struct process_limits *limits, struct kept *kept, struct process_result *out) {
    double start_seconds = fm_seconds();
    int status = 0;

    while (!look(p, kept, &status)) {
        out->timed_out = out->timed_out || fm_seconds() - start_seconds >= limits->seconds;
        out->stopped = out->stopped || (limits->stop && limits->stop());
        if (out->timed_out || out->stopped) kill(-p->pid, SIGKILL);
    }
    kill(-p->pid, SIGKILL); /* what it left behind; the group's number is not used again while one lives */
    if (p->out >= 0) read_output(p, kept);
    out->seconds = fm_seconds() - start_seconds;
    out->exit_status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

int fm_process_run(const char *const *argv, const char *input, size_t input_bytes, const struct process_limits *limits, struct process_result *out,
                   fm_error *err) {
    struct process p = {.input = input, .input_left = input_bytes};
    struct kept kept;
    int rc;

    *out = (struct process_result){0};
    rc = kept_open(&kept, limits->output_bytes) ? fm_cli_fail(err, FM_ENOMEM, "no memory for the output of %s", argv[0]) : 0;
    if (rc >= 0) rc = start(&p, argv, limits->directory, err);
    if (rc >= 0) {
        wait_for(&p, limits, &kept, out);
        shut(&p.in);
        shut(&p.out);
        if (kept_text(&kept, out)) rc = fm_cli_fail(err, FM_ENOMEM, "no memory for the output of %s", argv[0]);
    }
    free(kept.head);
    free(kept.tail);
    return rc;
}

/* ---- the editor ---- */

int fm_process_edit(const char *path, fm_error *err) {
    const char *editor = getenv("VISUAL") && *getenv("VISUAL") ? getenv("VISUAL") : getenv("EDITOR");
    const char *const argv[] = {"sh", "-c", "exec $0 \"$1\"", editor && *editor ? editor : "vi", path, NULL}; /* it may have options */
    int failed, status = 0;
    pid_t pid;

    if ((failed = posix_spawnp(&pid, argv[0], NULL, NULL, (char *const *)argv, environ)))
        return fm_cli_fail(err, FM_EIO, "%s cannot be run: %s", argv[3], strerror(failed));
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) continue;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return 0;
    return fm_cli_fail(err, FM_EIO, "the editor, %s, failed", argv[3]);
}
