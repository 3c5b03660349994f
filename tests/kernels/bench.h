/* tests/kernels/bench.h: see bench.c. */
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

#include "base/pool.h"

/* Times the table of this name, or the best one for NULL or "": all of it for NULL, or "vectors", "products" or "batches" (of attention there is nothing but all). Returns main's status. */
int bench(const char *name, const char *what);

/* Products of bytes a second that the threads reach with the table's dot instruction and nothing else; 0: not known. */
double dot_peak(fm_pool *pool, const char *table);

#endif
