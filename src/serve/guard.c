/* serve/guard.c: who may ask: the key, and pages in somebody's browser, which may reach a server on the loopback that is not theirs. Pure functions. */
#include <arpa/inet.h>
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "serve/server.h"

/* As many comparisons whatever the texts are, but for their length. */
static bool same_key(const char *key, const char *given, size_t n_given) {
    size_t n = strlen(key);
    unsigned differs = n != n_given;
    for (size_t i = 0; i < n_given; i++) differs |= (unsigned)((unsigned char)given[i] ^ (unsigned char)key[n ? i % n : 0]);
    return n && differs == 0;
}

static bool has_key(const char *key, const fm_asked *a) {
    bool same = false;
    if (a->authorization && strncasecmp(a->authorization, "Bearer ", 7) == 0) {
        const char *given = a->authorization + 7;
        while (*given == ' ') given++;
        same |= same_key(key, given, strlen(given));
    }
    if (a->x_api_key) same |= same_key(key, a->x_api_key, strlen(a->x_api_key));
    return same;
}

/* The name of "name", "name:80", "[::1]:80" without brackets and port. false: it is none. */
static bool host_name(char name[256], const char *host) {
    const char *end;
    if (*host == '[') {
        if (!(end = strchr(++host, ']')) || (end[1] && end[1] != ':')) return false;
    } else {
        end = host + strcspn(host, ":");
        if (*end && strchr(end + 1, ':')) return false;
    }
    size_t n = (size_t)(end - host);
    if (n == 0 || n > 255) return false;
    for (const char *p = end + (*end == ']'); *p; p++)
        if (p[0] != ':' && !isdigit((unsigned char)p[0])) return false;
    memcpy(name, host, n);
    name[n] = '\0';
    if (name[n - 1] == '.') name[n - 1] = '\0';
    return *name != '\0';
}

static bool is_address(const char *name) {
    unsigned char bytes[16];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* A page whose name was pointed at this server shows its own name in Host: an address, or a name that is ours, is none of those. */
static bool own_host(const fm_server_options *o, const char *host) {
    char name[256];
    if (!host_name(name, host)) return false;
    if (is_address(name) || strcasecmp(name, "localhost") == 0 || strcasecmp(name, o->host) == 0) return true;
    for (int i = 0; i < o->n_hosts; i++)
        if (strcasecmp(name, o->hosts[i]) == 0) return true;
    return false;
}

static bool same_origin(const char *origin, const char *host) {
    const char *rest = strncmp(origin, "http://", 7) == 0 ? origin + 7 : strncmp(origin, "https://", 8) == 0 ? origin + 8 : NULL;
    return rest && host && strcasecmp(rest, host) == 0;
}

int fm_guard_check(const fm_server_options *o, const fm_asked *a, bool open, const char **origin, fm_refusal *why) {
    *origin = NULL;
    if (a->host && !own_host(o, a->host)) { return fm_deny(why, 403, NULL, "the server is not called '%.200s'; --allow-host lets it be", a->host); }
    if (a->origin && !same_origin(a->origin, a->host)) {
        for (int i = 0; i < o->n_origins && !*origin; i++)
            if (strcmp(o->origins[i], "*") == 0 || strcmp(o->origins[i], a->origin) == 0) *origin = o->origins[i];
        if (!*origin) return fm_deny(why, 403, NULL, "pages of '%.200s' may not ask; --cors lets them", a->origin);
    }
    if (o->key && !open && !has_key(o->key, a)) {
        bool any = a->authorization || a->x_api_key;
        return fm_deny(why, 401, NULL, "%s", any ? "the API key is not the server's" : "an API key is needed: Authorization: Bearer KEY");
    }
    return 0;
}

bool fm_guard_loopback(const char *host) { return strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0 || strcmp(host, "localhost") == 0; }

int fm_guard_depth(const char *json, size_t n, fm_refusal *why) {
    int depth = 0;
    bool text = false;
    for (size_t i = 0; i < n; i++) {
        char c = json[i];
        if (text) {
            if (c == '\\')
                i++;
            else if (c == '"')
                text = false;
        } else if (c == '"') {
            text = true;
        } else if (c == '{' || c == '[') {
            if (++depth > FM_MOST_DEPTH) return fm_deny(why, 400, NULL, "the JSON is nested more than %d deep at byte %zu", FM_MOST_DEPTH, i);
        } else if (c == '}' || c == ']') {
            depth--;
        }
    }
    return 0;
}
