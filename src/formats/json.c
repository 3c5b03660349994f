/* formats/json.c: see json.h. What the values mean is the callers' business. */
#include "formats/json.h"

#include <stdlib.h>

#define FILE_LIMIT ((size_t)64 << 20)

int fm_json_parse(json_t **root, const char *path, const char *what, const char *text, size_t bytes, fm_error *err) {
    json_error_t at;
    *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &at);
    if (json_is_object(*root)) return 0;
    int rc = *root ? fm_fail(err, FM_EFORMAT, "%s: %s is not a JSON object", path, what ? what : "it")
                   : fm_fail(err, FM_EFORMAT, "%s: %s is not JSON: line %d, byte %d: %s", path, what ? what : "it", at.line, at.position, at.text);
    json_decref(*root);
    *root = NULL;
    return rc;
}

int fm_json_open(json_t **root, const char *path, fm_error *err) {
    char *text;
    size_t bytes;
    *root = NULL;
    int rc = fm_file_read_text(&text, &bytes, path, FILE_LIMIT, err);
    if (rc < 0) return rc;
    rc = fm_tensors_check_lfs(path, text, bytes, err);
    if (rc >= 0) rc = fm_json_parse(root, path, NULL, text, bytes, err);
    free(text);
    return rc;
}

bool fm_json_whole(const json_t *value, uint64_t most, uint64_t *out) {
    if (!json_is_integer(value) || json_integer_value(value) < 0 || (uint64_t)json_integer_value(value) > most) return false;
    *out = (uint64_t)json_integer_value(value);
    return true;
}

bool fm_json_shape(const json_t *value, fm_tensor *tensor) {
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n > FM_MAX_DIMS) return false;
    tensor->n_dims = (int)n;
    for (size_t i = 0; i < n; i++) {
        if (!fm_json_whole(json_array_get(value, i), INT64_MAX, &tensor->shape[i])) return false;
    }
    return true;
}
