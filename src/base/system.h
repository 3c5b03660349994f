/* base/system.h: what this machine has: memory that may be used, memory pressure, CPU features, time. */
#ifndef FM_BASE_SYSTEM_H
#define FM_BASE_SYSTEM_H

#include "base/error.h"

/* Bytes this process may still take without swapping: the least of MemAvailable and of what each memory cgroup above it
 * has left (limit - usage + reclaimable page cache), cgroup v1 and v2, parents included; v2's memory.high counts too. */
uint64_t fm_memory_available(void);

/* The least limit of the memory cgroups above this process; UINT64_MAX when there is none. */
uint64_t fm_memory_limit(void);

/* Peak resident memory of this process (VmHWM), and the present one, in bytes; 0 where unknown. */
uint64_t fm_memory_peak(void);
uint64_t fm_memory_resident(void);

/* Watches for memory pressure: PSI of the cgroup (else of the machine), memory.high events of v2, usage close to the limit
 * in v1. Opened once; poll is cheap enough for once a token. */
typedef struct fm_pressure fm_pressure;
int fm_pressure_open(fm_pressure **pressure, fm_error *err);
void fm_pressure_close(fm_pressure **pressure);
/* Bytes that should be given back now, 0: none. Looks at most every 0.5 s. Allocates nothing. */
uint64_t fm_pressure_poll(fm_pressure *pressure);
/* For tests: the same with root before every path (base/cgroup.h), and one look without the wait, seconds after the one before. */
int fm_pressure_open_at(fm_pressure **pressure, const char *root, fm_error *err);
uint64_t fm_pressure_look(fm_pressure *pressure, double seconds);

/* Bytes of the largest cache that the first CPU reaches; 0 where unknown. */
uint64_t fm_cache_bytes(void);

#if defined(__linux__)
#include <sched.h>
/* How many CPUs of a list as /sys has it ("0-7,16") are in a set; 0 for what is no list. */
int fm_cpu_list_count(const char *list, const cpu_set_t *among);
#endif

/* Seconds of a monotonic clock. */
double fm_now(void);

/* Instruction sets of this CPU that the operating system has enabled. */
typedef struct fm_cpu_features {
    bool avx2, fma, f16c, avx_vnni, avx512 /* F, BW, VL, DQ */, avx512_vnni, amx_int8; /* amx: Linux gave this process the permission */
    bool neon, dotprod, i8mm;
} fm_cpu_features;
fm_cpu_features fm_cpu_features_read(void);

#endif
