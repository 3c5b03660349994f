/* measure/limit.h: how fast a model could run on this machine: the bytes that each layer of a token has to move, the operations of a prompt, and from measured
 * rates the least time. Arithmetic only; the measuring is machine.c's. */
#ifndef FM_MEASURE_LIMIT_H
#define FM_MEASURE_LIMIT_H

#include "engine/engine.h"

typedef struct fm_limit_layer {
    double before_bytes;           /* weights that are read before a layer's experts are known: norms, mixer, router */
    double after_bytes;            /* the shared expert, or the dense MLP */
    double position_bytes;         /* of the KV cache, read for each position */
    double state_bytes;            /* recurrent states, read and written: counted twice here */
    double slot_bytes, disk_bytes; /* of one expert, in memory and on disk; 0: a layer without experts */
} fm_limit_layer;

typedef struct fm_limit {
    int n_layers;
    fm_limit_layer *layers;
    double head_bytes;            /* final norm and head */
    double token_macs, head_macs; /* products of weights: of a token's layers, experts included, and of the head */
} fm_limit;

typedef struct fm_limit_rates {
    double ram, disk;  /* bytes a second; disk 0: there is none, and nothing is missed */
    double operations; /* a second, two for each product */
} fm_limit_rates;

/* How many experts of a layer were in memory, and how many were not. */
typedef struct fm_limit_uses {
    uint16_t hits, misses;
} fm_limit_uses;

int fm_limit_open(fm_limit *limit, const fm_engine *engine, fm_error *err);
void fm_limit_close(fm_limit *limit);

/* The floor of one token without prediction (uses [n_layers]), the sum over its layers of
 *     (norms, mixer, router, states) / ram + max((hits + shared) / ram, misses / disk) + (the last miss, if any) / ram
 * and the head. */
double fm_limit_token_seconds(const fm_limit *limit, const fm_limit_rates *rates, int position, const fm_limit_uses *uses);

/* What one token moves: *ram with all its experts read and the missed ones written before, *disk the missed ones. */
void fm_limit_token_bytes(const fm_limit *limit, int position, const fm_limit_uses *uses, double *ram, double *disk);

/* The floor of a prompt of n tokens whose logits are wanted once, each layer's weights and distinct experts (uses) read once:
 * max(misses / disk, 2 products / operations, weights / ram). */
double fm_limit_prompt_seconds(const fm_limit *limit, const fm_limit_rates *rates, int n, const fm_limit_uses *uses);

#endif
