/* tests/kernels/bench.h: see bench.c. */
#ifndef KERNELS_BENCH_H
#define KERNELS_BENCH_H

/* Times the table of this name, or the best one for NULL. Returns main's status. */
int bench(const char *name);

#endif
