/* tests/formats/files.h: safetensors files made from their parts, and errors by what they say. */
#ifndef FM_TESTS_FORMATS_FILES_H
#define FM_TESTS_FORMATS_FILES_H

#include "base/tree.h"

/* root + name as a path; the last four stay valid. */
static inline const char *at(const char *name) {
    static char paths[4][TREE_PATH];
    static int next;
    char *path = paths[next++ % 4];
    snprintf(path, TREE_PATH, "%s%s", tree_root, name);
    return path;
}

/* The file of a header of header_bytes bytes, its length as told and n_data bytes of data, byte i being i % 251. */
static inline void write_parts(const char *name, uint64_t length, const char *header, size_t header_bytes, size_t n_data) {
    uint8_t *file = malloc(8 + header_bytes + n_data);
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)(length >> (8 * i));
    memcpy(file + 8, header, header_bytes);
    for (size_t i = 0; i < n_data; i++) file[8 + header_bytes + i] = (uint8_t)(i % 251);
    tree_write(name, file, 8 + header_bytes + n_data);
    free(file);
}

static inline void write_safetensors(const char *name, const char *header, size_t n_data) { write_parts(name, strlen(header), header, strlen(header), n_data); }

/* The error must have this code and say all of these (NULL: no more). */
static inline void check_error(const char *what, int rc, const fm_error *e, int code, const char *const *says) {
    CHECK(rc == code && e->code == code, "%s: %d, not %d: %s", what, rc, code, e->message);
    CHECK(!strchr(e->message, '\n') && strlen(e->message) > 10 && e->message[strlen(e->message) - 1] != '.', "%s: %s", what, e->message);
    for (; *says; says++) CHECK(strstr(e->message, *says), "%s: '%s' is not in: %s", what, *says, e->message);
}

#endif
