/* tests/terminal/process.c: programs that are run for the model: output, limits, no terminal, nothing left running. */
#include "cli/chat/process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "test.h"

static struct process_limits limits = {.seconds = 20, .output_bytes = 4096};

static struct process_result run(const char *script, const char *input) {
    const char *const argv[] = {"sh", "-c", script, NULL};
    struct process_result result;

    MUST(fm_process_run(argv, input, strlen(input), &limits, &result, err));
    return result;
}

static void test_output(void) {
    struct process_result r = run("cat; echo err >&2; exit 3", "{\"a\": 1}\n");
    CHECK(strcmp(r.output, "{\"a\": 1}\nerr\n") == 0 && r.exit_status == 3 && !r.left_out && !r.timed_out, "%s %d", r.output, r.exit_status);
    free(r.output);
    r = run("kill -9 $$", "");
    CHECK(r.exit_status == -1 && r.signal == SIGKILL && r.n == 0, "%d %d", r.exit_status, r.signal);
    free(r.output);
    limits.directory = "/";
    r = run("pwd", "");
    CHECK(strcmp(r.output, "/\n") == 0, "%s", r.output);
    free(r.output);
    limits.directory = NULL;
}

/* More input than a pipe holds, to one that does not read it, and to one that gives it all back. */
static void test_long_input(void) {
    size_t n = 1 << 20;
    char *input = malloc(n + 1);

    memset(input, 'x', n);
    input[n] = 0;
    struct process_result r = run("exit 0", input);
    CHECK(r.exit_status == 0, "%d", r.exit_status);
    free(r.output);
    r = run("wc -c", input);
    CHECK(atoi(r.output) == 1 << 20, "%s", r.output);
    free(r.output);
    r = run("cat", input);
    CHECK(r.n >= 4000 && r.n + r.left_out == n, "%zu and %llu", r.n, (unsigned long long)r.left_out);
    free(r.output);
    free(input);
}

static void test_cut(void) {
    struct process_result r = run("seq 1 100000", "");
    CHECK(r.left_out > 0 && strncmp(r.output, "1\n2\n", 4) == 0 && strcmp(r.output + r.n - 7, "100000\n") == 0, "%zu bytes", r.n);
    CHECK(r.n + r.left_out == 588895 && r.n <= 4200 && r.head > 2000 && r.head < 2100, "%zu, %llu, %zu", r.n, (unsigned long long)r.left_out, r.head);
    free(r.output);
    r = run("i=0; while [ $i -lt 3000 ]; do printf '\\303\\244\\344\\275\\240'; i=$((i+1)); done", "");
    CHECK(r.left_out + r.n == 15000, "%zu and %llu", r.n, (unsigned long long)r.left_out);
    for (size_t i = 0; i < r.n;) { /* whole characters on both sides of the cut */
        int length = (unsigned char)r.output[i] == 0xc3 ? 2 : (unsigned char)r.output[i] == 0xe4 ? 3 : 0;
        CHECK(length && (i >= r.head || i + (size_t)length <= r.head), "a cut character at %zu of %zu, %zu", i, r.head, r.n);
        if (!length) break;
        i += (size_t)length;
    }
    free(r.output);
}

static void test_time_limit(void) {
    limits.seconds = 0.3;
    struct process_result r = run("echo before; sleep 60; echo after", "");
    CHECK(r.timed_out && r.exit_status == -1 && strcmp(r.output, "before\n") == 0 && r.seconds < 10, "%s after %g s", r.output, r.seconds);
    free(r.output);
    r = run("trap '' TERM INT HUP; while :; do :; done", "");
    CHECK(r.timed_out && r.seconds < 10, "%g s", r.seconds);
    free(r.output);
    limits.seconds = 20;
}

static bool stop_now(void) { return true; }

static void test_stop(void) {
    limits.stop = stop_now;
    struct process_result r = run("sleep 60", "");
    CHECK(r.stopped && !r.timed_out && r.seconds < 10, "%g s", r.seconds);
    free(r.output);
    limits.stop = NULL;
}

/* One in the background holds the pipe open: the call ends, and so does the other. */
static void test_nothing_stays(void) {
    struct process_result r = run("sleep 60 & echo $!", "");
    pid_t left = atoi(r.output);
    bool gone = false;

    CHECK(r.exit_status == 0 && r.seconds < 10 && left > 0, "%g s, %s", r.seconds, r.output);
    for (int i = 0; i < 100 && !gone; i++) {
        char path[64], state = 'Z';
        snprintf(path, sizeof path, "/proc/%d/stat", (int)left);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%*d %*s %c", &state) != 1) state = '?';
        if (file) fclose(file);
        gone = kill(left, 0) != 0 || state == 'Z'; /* a container's init may not reap */
        if (!gone) usleep(20000);
    }
    CHECK(gone, "process %d still runs", (int)left);
    free(r.output);
}

/* In a process that has a terminal: the one it runs has none. */
static void test_no_terminal(void) {
    int ours = posix_openpt(O_RDWR | O_NOCTTY), status = 1;

    if (ours < 0 || grantpt(ours) || unlockpt(ours)) SKIP("no pseudo-terminals here");
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        bool has = open(ptsname(ours), O_RDWR) >= 0 && open("/dev/tty", O_RDWR) >= 0;
        struct process_result r = run("(: </dev/tty) 2>/dev/null && echo terminal || echo none", "");
        _exit(!has ? 2 : strcmp(r.output, "none\n") == 0 ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    close(ours);
}

static void test_errors(void) {
    const char *const missing[] = {"no-such-program-here", NULL}, *const true_[] = {"true", NULL};
    struct process_result r;
    fm_error err = {0};

    CHECK(fm_process_run(missing, "", 0, &limits, &r, &err) == FM_EIO && strstr(err.message, "no-such-program-here"), "%s", err.message);
    limits.directory = "/no/such/directory";
    CHECK(fm_process_run(true_, "", 0, &limits, &r, &err) == FM_EIO && strstr(err.message, "/no/such/directory"), "%s", err.message);
    limits.directory = NULL;
}

int main(void) {
    signal(SIGPIPE, SIG_IGN);
    test_output();
    test_long_input();
    test_cut();
    test_time_limit();
    test_stop();
    test_nothing_stays();
    test_no_terminal();
    test_errors();
    return TEST_END();
}
