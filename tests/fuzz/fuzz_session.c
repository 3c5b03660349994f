/* tests/fuzz/fuzz_session.c: any bytes as a file of a session's state, as they are and with the sizes and hashes of their header made right: what is accepted is as state_file.h
 * says, and its units are read into their places and nowhere else. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "snapshots/state_file.h"

#define CONTEXT 1024
#define FIXED 100
#define PARTS 2

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- a device whose positions have 8 and 4 bytes ---- */

static uint8_t *memory[PARTS], *fixed;
static const size_t position_bytes[PARTS] = {8, 4};

static uint64_t fixed_bytes(const fm_device_config *config) {
    (void)config;
    return FIXED;
}

static int n_row_parts(const fm_device_config *config) {
    (void)config;
    return PARTS;
}

static uint64_t row_sizes(const fm_device_config *config, int n, fm_bytes *parts) {
    uint64_t sum = 0;
    (void)config;
    for (int i = 0; i < PARTS; i++) {
        size_t bytes = ((size_t)n + FM_STATE_TILE - 1) / FM_STATE_TILE * FM_STATE_TILE * position_bytes[i];
        if (parts) parts[i].bytes = bytes;
        sum += bytes;
    }
    return sum;
}

static void rows(fm_state *state, int from, int to, fm_bytes *parts) {
    (void)state;
    assert(from >= 0 && from <= to && to <= CONTEXT);
    row_sizes(NULL, to - from, parts);
    for (int i = 0; i < PARTS; i++) parts[i].data = memory[i] + (size_t)from * position_bytes[i];
}

static const fm_device_ops ops = {.fixed_bytes = fixed_bytes, .n_row_parts = n_row_parts, .row_sizes = row_sizes, .rows = rows};

/* ---- one file ---- */

static fm_snapshots *snapshots;
static fm_file file;
static size_t file_size;

static void prepare(void) {
    char path[] = "/tmp/fuzz-session-XXXXXX";
    fm_snapshots_config config = {.ops = &ops, .limit_bytes = 1 << 20};
    if (fm_snapshots_open(&snapshots, &config, NULL) < 0) abort();
    for (int i = 0; i < PARTS; i++) memory[i] = malloc(CONTEXT * position_bytes[i]);
    fixed = malloc(FIXED);
    file = (fm_file){.path = (char *)(uintptr_t) "x.session", .fd = mkstemp(path), .direct_fd = -1, .alignment = 1};
    if (file.fd < 0 || unlink(path)) abort();
}

static void load(const fm_state_meta *meta, fm_window *window) {
    fm_timeline timeline = {0};
    fm_state_view view = {
        .snapshots = snapshots, .timeline = &timeline, .fixed = meta->h.fixed_bytes ? fixed : NULL, .first_row = (int)meta->h.first_row, .n = (int)meta->h.n};
    fm_error err = {0};
    if (meta->h.n > CONTEXT) return;
    if (fm_state_check(meta, &view, file.path, &err) < 0) {
        assert(err.code == FM_EFORMAT && err.message[0]);
        return;
    }
    for (int i = 0; i < fm_state_n_units(&view); i++) {
        fm_window_begin(window, &file);
        int checked = fm_state_read_unit(window, meta, &view, i, true, &err), read = fm_state_read_unit(window, meta, &view, i, false, &err);
        assert(checked == read && (read == 0 || (read == FM_EFORMAT && err.message[0])));
    }
}

static void read_file(const uint8_t *data, size_t size) {
    static uint8_t room[(64 << 10) + 2 * FM_WINDOW_ALIGNMENT];
    fm_window window = {.data = room, .bytes = sizeof room};
    fm_state_meta meta, same;
    fm_error err = {0};
    if ((file_size > size && ftruncate(file.fd, 0)) || pwrite(file.fd, data, size, 0) != (ssize_t)size) abort();
    file.size = file_size = size;
    fm_window_begin(&window, &file);
    int rc = fm_state_read_meta(&meta, &window, &err);
    assert(fm_state_decode(&same, file.path, data, size, size, NULL) == rc);
    if (rc < 0) {
        assert(err.code == rc && (rc == FM_EFORMAT || rc == FM_EUNSUPPORTED) && err.message[0] && !meta.memory && !same.memory);
        return;
    }
    assert(meta.h.version == FM_STATE_VERSION && meta.h.first_token <= meta.h.n && meta.h.first_row <= meta.h.n && meta.h.file_bytes == size);
    assert(meta.h.meta_bytes <= size && memcmp(meta.memory, data, (size_t)meta.h.meta_bytes) == 0);
    load(&meta, &window);
    fm_state_meta_close(&meta);
    fm_state_meta_close(&same);
}

/* Sizes and the header's hash as they would have to be. */
static void seal(uint8_t *data, size_t size) {
    fm_state_header h;
    if (size < sizeof h) return;
    memcpy(&h, data, sizeof h);
    uint64_t tokens = (uint64_t)h.n - h.first_token, bytes = (sizeof h + (tokens * 4 + 7) / 8 * 8 + h.n_units * sizeof(fm_state_unit) + 4095) / 4096 * 4096;
    h.file_bytes = size;
    h.meta_hash = 0;
    if (h.n < h.first_token || bytes > size) return;
    h.meta_bytes = bytes;
    memcpy(data, &h, sizeof h);
    h.meta_hash = XXH3_64bits(data, (size_t)bytes);
    memcpy(data, &h, sizeof h);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!snapshots) prepare();
    uint8_t *copy = malloc(size + 1);
    if (!copy) abort();
    if (size) memcpy(copy, data, size);
    read_file(copy, size);
    seal(copy, size);
    read_file(copy, size);
    free(copy);
    return 0;
}
