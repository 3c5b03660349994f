/* formats/safetensors_write.c: writing a safetensors file. It appears under its name when it is whole. */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/safetensors.h"

static uint64_t entry_bytes(const fm_safetensors_entry *e) {
    uint64_t n = fm_dtype_bytes(e->dtype);
    for (int i = 0; i < e->n_dims; i++) n *= e->shape[i];
    return n;
}

/* The tensor's part of the header; NULL without memory. */
static json_t *entry_json(const fm_safetensors_entry *e, uint64_t begin) {
    json_t *shape = json_array();
    for (int i = 0; i < e->n_dims; i++) json_array_append_new(shape, json_integer((json_int_t)e->shape[i]));
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", fm_dtype_name(e->dtype), "shape", shape, "data_offsets", (json_int_t)begin,
                     (json_int_t)(begin + entry_bytes(e)));
}

int fm_safetensors_header(char **header, const char *path, const fm_safetensors_entry *entries, int n, fm_error *err) {
    json_t *root = json_object();
    uint64_t at = 0;
    int rc = 0;
    *header = NULL;
    for (int i = 0; i < n && rc == 0; at += entry_bytes(&entries[i++])) {
        if (json_object_get(root, entries[i].name)) {
            rc = fm_fail(err, FM_EINVAL, "%s: two tensors are called %s", path, entries[i].name);
        } else if (json_object_set_new(root, entries[i].name, entry_json(&entries[i], at))) {
            rc = fm_fail(err, FM_EINVAL, "%s: tensor %d has a name that is not UTF-8, or there is no memory for it", path, i);
        }
    }
    char *text = rc == 0 ? json_dumps(root, JSON_COMPACT) : NULL;
    size_t length = text ? strlen(text) : 0, padded = (length + 7) / 8 * 8;
    json_decref(root);
    if (rc == 0 && !(text && (*header = malloc(padded + 1)))) rc = fm_fail(err, FM_ENOMEM, "%s: no memory for its header", path);
    if (*header) snprintf(*header, padded + 1, "%-*s", (int)padded, text);
    free(text);
    return rc;
}

static bool put(FILE *f, const void *data, uint64_t bytes) { return bytes == 0 || fwrite(data, 1, (size_t)bytes, f) == bytes; }

/* Writes everything; 0, or the errno. */
static int write_all(FILE *f, const char *header, const fm_safetensors_entry *entries, int n) {
    uint64_t length = strlen(header);
    uint8_t prefix[8];
    for (int i = 0; i < 8; i++) prefix[i] = (uint8_t)(length >> (8 * i));
    errno = 0;
    bool good = put(f, prefix, sizeof prefix) && put(f, header, length);
    for (int i = 0; i < n && good; i++) good = put(f, entries[i].data, entry_bytes(&entries[i]));
    if (good && fflush(f) == 0) return 0;
    return errno ? errno : EIO;
}

int fm_safetensors_write(const char *path, const fm_safetensors_entry *entries, int n, fm_error *err) {
    char part[1300], *header;
    struct stat st;
    if (snprintf(part, sizeof part, "%s.part", path) >= (int)sizeof part) return fm_fail(err, FM_EINVAL, "%s: the path is too long", path);
    if (stat(path, &st) == 0 && !S_ISREG(st.st_mode)) return fm_fail(err, FM_EIO, "%s: it is there and is not a file", path); /* a device would be replaced */
    int rc = fm_safetensors_header(&header, path, entries, n, err);
    if (rc < 0) return rc;
    FILE *f = fopen(part, "wb");
    int failed = f ? write_all(f, header, entries, n) : errno;
    free(header);
    if (f && fclose(f) && !failed) failed = errno;
    if (!failed && rename(part, path)) failed = errno;
    if (!failed) return 0;
    if (f) unlink(part);
    return fm_fail_errno(err, FM_EIO, failed, "%s: it cannot be written", path);
}
