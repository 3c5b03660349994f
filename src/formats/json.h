/* formats/json.h: the JSON of model files, read strictly: duplicate keys, text after the end, NUL in strings and numbers too large for 64 bits are errors. */
#ifndef FM_FORMATS_JSON_H
#define FM_FORMATS_JSON_H

#include <jansson.h>

#include "formats/tensors.h"

/* Parses bytes of path, "its header" or the like being what they are (NULL: the whole file). FM_EFORMAT with the place, or when it is no object. */
int fm_json_parse(json_t **root, const char *path, const char *what, const char *text, size_t bytes, fm_error *err);
/* The same of a file, of at most 64 MiB. */
int fm_json_open(json_t **root, const char *path, fm_error *err);

/* value as a whole number from 0 to most; false if it is anything else, NULL too. */
bool fm_json_whole(const json_t *value, uint64_t most, uint64_t *out);
/* value as a shape: up to FM_MAX_DIMS whole numbers into tensor's n_dims and shape. */
bool fm_json_shape(const json_t *value, fm_tensor *tensor);

#endif
