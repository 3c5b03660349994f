/* prepare/pack/rules.c: the file of rules: which matrices become something else than the rest. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "formats/json.h"
#include "prepare/pack/pack.h"

#define RULES_LIMIT ((size_t)1 << 20)

static int bad(const fm_rules *r, size_t i, const char *what, fm_error *err) { return fm_fail(err, FM_EFORMAT, "%s: rule %zu: %s", r->path, i + 1, what); }

static bool read_layer(const char *text, char **end, int *layer) {
    long n = text[0] >= '0' && text[0] <= '9' ? strtol(text, end, 10) : -1;
    *layer = (int)n;
    return n >= 0 && n < FM_MAX_LAYERS;
}

/* "3", "0-7". */
static bool read_layers(fm_rule *rule, const char *text) {
    char *end;
    if (!read_layer(text, &end, &rule->first)) return false;
    rule->last = rule->first;
    if (*end == '-' && !read_layer(end + 1, &end, &rule->last)) return false;
    return !*end && rule->first <= rule->last;
}

static bool read_bits(fm_rule *rule, const json_t *bits) {
    uint64_t n;
    const char *word = json_string_value(bits);
    if (word) rule->bits = !strcmp(word, "keep") ? FM_BITS_KEEP : !strcmp(word, "bf16") ? FM_BITS_BF16 : -1;
    if (!word) rule->bits = fm_json_whole(bits, 8, &n) && n >= 2 && n != 7 ? (int)n : -1;
    return rule->bits >= 0;
}

static int read_rule(fm_rules *r, size_t i, const json_t *json, fm_error *err) {
    fm_rule *rule = &r->rules[i];
    const char *key, *text = json_string_value(json_object_get(json, "tensors"));
    json_t *value;
    uint64_t n;
    *rule = (fm_rule){.last = INT_MAX, .bits = -1, .group = -1, .search = -1};
    r->n = (int)i + 1;
    if (!text) return bad(r, i, "it has no \"tensors\", a pattern such as \"*.down_proj\"", err);
    if (!(rule->tensors = strdup(text))) return fm_fail(err, FM_ENOMEM, "%s: no memory for it", r->path);
    json_object_foreach((json_t *)(uintptr_t)json, key, value) {
        if (!strcmp(key, "tensors")) continue;
        if (!strcmp(key, "layers")) {
            if (!json_is_string(value) || !read_layers(rule, json_string_value(value))) return bad(r, i, "layers is neither \"3\" nor \"0-7\"", err);
        } else if (!strcmp(key, "bits")) {
            if (!read_bits(rule, value)) return bad(r, i, "bits is none of 2, 3, 4, 5, 6, 8, \"bf16\" and \"keep\"", err);
        } else if (!strcmp(key, "group")) {
            if (!fm_json_whole(value, 128, &n) || (n != 32 && n != 64 && n != 128)) return bad(r, i, "group is none of 32, 64 and 128", err);
            rule->group = (int)n;
        } else if (!strcmp(key, "search")) {
            if (!json_is_boolean(value)) return bad(r, i, "search is neither true nor false", err);
            rule->search = json_is_true(value);
        } else {
            char what[120];
            snprintf(what, sizeof what, "it has %.40s, which is none of tensors, layers, bits, group and search", key);
            return bad(r, i, what, err);
        }
    }
    return 0;
}

int fm_rules_parse(fm_rules *r, const char *path, const char *text, size_t bytes, fm_error *err) {
    json_error_t at;
    *r = (fm_rules){0};
    snprintf(r->path, sizeof r->path, "%s", path);
    json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &at);
    if (!root) return fm_fail(err, FM_EFORMAT, "%s: line %d: %s", path, at.line, at.text);
    size_t n = json_array_size(root);
    int rc = json_is_array(root) ? 0 : fm_fail(err, FM_EFORMAT, "%s: it is no list of rules", path);
    if (rc == 0 && !(r->rules = calloc(n + 1, sizeof *r->rules))) rc = fm_fail(err, FM_ENOMEM, "%s: no memory for %zu rules", path, n);
    for (size_t i = 0; i < n && rc == 0; i++) rc = read_rule(r, i, json_array_get(root, i), err);
    json_decref(root);
    if (rc < 0) fm_rules_close(r);
    return rc;
}

int fm_rules_open(fm_rules *r, const char *path, fm_error *err) {
    char *text;
    size_t bytes;
    *r = (fm_rules){0};
    if (!path) return 0;
    int rc = fm_file_read_text(&text, &bytes, path, RULES_LIMIT, err);
    if (rc < 0) return rc;
    rc = fm_rules_parse(r, path, text, bytes, err);
    free(text);
    return rc;
}

void fm_rules_close(fm_rules *r) {
    for (int i = 0; i < r->n; i++) free(r->rules[i].tensors);
    free(r->rules);
    *r = (fm_rules){0};
}
