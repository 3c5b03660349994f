/* hub/stage.c: see stage.h. */
#include "hub/stage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/write.h"

#define HEADER_BYTES ((uint64_t)100 << 20) /* more is no header */

/* ---- the directory ---- */

/* Removes a directory's files, and it too if that is all. */
static void remove_flat(const char *path) {
    char name[FM_HUB_PATH];
    DIR *directory = opendir(path);
    for (struct dirent *e; directory && (e = readdir(directory));) {
        if (fm_path_join(name, sizeof name, path, e->d_name, NULL) == 0) (void)unlink(name);
    }
    if (directory) closedir(directory);
    (void)rmdir(path);
}

static int marker_path(char out[FM_HUB_PATH], const char *stage, fm_error *err) { return fm_path_join(out, FM_HUB_PATH, stage, "pull.json", err); }

static int set_paths(fm_hub_stage *s, const char *directory, fm_error *err) {
    size_t n = strlen(directory);
    while (n > 1 && directory[n - 1] == '/') n--;
    if (n == 0 || n + 10 > sizeof s->path) return fm_fail(err, FM_EINVAL, "%s: the path is %s", directory, n ? "too long" : "empty");
    snprintf(s->path, sizeof s->path, "%.*s.pull", (int)n, directory);
    snprintf(s->view, sizeof s->view, "%s/view", s->path);
    return 0;
}

bool fm_hub_stage_here(const char *directory) {
    fm_hub_stage s;
    char path[FM_HUB_PATH];
    return set_paths(&s, directory, NULL) == 0 && marker_path(path, s.path, NULL) == 0 && fm_path_exists(path);
}

/* The marker is written whole or not at all, before anything else. */
static int write_marker(const char *path, const char *text, fm_error *err) {
    char next[FM_HUB_PATH + 8];
    fm_writer w = {0};
    snprintf(next, sizeof next, "%s.new", path);
    (void)unlink(next);
    int rc = fm_writer_open(&w, next, strlen(text), err);
    if (rc == 0 && (rc = fm_writer_put(&w, text, strlen(text), 0, err)) == 0) rc = fm_writer_finish(&w, err);
    fm_writer_close(&w);
    if (rc == 0 && rename(next, path)) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be written", path);
    if (rc < 0) (void)unlink(next);
    return rc;
}

static int check_marker(const fm_hub_stage *s, const char *path, const char *text, fm_error *err) {
    char *there;
    size_t n;
    int rc = fm_file_read_text(&there, &n, path, 4096, err);
    if (rc < 0) return rc;
    bool same = !strcmp(there, text);
    there[strcspn(there, "\n")] = '\0';
    if (!same) rc = fm_fail(err, FM_EIO, "%s: it was begun for %s; go on with that (ORG/NAME@COMMIT), or remove it", s->path, there);
    free(there);
    return rc;
}

int fm_hub_stage_open(fm_hub_stage *s, const char *directory, const char *repo, const char *commit, fm_error *err) {
    char path[FM_HUB_PATH], text[400];
    *s = (fm_hub_stage){.lock = -1};
    int rc = set_paths(s, directory, err);
    if (rc < 0 || (rc = marker_path(path, s->path, err)) < 0) return rc;
    snprintf(text, sizeof text, "{\"model\": \"%s\", \"commit\": \"%s\"}\n", repo, commit);
    if (!fm_path_exists(path)) {
        (void)rmdir(s->path); /* made just before a stop */
        if (mkdir(s->path, 0777)) {
            return errno == EEXIST ? fm_fail(err, FM_EIO, "%s: it is there already, and not made by pull; remove it first", s->path)
                                   : fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", s->path);
        }
    }
    s->lock = open(s->path, O_RDONLY | O_CLOEXEC);
    if (s->lock < 0) return fm_fail_errno(err, FM_EIO, errno, "%s", s->path);
    if (flock(s->lock, LOCK_EX | LOCK_NB)) return fm_fail(err, FM_EIO, "%s: another program is at work there", s->path);
    rc = fm_path_exists(path) ? check_marker(s, path, text, err) : write_marker(path, text, err);
    if (rc == 0 && mkdir(s->view, 0777) && errno != EEXIST) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", s->view);
    return rc;
}

void fm_hub_stage_close(fm_hub_stage *s) {
    if (s->lock >= 0) close(s->lock);
    s->lock = -1;
}

void fm_hub_stage_remove(const fm_hub_stage *s) {
    char path[FM_HUB_PATH], name[FM_HUB_PATH];
    remove_flat(s->view);
    /* The marker goes last, so that what is left of it is still known as ours. */
    DIR *directory = opendir(s->path);
    for (struct dirent *e; directory && (e = readdir(directory));) {
        if (strcmp(e->d_name, "pull.json") && fm_path_join(name, sizeof name, s->path, e->d_name, NULL) == 0) (void)unlink(name);
    }
    if (directory) closedir(directory);
    if (marker_path(path, s->path, NULL) == 0) (void)unlink(path);
    (void)rmdir(s->path);
}

/* ---- the view ---- */

int fm_hub_stage_clear(const fm_hub_stage *s, fm_error *err) {
    remove_flat(s->view);
    if (mkdir(s->view, 0777) && errno != EEXIST) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", s->view);
    return 0;
}

int fm_hub_stage_show(const fm_hub_stage *s, const fm_fetch_file *file, fm_error *err) {
    char path[FM_HUB_PATH], real[PATH_MAX];
    int rc = fm_path_join(path, sizeof path, s->view, file->file->name, err);
    if (rc < 0) return rc;
    (void)unlink(path);
    if (!realpath(file->whole, real)) return fm_fail_errno(err, FM_EIO, errno, "%s", file->whole);
    if (symlink(real, path)) return fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", path);
    return 0;
}

int fm_hub_stage_header(const fm_fetch_file *file, uint64_t *bytes, fm_error *err) {
    uint8_t length[8];
    uint64_t n = 0;
    fm_file f;
    *bytes = 0;
    int rc = fm_file_open(&f, file->part, false, err);
    if (rc < 0) return rc;
    if (f.size >= 8 && (rc = fm_file_read(&f, length, sizeof length, 0, err)) == 0) {
        for (int i = 0; i < 8; i++) n |= (uint64_t)length[i] << (8 * i);
        if (n > HEADER_BYTES || n + 8 > file->file->bytes)
            rc = fm_fail(err, FM_EFORMAT, "%s: its header says it has %llu bytes, which cannot be", file->file->name, (unsigned long long)n);
        *bytes = n + 8;
    }
    fm_file_close(&f);
    return rc;
}

int fm_hub_stage_ghost(const fm_hub_stage *s, const fm_fetch_file *file, fm_error *err) {
    char path[FM_HUB_PATH];
    uint64_t n;
    fm_file from = {.fd = -1, .direct_fd = -1};
    int rc = fm_path_join(path, sizeof path, s->view, file->file->name, err), fd = -1;
    if (rc < 0 || (rc = fm_hub_stage_header(file, &n, err)) < 0 || (rc = fm_file_open(&from, file->part, false, err)) < 0) return rc;
    uint8_t *header = malloc((size_t)n + 1);
    if (!header) rc = fm_fail(err, FM_ENOMEM, "%s: no memory for a header of %llu bytes", file->file->name, (unsigned long long)n);
    if (rc == 0) rc = fm_file_read(&from, header, (size_t)n, 0, err);
    (void)unlink(path);
    if (rc == 0 && (fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made", path);
    for (uint64_t at = 0; at < n && rc == 0;) {
        ssize_t got = pwrite(fd, header + at, (size_t)(n - at), (off_t)at);
        if (got <= 0) rc = fm_fail_errno(err, FM_EIO, got < 0 ? errno : EIO, "%s: it cannot be written", path);
        at += got > 0 ? (uint64_t)got : 0;
    }
    if (rc == 0 && ftruncate(fd, (off_t)file->file->bytes)) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be made as large", path);
    if (fd >= 0) close(fd);
    free(header);
    fm_file_close(&from);
    return rc;
}
