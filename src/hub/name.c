/* hub/name.c: see name.h. */
#include "hub/name.h"

#include <stdio.h>
#include <string.h>

static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/* One half of ORG/NAME, by the hub's rule: letters, digits, -, _ and ., which are not at an end, and neither -- nor .. */
static bool is_half(const char *text, size_t n) {
    if (n == 0 || n > 96 || strchr("-.", text[0]) || strchr("-.", text[n - 1])) return false;
    for (size_t i = 0; i < n; i++) {
        if (!strchr(letters, text[i]) && !strchr("-_.", text[i])) return false;
        if (i && strchr("-.", text[i]) && text[i] == text[i - 1]) return false;
    }
    return true;
}

/* A branch, a tag or a commit: it becomes a file below refs/. */
static bool is_revision(const char *text) {
    size_t n = strlen(text);
    if (n >= sizeof((fm_hub_name *)0)->revision || !fm_hub_is_file(text)) return false;
    for (size_t i = 0; i < n; i++) {
        if (!strchr(letters, text[i]) && !strchr("-_./+", text[i])) return false;
    }
    return text[0] != '-';
}

int fm_hub_name_read(fm_hub_name *out, const char *text, fm_error *err) {
    const char *slash = strchr(text, '/'), *at = strchr(text, '@');
    size_t n = at ? (size_t)(at - text) : strlen(text);
    *out = (fm_hub_name){.revision = "main"};
    if (!slash || slash >= text + n || !is_half(text, (size_t)(slash - text)) || !is_half(slash + 1, n - (size_t)(slash - text) - 1))
        return fm_fail(err, FM_EINVAL, "'%.200s' is no name of a model on the hub, which is ORG/NAME or ORG/NAME@REVISION", text);
    if (at && !is_revision(at + 1)) return fm_fail(err, FM_EINVAL, "'%.200s': what stands behind the @ is no branch, tag or commit", text);
    snprintf(out->repo, sizeof out->repo, "%.*s", (int)n, text);
    if (at) snprintf(out->revision, sizeof out->revision, "%s", at + 1);
    return 0;
}

bool fm_hub_is_hash(const char *text, size_t n) { return strlen(text) == n && strspn(text, "0123456789abcdef") == n; }

bool fm_hub_is_file(const char *name) {
    if (strlen(name) > 900) return false;
    for (const char *part = name;; part++) {
        size_t n = strcspn(part, "/");
        if (n == 0 || n > 255 || (n == 1 && part[0] == '.') || (n == 2 && part[0] == '.' && part[1] == '.')) return false;
        for (size_t i = 0; i < n; i++) {
            if ((unsigned char)part[i] < 32 || part[i] == 127 || part[i] == '\\') return false;
        }
        part += n;
        if (!*part) return true;
    }
}
