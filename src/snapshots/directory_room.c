/* snapshots/directory_room.c: the lock of a session cache, what crashes left there, and its limit. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/system.h"
#include "snapshots/directory_files.h"

#if defined(__APPLE__)
#define MTIME(st) (st).st_mtimespec
#else
#define MTIME(st) (st).st_mtim
#endif

static bool before(const struct timespec *a, const struct timespec *b) { return a->tv_sec != b->tv_sec ? a->tv_sec < b->tv_sec : a->tv_nsec < b->tv_nsec; }

bool fm_directory_touch(const char *path, const struct timespec *now) {
    struct stat st;
    if (stat(path, &st)) return false;
    if (before(&MTIME(st), now)) {
        struct timespec times[2] = {*now, *now};
        (void)utimensat(AT_FDCWD, path, times, 0);
    }
    return true;
}

/* Every file of the cache. */
typedef struct entry {
    struct timespec time;
    uint64_t bytes;
    bool page;
    char path[]; /* 0-terminated */
} entry;

typedef struct listing {
    entry **entries;
    size_t n, room;
} listing;

static bool ends_in(const char *name, const char *end) {
    size_t n = strlen(name), m = strlen(end);
    return n > m && strcmp(name + n - m, end) == 0;
}

static void add(listing *l, const char *path, const struct stat *st) {
    if (l->n == l->room) {
        entry **larger = realloc(l->entries, (l->room * 2 + 64) * sizeof *larger);
        if (!larger) return;
        l->entries = larger;
        l->room = l->room * 2 + 64;
    }
    size_t length = strlen(path) + 1;
    entry *e = malloc(sizeof *e + length);
    if (!e) return;
    *e = (entry){.time = MTIME(*st), .bytes = (uint64_t)st->st_size, .page = ends_in(path, ".page")};
    memcpy(e->path, path, length);
    l->entries[l->n++] = e;
}

/* The snapshots and pages in a model's directory; parts are removed. */
static void list_model(listing *l, const char *directory) {
    DIR *dir = opendir(directory);
    for (const struct dirent *file; dir && (file = readdir(dir));) {
        char path[FM_DIRECTORY_PATH + 300];
        struct stat st;
        bool part = ends_in(file->d_name, ".part");
        if (!part && !ends_in(file->d_name, ".page") && !ends_in(file->d_name, ".snapshot")) continue;
        if (snprintf(path, sizeof path, "%s/%s", directory, file->d_name) >= (int)sizeof path) continue;
        if (part)
            (void)unlink(path);
        else if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
            add(l, path, &st);
    }
    if (dir) closedir(dir);
}

static void list_all(listing *l, const char *directory) {
    DIR *dir = opendir(directory);
    *l = (listing){0};
    for (const struct dirent *file; dir && (file = readdir(dir));) {
        char path[FM_DIRECTORY_PATH + 300];
        if (strlen(file->d_name) != 32 || strspn(file->d_name, "0123456789abcdef") != 32) continue;
        if (snprintf(path, sizeof path, "%s/%s", directory, file->d_name) >= (int)sizeof path) continue;
        list_model(l, path);
    }
    if (dir) closedir(dir);
}

static void listing_close(listing *l) {
    for (size_t i = 0; i < l->n; i++) free(l->entries[i]);
    free(l->entries);
}

/* Oldest first; of one age snapshots first, then pages of later tokens, so that what goes is needed by nothing that stays. Names begin with the number of tokens. */
static int by_age(const void *a, const void *b) {
    const entry *x = *(entry *const *)a, *y = *(entry *const *)b;
    if (before(&x->time, &y->time)) return -1;
    if (before(&y->time, &x->time)) return 1;
    return x->page != y->page ? x->page - y->page : -strcmp(x->path, y->path);
}

void fm_directory_make_room(fm_directory *d, uint64_t bytes, const struct timespec *spare) {
    listing l;
    if (d->total_bytes + bytes <= d->config.limit_bytes) return;
    list_all(&l, d->path);
    qsort(l.entries, l.n, sizeof *l.entries, by_age);
    d->total_bytes = 0;
    for (size_t i = 0; i < l.n; i++) d->total_bytes += l.entries[i]->bytes;
    for (size_t i = 0; i < l.n && d->total_bytes + bytes > d->config.limit_bytes; i++) {
        const struct timespec *time = &l.entries[i]->time;
        if (!before(time, spare) && !before(spare, time)) continue;
        if (unlink(l.entries[i]->path) && errno != ENOENT) continue;
        d->total_bytes -= l.entries[i]->bytes;
    }
    listing_close(&l);
}

/* ---- lock ---- */

/* What was written when, less what the time since allows. A text that is none, or a clock that was set back, counts as just now. */
static uint64_t read_wrote(int fd) {
    char text[64] = "";
    unsigned long long bytes = 0;
    long long then = 0, seconds;
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    if (n <= 0 || sscanf(text, "%llu bytes at %lld", &bytes, &then) != 2) return 0;
    seconds = (long long)time(NULL) - then;
    uint64_t allowed = seconds > 0 ? (uint64_t)(seconds < 1000000 ? seconds : 1000000) * FM_DIRECTORY_WRITE_RATE : 0;
    return bytes > allowed ? bytes - allowed : 0;
}

static void write_wrote(int fd, uint64_t bytes) {
    char text[64];
    int n = snprintf(text, sizeof text, "%20llu bytes at %20lld\n", (unsigned long long)bytes, (long long)time(NULL));
    if (pwrite(fd, text, (size_t)n, 0) != n) return; /* a full disk: nothing was written to it either */
}

int fm_directory_lock(fm_directory *d, double deadline, fm_error *err) {
    char path[FM_DIRECTORY_PATH + 8];
    listing l;
    int rc = fm_path_make(d->own, 0700, err);
    if (rc < 0) return rc;
    snprintf(path, sizeof path, "%s/lock", d->path);
    d->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (d->lock < 0) return fm_fail_errno(err, FM_EIO, errno, "%s", path);
    while (flock(d->lock, LOCK_EX | LOCK_NB)) {
        if (errno == EINTR) continue;
        if (errno != EWOULDBLOCK) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be locked", path);
        if (rc < 0 || fm_now() >= deadline) {
            close(d->lock);
            d->lock = -1;
            return rc;
        }
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    list_all(&l, d->path);
    d->total_bytes = 0;
    for (size_t i = 0; i < l.n; i++) d->total_bytes += l.entries[i]->bytes;
    listing_close(&l);
    d->wrote_bytes = d->wrote_before = read_wrote(d->lock);
    return 1;
}

int fm_directory_share(const fm_directory *d) {
    char path[FM_DIRECTORY_PATH + 8];
    snprintf(path, sizeof path, "%s/lock", d->path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0) return fd;
    close(fd);
    return -1;
}

void fm_directory_unlock(fm_directory *d) {
    if (d->lock >= 0 && d->wrote_bytes != d->wrote_before) write_wrote(d->lock, d->wrote_bytes);
    if (d->lock >= 0) close(d->lock);
    d->lock = -1;
}
