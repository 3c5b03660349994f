/* base/cgroup.c: see cgroup.h.
 *
 * /proc/self/cgroup gives the group's path in each hierarchy, /proc/self/mountinfo where the hierarchy is mounted and which part of it: a container often
 * sees its own group as the mount's root, and then that part of the path is not below the mount point. */
#include "base/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_BYTES 8192 /* memory.stat, the longest, has about 2 KiB */
#define LEAST_LEFT ((uint64_t)2 << 20)
#define NO_LIMIT ((uint64_t)1 << 60) /* v1 writes no limit as a huge number */

bool fm_cgroup_text(char *out, size_t size, const char *path) {
    size_t got = 0;
    ssize_t n = -1;
    out[0] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    while (got + 1 < size && ((n = read(fd, out + got, size - 1 - got)) > 0 || (n < 0 && errno == EINTR))) got += n > 0 ? (size_t)n : 0;
    close(fd);
    out[got] = 0;
    return got > 0;
}

/* The number at key of lines "key number", or that the text begins with when key is NULL; "max" is UINT64_MAX. */
static uint64_t number_in(const char *text, const char *key, uint64_t fallback) {
    const char *at = text;
    if (key) {
        size_t n = strlen(key);
        while (at && !(!strncmp(at, key, n) && at[n] == ' ')) at = (at = strchr(at, '\n')) ? at + 1 : NULL;
        if (!at) return fallback;
        at += n + 1;
    }
    if (!strncmp(at, "max", 3)) return UINT64_MAX;
    return *at >= '0' && *at <= '9' ? strtoull(at, NULL, 10) : fallback; /* "-1": no quota in v1 */
}

/* The text of a file of the group, "" if it is missing. */
static void group_text(char *out, size_t size, const fm_cgroup *group, const char *name) {
    char path[FM_CGROUP_PATH + 64];
    snprintf(path, sizeof path, "%s/%s", group->directory, name);
    (void)fm_cgroup_text(out, size, path);
}

static uint64_t group_number(const fm_cgroup *group, const char *name, uint64_t fallback) {
    char text[128];
    group_text(text, sizeof text, group, name);
    return number_in(text, NULL, fallback);
}

/* Whether the comma-separated list has the word. */
static bool has_word(const char *list, const char *word) {
    size_t n = strlen(word);
    for (const char *p = list; p; p = (p = strchr(p, ',')) ? p + 1 : NULL) {
        if (!strncmp(p, word, n) && (p[n] == ',' || p[n] == 0)) return true;
    }
    return false;
}

/* mountinfo writes space, tab, newline and backslash as \ooo. */
static void unescape(char *s) {
    char *to = s;
    for (; *s; s++) {
        if (s[0] == '\\' && strspn(s + 1, "01234567") >= 3) {
            *to++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *to++ = *s;
        }
    }
    *to = 0;
}

static FILE *open_proc(const char *root, const char *name) {
    char path[FM_CGROUP_PATH];
    return snprintf(path, sizeof path, "%s/proc/self/%s", root, name) < (int)sizeof path ? fopen(path, "re") : NULL;
}

/* The group's path in its hierarchy and which kind that is, from lines "id:controllers:path"; v2 has no controllers there. */
static bool find_path(fm_cgroup *group, const char *root, const char *controller, char *path) {
    char *line = NULL;
    size_t size = 0;
    bool found = false;
    FILE *f = open_proc(root, "cgroup");
    while (f && !(found && !group->v2) && getline(&line, &size, f) > 0) {
        char *names = strchr(line, ':'), *at = names ? strchr(names + 1, ':') : NULL;
        if (!at) continue;
        *at++ = 0;
        at[strcspn(at, "\n")] = 0;
        bool v1 = has_word(names + 1, controller);
        if (!v1 && names[1]) continue;
        found = snprintf(path, FM_CGROUP_PATH, "%s", at) < FM_CGROUP_PATH;
        group->v2 = !v1;
    }
    free(line);
    if (f) fclose(f);
    return found;
}

/* Root and mount point of a line of mountinfo if it mounts the hierarchy. The line is taken apart. */
static bool parse_mount(char *line, bool v2, const char *controller, char **mount_root, char **point) {
    char *save = NULL, *rest = strstr(line, " - ");
    if (!rest) return false;
    *rest = 0;
    line[strcspn(line, "\n")] = 0;
    char *field = strtok_r(line, " ", &save);
    for (int i = 0; i < 3 && field; i++) field = strtok_r(NULL, " ", &save);
    *mount_root = field;
    *point = field ? strtok_r(NULL, " ", &save) : NULL;
    char *type = strtok_r(rest + 3, " \n", &save);
    (void)strtok_r(NULL, " \n", &save); /* the source, a name of no meaning */
    char *options = strtok_r(NULL, " \n", &save);
    if (!*point || !type || strcmp(type, v2 ? "cgroup2" : "cgroup") || (!v2 && !(options && has_word(options, controller)))) return false;
    unescape(*mount_root);
    unescape(*point);
    return true;
}

/* What is left of path below a mount whose root is mount_root; NULL if it does not lie there. */
static const char *below_mount(const char *path, const char *mount_root) {
    size_t n = strcmp(mount_root, "/") ? strlen(mount_root) : 0;
    if (strncmp(path, mount_root, n) || (path[n] && path[n] != '/')) return NULL;
    if (!strncmp(path, "/..", 3)) return NULL; /* outside this process's cgroup namespace */
    return strcmp(path + n, "/") ? path + n : "";
}

bool fm_cgroup_find(fm_cgroup *group, const char *root, const char *controller) {
    char path[FM_CGROUP_PATH], *line = NULL, *mount_root, *point;
    size_t size = 0;
    bool found = false, inside = false;
    *group = (fm_cgroup){0};
    if (!find_path(group, root, controller, path)) return false;
    FILE *f = open_proc(root, "mountinfo");
    while (f && !inside && getline(&line, &size, f) > 0) {
        if (!parse_mount(line, group->v2, controller, &mount_root, &point)) continue;
        const char *below = below_mount(path, mount_root);
        inside = below != NULL;
        int n = snprintf(group->directory, sizeof group->directory, "%s%s%s", root, point, inside ? below : "");
        found = n < (int)sizeof group->directory;
        group->n_top = strlen(root) + strlen(point);
    }
    free(line);
    if (f) fclose(f);
    return found;
}

/* Makes it its parent; false at the mount point. */
static bool to_parent(fm_cgroup *group) {
    size_t n = strlen(group->directory);
    while (n > group->n_top && group->directory[n - 1] != '/') n--;
    if (n <= group->n_top) return false;
    group->directory[n - 1] = 0;
    return true;
}

/* One group's share in the sums. */
static void add_group(const fm_cgroup *group, fm_cgroup_memory *out) {
    char text[TEXT_BYTES];
    uint64_t limit = group_number(group, group->v2 ? "memory.max" : "memory.limit_in_bytes", UINT64_MAX);
    if (group->v2) {
        uint64_t high = group_number(group, "memory.high", UINT64_MAX);
        if (high < limit) limit = high;
        group_text(text, sizeof text, group, "memory.events");
        out->n_high += number_in(text, "high", 0);
    }
    if (limit >= NO_LIMIT) return;
    uint64_t usage = group_number(group, group->v2 ? "memory.current" : "memory.usage_in_bytes", 0);
    group_text(text, sizeof text, group, "memory.stat");
    uint64_t cache =
        number_in(text, group->v2 ? "inactive_file" : "total_inactive_file", 0) + number_in(text, group->v2 ? "active_file" : "total_active_file", 0);
    uint64_t kept = usage > cache ? usage - cache : 0, left = limit > kept ? limit - kept : 0;
    if (limit < out->limit) out->limit = limit;
    if (left < out->available) out->available = left;
    out->tight |= left < (limit / 1024 > LEAST_LEFT ? limit / 1024 : LEAST_LEFT);
}

fm_cgroup_memory fm_cgroup_memory_read(const fm_cgroup *group) {
    fm_cgroup_memory out = {.limit = UINT64_MAX, .available = UINT64_MAX};
    fm_cgroup at = *group;
    do add_group(&at, &out);
    while (to_parent(&at));
    return out;
}

int fm_cgroup_cpus(const fm_cgroup *group) {
    fm_cgroup at = *group;
    uint64_t least = 0;
    do {
        char text[128];
        group_text(text, sizeof text, &at, at.v2 ? "cpu.max" : "cpu.cfs_quota_us");
        const char *space = strchr(text, ' '); /* v2: "quota period" */
        uint64_t quota = number_in(text, NULL, UINT64_MAX);
        uint64_t period = at.v2 ? number_in(space ? space + 1 : "", NULL, 100000) : group_number(&at, "cpu.cfs_period_us", 100000);
        if (quota >= NO_LIMIT || period == 0) continue;
        uint64_t cpus = quota ? (quota + period - 1) / period : 1;
        if (!least || cpus < least) least = cpus;
    } while (to_parent(&at));
    return least < 1 << 20 ? (int)least : 1 << 20;
}
