/* model/config.c: see config.h. */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/file.h"

#define CONFIG_LIMIT ((size_t)4 << 20)

int fm_config_parse(fm_config *config, const char *json, size_t bytes, const char *path, fm_error *err) {
    memset(config, 0, sizeof *config);
    snprintf(config->path, sizeof config->path, "%s", path);
    json_error_t at;
    config->root = json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &at);
    if (!config->root) return fm_fail(err, FM_EFORMAT, "%s: line %d: %s", path, at.line, at.text);
    if (!json_is_object(config->root)) {
        fm_config_close(config);
        return fm_fail(err, FM_EFORMAT, "%s: it is not a JSON object", path);
    }
    json_t *text = json_object_get(config->root, "text_config");
    config->text = json_is_object(text) ? text : config->root;
    return 0;
}

int fm_config_open(fm_config *config, const char *path, fm_error *err) {
    memset(config, 0, sizeof *config);
    char *text;
    size_t bytes;
    int rc = fm_file_read_text(&text, &bytes, path, CONFIG_LIMIT, err);
    if (rc < 0) return rc;
    rc = fm_config_parse(config, text, bytes, path, err);
    free(text);
    return rc;
}

void fm_config_close(fm_config *config) {
    json_decref(config->root);
    config->root = config->text = NULL;
}

const json_t *fm_config_get(const fm_config *config, const char *key) {
    const json_t *v = json_object_get(config->text, key);
    if (!v || json_is_null(v)) v = json_object_get(config->root, key);
    return json_is_null(v) ? NULL : v;
}

int fm_config_int(const fm_config *config, const char *key, int fallback, int low, int high, int *out, fm_error *err) {
    const json_t *v = fm_config_get(config, key);
    if (!v) {
        *out = fallback;
        return fallback == FM_REQUIRED ? fm_fail(err, FM_EFORMAT, "%s: the key %s is missing", config->path, key) : 0;
    }
    double x = json_number_value(v);
    if (!json_is_number(v)) return fm_fail(err, FM_EFORMAT, "%s: %s is not a number, but a whole one from %d to %d is needed", config->path, key, low, high);
    if (x != floor(x) || x < low || x > high) {
        return fm_fail(err, FM_EFORMAT, "%s: %s is %g, not a whole number from %d to %d", config->path, key, x, low, high);
    }
    *out = (int)x;
    return 0;
}

int fm_config_double(const fm_config *config, const char *key, double fallback, double *out, fm_error *err) {
    const json_t *v = fm_config_get(config, key);
    *out = v ? json_number_value(v) : fallback;
    if (v && !json_is_number(v)) return fm_fail(err, FM_EFORMAT, "%s: %s is not a number", config->path, key);
    if (isnan(*out)) return fm_fail(err, FM_EFORMAT, "%s: the key %s is missing", config->path, key);
    return 0;
}

int fm_config_bool(const fm_config *config, const char *key, bool fallback, bool *out, fm_error *err) {
    const json_t *v = fm_config_get(config, key);
    *out = v ? json_is_true(v) : fallback;
    return v && !json_is_boolean(v) ? fm_fail(err, FM_EFORMAT, "%s: %s is neither true nor false", config->path, key) : 0;
}

int fm_config_expect_bool(const fm_config *config, const char *key, bool wanted, fm_error *err) {
    bool value;
    int rc = fm_config_bool(config, key, wanted, &value, err);
    if (rc < 0 || value == wanted) return rc;
    return fm_fail(err, FM_EUNSUPPORTED, "%s: %s is %s, which is not supported", config->path, key, value ? "true" : "false");
}

int fm_config_expect_absent(const fm_config *config, const char *key, fm_error *err) {
    return fm_config_get(config, key) ? fm_fail(err, FM_EUNSUPPORTED, "%s: %s is set, which is not supported", config->path, key) : 0;
}

int fm_config_expect_one_of(const fm_config *config, const char *key, const char *const *wanted, fm_error *err) {
    const json_t *v = fm_config_get(config, key);
    const char *value = json_is_string(v) ? json_string_value(v) : "no string";
    for (const char *const *w = wanted; v && *w; w++) {
        if (!strcmp(value, *w)) return 0;
    }
    return v ? fm_fail(err, FM_EUNSUPPORTED, "%s: %s is %s, which is not supported (only %s is)", config->path, key, value, wanted[0]) : 0;
}

int fm_config_expect_string(const fm_config *config, const char *key, const char *wanted, fm_error *err) {
    return fm_config_expect_one_of(config, key, (const char *const[]){wanted, NULL}, err);
}
