/* model/config.h: reading config.json: values by key, with the text model's keys in `text_config` first; what is wrong is named by its key. */
#ifndef FM_MODEL_CONFIG_H
#define FM_MODEL_CONFIG_H

#include <jansson.h>

#include "base/error.h"

typedef struct fm_config {
    json_t *root, *text; /* text: root's text_config, else root */
    char path[1024];
} fm_config;

/* Reads path (at most 4 MB). FM_EFORMAT with the place of a syntax error. */
int fm_config_open(fm_config *config, const char *path, fm_error *err);
/* The same from memory; path is for messages. */
int fm_config_parse(fm_config *config, const char *json, size_t bytes, const char *path, fm_error *err);
void fm_config_close(fm_config *config);

/* The value of key, from text_config or the top; NULL when absent or null. */
const json_t *fm_config_get(const fm_config *config, const char *key);

/* A whole number within [low, high]; absent: fallback, or FM_EFORMAT when fallback is FM_REQUIRED. */
#define FM_REQUIRED INT32_MIN
int fm_config_int(const fm_config *config, const char *key, int fallback, int low, int high, int *out, fm_error *err);
int fm_config_double(const fm_config *config, const char *key, double fallback, double *out, fm_error *err);
int fm_config_bool(const fm_config *config, const char *key, bool fallback, bool *out, fm_error *err);
/* FM_EUNSUPPORTED naming key and value unless key is absent or has the wanted value. */
int fm_config_expect_bool(const fm_config *config, const char *key, bool wanted, fm_error *err);
int fm_config_expect_absent(const fm_config *config, const char *key, fm_error *err); /* or null */
/* wanted: all its values, NULL-terminated. */
int fm_config_expect_one_of(const fm_config *config, const char *key, const char *const *wanted, fm_error *err);
int fm_config_expect_string(const fm_config *config, const char *key, const char *wanted, fm_error *err);

#endif
