/* fm_writer: whole files from pieces of any alignment, by several threads, with direct I/O and without; fm_disk_free. */
#include "base/write.h"

#include <errno.h>

#include "base/file.h"
#include "base/pool.h"
#include "base/tree.h"

enum { PIECE = 3 << 20, N_PIECES = 5, TAIL = 777, TOTAL = N_PIECES * PIECE + TAIL };

typedef struct job {
    fm_writer *writer;
    uint8_t *data; /* [TOTAL], page-aligned or not */
} job;

static void put_piece(void *arg, int task, int thread) {
    const job *j = arg;
    size_t at = (size_t)task * PIECE;
    (void)thread;
    MUST(fm_writer_put(j->writer, j->data + at, task == N_PIECES ? TAIL : PIECE, at, err));
}

/* skew: bytes that the memory is off the page; refused: the file system takes no direct writes. */
static void check_file(fm_pool *pool, size_t skew, bool refused) {
    char path[100], *back;
    size_t bytes;
    fm_writer w;
    uint8_t *memory = aligned_alloc(4096, (TOTAL + 2 * 4096) / 4096 * 4096);
    job j = {&w, memory + skew};
    for (size_t i = 0; i < TOTAL; i++) j.data[i] = (uint8_t)(i * 2654435761u >> 11);
    snprintf(path, sizeof path, "%s/file-%zu-%d", tree_root, skew, refused);
    MUST(fm_writer_open(&w, path, TOTAL, err));
    if (refused) atomic_store(&w.buffered, true);
    fm_pool_run(pool, N_PIECES + 1, put_piece, &j);
    MUST(fm_writer_finish(&w, err));
    CHECK(w.fd == -1 && w.direct_fd == -1 && !w.path, "it is closed");
    MUST(fm_file_read_text(&back, &bytes, path, TOTAL + 1, err));
    CHECK(bytes == TOTAL && !memcmp(back, j.data, TOTAL), "%s: %zu bytes", path, bytes);
    free(back);
    free(memory);
}

static void test_refused(void) {
    char path[100];
    fm_writer w, other;
    fm_error e = {0};
    snprintf(path, sizeof path, "%s/once", tree_root);
    MUST(fm_writer_open(&w, path, 0, err));
    CHECK(fm_writer_open(&other, path, 0, &e) == FM_EIO && strstr(e.message, "/once: it cannot be made: File exists"), "%s", e.message);
    close(w.fd); /* what a broken disk would give: an error of the call */
    w.fd = -1;
    CHECK(fm_writer_put(&w, "x", 1, 5, &e) == FM_EIO && strstr(e.message, "/once: it cannot be written, 1 bytes at 5: Bad file"), "%s", e.message);
    CHECK(fm_writer_finish(&w, &e) == FM_EIO && strstr(e.message, "/once: it cannot be written: Bad file"), "%s", e.message);
    fm_writer_close(&w);
    w = (fm_writer){0};
    fm_writer_close(&w);
    snprintf(path, sizeof path, "%s/none/file", tree_root);
    CHECK(fm_writer_open(&w, path, 0, &e) == FM_EIO && strstr(e.message, "No such file"), "%s", e.message);
}

static void test_directories(void) {
    uint64_t bytes = 0;
    fm_error e = {0};
    MUST(fm_directory_sync(tree_root, err));
    CHECK(fm_directory_sync("none", &e) == FM_EIO && strstr(e.message, "none: No such file"), "%s", e.message);
    MUST(fm_disk_free(tree_root, &bytes, err));
    CHECK(bytes > 0, "no byte is free");
    CHECK(fm_disk_free("none", &bytes, &e) == FM_EIO && strstr(e.message, "none: No such file"), "%s", e.message);
}

int main(void) {
    fm_pool *pool;
    tree_open();
    MUST(fm_pool_open(&pool, 3, err));
    check_file(pool, 0, false);
    check_file(pool, 0, true);
    check_file(pool, 13, false);
    fm_pool_close(&pool);
    test_refused();
    test_directories();
    return TEST_END();
}
