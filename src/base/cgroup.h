/* base/cgroup.h: limits that Linux control groups put on this process, v1 and v2, parents included. Elsewhere there is no group to be found.
 *
 * A root goes before every path that is read: "" for the machine itself; tests lay out a tree of their own. */
#ifndef FM_BASE_CGROUP_H
#define FM_BASE_CGROUP_H

#include "base/error.h"

#define FM_CGROUP_PATH 2048

typedef struct fm_cgroup {
    char directory[FM_CGROUP_PATH]; /* of the group this process is in, root included */
    size_t n_top;                   /* bytes of it that are the mount point: its parents end there */
    bool v2;
} fm_cgroup;

/* The group in the hierarchy that has the controller ("memory", "cpu"): the v1 hierarchy with it, else v2. False: there is none that can be seen.
 * Where only a part of the path is visible, the nearest visible parent. */
bool fm_cgroup_find(fm_cgroup *group, const char *root, const char *controller);

typedef struct fm_cgroup_memory {
    uint64_t limit;     /* the least of the limits, v2's memory.high counting as one; UINT64_MAX: none */
    uint64_t available; /* the least of (limit - usage + page cache that can be dropped); UINT64_MAX: no limit */
    bool tight;         /* a group has less than 2 MiB, or a thousandth of its limit, available */
    uint64_t n_high;    /* times that memory.high was run into, of all groups together */
} fm_cgroup_memory;

/* Over the group and its parents. Allocates nothing. A file that is missing limits nothing. */
fm_cgroup_memory fm_cgroup_memory_read(const fm_cgroup *group);

/* CPUs that the quotas of the group and its parents allow, rounded up; 0: no quota. */
int fm_cgroup_cpus(const fm_cgroup *group);

/* A small file as a string, cut at size - 1 bytes. False, and an empty string: it cannot be read. Allocates nothing. */
bool fm_cgroup_text(char *out, size_t size, const char *path);

#endif
