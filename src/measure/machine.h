/* measure/machine.h: what this machine can do, measured a short burst at a time, so that bursts can lie between runs of a model: plain reads of memory by
 * threads, reads of the disk at a model's expert size by how many are in flight, and integer products by the kernels in use. */
#ifndef FM_MEASURE_MACHINE_H
#define FM_MEASURE_MACHINE_H

#include "cpu/isa/kernels.h"
#include "engine/engine.h"
#include "flash_moe_tools.h"

#define FM_MAX_RATES 12
#define FM_MAX_SAMPLES 512

typedef struct fm_samples {
    int n;
    double values[FM_MAX_SAMPLES];
} fm_samples;

/* What is past FM_MAX_SAMPLES is dropped. */
void fm_samples_add(fm_samples *samples, double value);
/* Of none: all 0. */
fm_spread fm_samples_spread(const fm_samples *samples);

typedef struct fm_machine_rate {
    int level; /* threads, or reads in flight */
    fm_samples per_second;
} fm_machine_rate;

typedef struct fm_machine_config {
    const fm_model *model;
    const char *cpu, *io; /* kernels and back end, NULL: the best */
    int n_threads;
    bool int8;
    const void *memory; /* to be read when memory_bytes are enough to lie outside the caches; else memory of its own is, while the machine is open */
    size_t memory_bytes;
    uint64_t buffer_bytes; /* for disk reads, at most, but for one */
} fm_machine_config;

typedef struct fm_machine fm_machine;

int fm_machine_open(fm_machine **machine, const fm_machine_config *config, fm_error *err);
void fm_machine_close(fm_machine **machine);

/* One burst of `seconds` of everything: memory at each number of threads, the disk at each number in flight, and products. */
int fm_machine_sample(fm_machine *machine, double seconds, fm_error *err);

/* Bytes a second by number of threads, the last one n_threads; by reads in flight, none if the model has no experts. */
int fm_machine_ram(const fm_machine *machine, const fm_machine_rate **rates);
int fm_machine_disk(const fm_machine *machine, const fm_machine_rate **rates);
/* Of them the one with the best median; NULL: none. */
const fm_machine_rate *fm_machine_best_disk(const fm_machine *machine);
/* Operations a second, two for each product, of the kernel that multiplies this model's experts with FM_MACHINE_BATCH tokens, its operands in the caches. */
const fm_samples *fm_machine_operations(const fm_machine *machine);
#define FM_MACHINE_BATCH 32

uint64_t fm_machine_read_bytes(const fm_machine *machine); /* of one disk read */
bool fm_machine_direct(const fm_machine *machine);         /* all of the model's experts are read past the page cache */

/* Drops the model's experts from the page cache as far as they are read through it. Returns the bytes that stayed there all the same; UINT64_MAX: it cannot be
 * known. */
uint64_t fm_machine_drop_cache(const fm_machine *machine);

/* The share of the CPUs' time that nobody uses, looked at for `seconds`; -1: unknown. */
double fm_machine_idle(double seconds);

#endif
