/* tests/test.h: what a test program is made of. Each program is one test of the suite: it prints what failed and returns 1, or 77 when it cannot run
 * here (saying why). */
#ifndef FM_TEST_H
#define FM_TEST_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flash_moe.h"

static int test_failures, test_checks;

/* Under the thread sanitizer, which takes some thirty times as long: long tests do less. */
#if defined(__SANITIZE_THREAD__)
#define TEST_SLOW 1
#elif defined(__has_feature)
#define TEST_SLOW __has_feature(thread_sanitizer)
#else
#define TEST_SLOW 0
#endif

/* CHECK(condition, "format", …): counts, and says where and what when it fails. */
#define CHECK(condition, ...)                                                                                                                                  \
    do {                                                                                                                                                       \
        test_checks++;                                                                                                                                         \
        if (!(condition)) {                                                                                                                                    \
            test_failures++;                                                                                                                                   \
            fprintf(stderr, "%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                                                    \
            fprintf(stderr, __VA_ARGS__);                                                                                                                      \
            fputc('\n', stderr);                                                                                                                               \
        }                                                                                                                                                      \
    } while (0)

/* The call must succeed (>= 0), else the test ends with its message. */
#define MUST(call)                                                                                                                                             \
    do {                                                                                                                                                       \
        fm_error must_error = {0};                                                                                                                             \
        fm_error *err = &must_error;                                                                                                                           \
        if ((call) < 0) {                                                                                                                                      \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, must_error.message);                                                                 \
            exit(1);                                                                                                                                           \
        }                                                                                                                                                      \
    } while (0)

/* The last line of main: return TEST_END(); */
static inline int test_end(const char *file) {
    fprintf(stderr, "%s: %d checks, %d failed\n", file, test_checks, test_failures);
    return test_failures ? 1 : test_checks ? 0 : 1;
}
#define TEST_END() test_end(__FILE__)

#define SKIP(...)                                                                                                                                              \
    do {                                                                                                                                                       \
        fprintf(stderr, "skipped: ");                                                                                                                          \
        fprintf(stderr, __VA_ARGS__);                                                                                                                          \
        fputc('\n', stderr);                                                                                                                                   \
        exit(77);                                                                                                                                              \
    } while (0)

/* A fixed stream of random numbers. */
static inline uint64_t test_random(uint64_t *state) {
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
