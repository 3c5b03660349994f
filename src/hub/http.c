/* hub/http.c: see http.h. */
#include "hub/http.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "base/system.h"
#include "hub/name.h"

#define CONNECT_SECONDS 20L
#define STALL_SECONDS 30L       /* without a byte: the connection is dead */
#define MOST_WAIT_SECONDS 600.0 /* that a server may ask for */
#define MOST_REDIRECTS 8

/* ---- addresses ---- */

int fm_hub_open(fm_hub *hub, const char *endpoint, const char *token, const char *repo, fm_error *err) {
    *hub = (fm_hub){.token = token && *token ? token : NULL};
    if (!endpoint || !*endpoint) endpoint = "https://huggingface.co";
    size_t n = strlen(endpoint);
    while (n > 0 && endpoint[n - 1] == '/') n--;
    bool http = !strncasecmp(endpoint, "https://", 8) || !strncasecmp(endpoint, "http://", 7);
    if (!http || n >= sizeof hub->endpoint) return fm_fail(err, FM_EINVAL, "%.200s is no http or https address of a hub", endpoint);
    if (token && strpbrk(token, "\r\n")) return fm_fail(err, FM_EINVAL, "the token for the hub has more than one line");
    snprintf(hub->endpoint, sizeof hub->endpoint, "%.*s", (int)n, endpoint);
    snprintf(hub->repo, sizeof hub->repo, "%s", repo);
    return fm_curl_open(&hub->curl, err);
}

void fm_hub_close(fm_hub *hub) { fm_curl_close(&hub->curl); }

/* Appends text with everything escaped but letters, digits and a few others; slashes: they stay. */
static size_t escape(char *out, size_t n, const char *text, bool slashes) {
    static const char digits[] = "0123456789ABCDEF", plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~";
    for (; *text && n + 4 < FM_HUB_URL; text++) {
        unsigned char c = (unsigned char)*text;
        if (strchr(plain, c) || (slashes && c == '/')) {
            out[n++] = (char)c;
        } else {
            out[n++] = '%';
            out[n++] = digits[c >> 4];
            out[n++] = digits[c & 15];
        }
    }
    out[n] = '\0';
    return n;
}

void fm_hub_api_url(const fm_hub *hub, const char *revision, char out[FM_HUB_URL]) {
    size_t n = (size_t)snprintf(out, FM_HUB_URL, "%s/api/models/%s/revision/", hub->endpoint, hub->repo);
    n = escape(out, n, revision, false);
    snprintf(out + n, FM_HUB_URL - n, "?blobs=true");
}

void fm_hub_file_url(const fm_hub *hub, const char *commit, const char *file, char out[FM_HUB_URL]) {
    size_t n = (size_t)snprintf(out, FM_HUB_URL, "%s/%s/resolve/%s/", hub->endpoint, hub->repo, commit);
    escape(out, n, file, true);
}

/* "scheme://host:port", with nothing after it. */
static size_t origin(const char *url) {
    const char *host = strstr(url, "://");
    return host ? (size_t)(host - url) + 3 + strcspn(host + 3, "/?#") : strlen(url);
}

static bool is_hubs(const fm_hub *hub, const char *url) {
    size_t n = origin(hub->endpoint);
    return origin(url) == n && !strncasecmp(url, hub->endpoint, n);
}

/* ---- asking ---- */

static void copy(char *out, size_t size, const char *value, size_t n) {
    if (n >= size) n = 0; /* half a value is worth nothing */
    memcpy(out, value, n);
    out[n] = '\0';
}

static void read_header(fm_hub_head *h, const char *name, size_t n_name, const char *value, size_t n) {
    char number[32];
    const struct {
        const char *name;
        char *out;
        size_t size;
    } texts[] = {{"location", h->location, sizeof h->location},
                 {"etag", h->etag, sizeof h->etag},
                 {"x-linked-etag", h->linked_etag, sizeof h->linked_etag},
                 {"x-repo-commit", h->commit, sizeof h->commit},
                 {"x-error-code", h->error_code, sizeof h->error_code},
                 {"x-error-message", h->error, sizeof h->error}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        if (strlen(texts[i].name) == n_name && !strncasecmp(name, texts[i].name, n_name)) copy(texts[i].out, texts[i].size, value, n);
    }
    copy(number, sizeof number, value, n);
    if (n_name == 13 && !strncasecmp(name, "x-linked-size", n_name)) h->linked_bytes = strtoll(number, NULL, 10);
    if (n_name == 14 && !strncasecmp(name, "content-length", n_name)) h->length = strtoll(number, NULL, 10);
    if (n_name == 13 && !strncasecmp(name, "content-range", n_name)) {
        char range[100];
        long long first, last, total;
        copy(range, sizeof range, value, n);
        if (sscanf(range, "bytes %lld-%lld/%lld", &first, &last, &total) == 3) h->first = first, h->total = total;
    }
    if (n_name == 11 && !strncasecmp(name, "retry-after", n_name)) {
        char text[64];
        copy(text, sizeof text, value, n);
        struct tm date = {0};
        time_t when = strptime(text, "%a, %d %b %Y %H:%M:%S", &date) ? timegm(&date) : 0;
        h->retry_after = *text >= '0' && *text <= '9' ? strtod(text, NULL) : when > 0 ? difftime(when, time(NULL)) : -1;
    }
    if (n_name == 9 && !strncasecmp(name, "ratelimit", n_name) && h->retry_after < 0 && h->status == 429) { /* "api";r=0;t=55 */
        char text[100];
        copy(text, sizeof text, value, n);
        const char *seconds = strstr(text, ";t=");
        if (seconds) h->retry_after = strtod(seconds + 3, NULL);
    }
}

void fm_hub_etag(const char *etag, char hash[65]) {
    if (!strncmp(etag, "W/", 2)) etag += 2;
    if (*etag == '"') etag++;
    size_t n = strcspn(etag, "\"");
    copy(hash, 65, etag, n);
}

static size_t on_header(char *line, size_t size, size_t n, void *user) {
    fm_hub_head *h = user;
    const char *colon = memchr(line, ':', size * n);
    if (size * n > 5 && !strncmp(line, "HTTP/", 5)) { /* of several answers the last one counts */
        char status[64];
        *h = (fm_hub_head){.linked_bytes = -1, .length = -1, .first = -1, .total = -1, .retry_after = -1};
        copy(status, sizeof status, line, size * n < sizeof status ? size * n : sizeof status - 1);
        const char *space = strchr(status, ' ');
        h->status = space ? strtol(space, NULL, 10) : 0;
    } else if (colon) {
        const char *value = colon + 1, *end = line + size * n;
        while (value < end && (*value == ' ' || *value == '\t')) value++;
        while (end > value && strchr(" \t\r\n", end[-1])) end--;
        read_header(h, line, (size_t)(colon - line), value, (size_t)(end - value));
    }
    return size * n;
}

bool fm_hub_ask(const fm_hub *hub, CURL *easy, const char *url, fm_hub_head *head, struct curl_slist **headers) {
    const fm_curl *curl = &hub->curl;
    char line[2048];
    struct curl_slist *list = curl->slist_append(NULL, "Accept-Encoding: identity"), *more = list;
    *head = (fm_hub_head){.linked_bytes = -1, .length = -1, .first = -1, .total = -1, .retry_after = -1};
    if (list && hub->token && is_hubs(hub, url)) {
        int n = snprintf(line, sizeof line, "Authorization: Bearer %s", hub->token);
        more = n < (int)sizeof line ? curl->slist_append(list, line) : NULL;
    }
    *headers = list;
    curl->easy_reset(easy);
    curl->easy_setopt(easy, CURLOPT_HTTPHEADER, list);
    curl->easy_setopt(easy, CURLOPT_USERAGENT, "flash-moe/" FM_VERSION);
    curl->easy_setopt(easy, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1); /* a connection for each range, not all over one */
    curl->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl->easy_setopt(easy, CURLOPT_CONNECTTIMEOUT, CONNECT_SECONDS);
    curl->easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, 1L);
    curl->easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, STALL_SECONDS);
    curl->easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    curl->easy_setopt(easy, CURLOPT_HEADERDATA, head);
    return list && more && curl->easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK;
}

/* ---- judging ---- */

/* head->location as a whole address; false: it is none that may be gone to. */
static bool resolve_location(const fm_curl *curl, fm_hub_head *head, const char *url) {
    CURLU *u = curl->url();
    char *whole = NULL;
    bool good = u && head->location[0] && curl->url_set(u, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl->url_set(u, CURLUPART_URL, head->location, 0) == CURLUE_OK && curl->url_get(u, CURLUPART_URL, &whole, 0) == CURLUE_OK &&
                strlen(whole) < sizeof head->location;
    /* From https to https only. */
    good = good && (!strncasecmp(whole, "https://", 8) || (!strncasecmp(whole, "http://", 7) && !strncasecmp(url, "http://", 7)));
    if (good) snprintf(head->location, sizeof head->location, "%s", whole);
    curl->free(whole);
    curl->url_cleanup(u);
    return good;
}

static int refused(const fm_hub *hub, const fm_hub_head *head, const char *name, fm_error *err) {
    if (!strcmp(head->error_code, "GatedRepo"))
        return fm_fail(err, FM_EIO, "%s: its authors give access on request: ask at %s/%s, then give a token as HF_TOKEN%s", name, hub->endpoint, hub->repo,
                       hub->token ? " (the one that is set has no access yet)" : "");
    if (!strcmp(head->error_code, "RevisionNotFound")) return fm_fail(err, FM_EIO, "%s: the hub has no such revision of it", name);
    if (!strcmp(head->error_code, "EntryNotFound")) return fm_fail(err, FM_EIO, "%s: the hub has no such file", name);
    if (head->status == 401 && hub->token)
        return fm_fail(err, FM_EIO, "%s: the hub does not take the token (401): it is wrong or has expired, or there is no such model", name);
    if (head->status == 401) return fm_fail(err, FM_EIO, "%s: the hub has no public model of this name (401); a private one needs a token, as HF_TOKEN", name);
    if (head->status == 403) return fm_fail(err, FM_EIO, "%s: the hub refuses it (403)%s%s", name, head->error[0] ? ": " : "", head->error);
    if (head->status == 404) return fm_fail(err, FM_EIO, "%s: the hub has no such thing (404)", name);
    return fm_fail(err, FM_EIO, "%s: the server answers %ld%s%s", name, head->status, head->error[0] ? ": " : "", head->error);
}

fm_hub_verdict fm_hub_judge(const fm_hub *hub, CURLcode result, fm_hub_head *head, const char *url, const char *what, fm_error *err) {
    const fm_curl *curl = &hub->curl;
    char name[500];
    bool hubs = is_hubs(hub, url);
    snprintf(name, sizeof name, "%s%s%.250s", hub->repo, *what ? "/" : "", what);
    if (result == CURLE_OUT_OF_MEMORY) return fm_fail(err, FM_ENOMEM, "%s: no memory to ask for it", name), FM_HUB_FAILED;
    if (result == CURLE_PEER_FAILED_VERIFICATION || result == CURLE_SSL_CACERT_BADFILE || result == CURLE_URL_MALFORMAT || result == CURLE_UNSUPPORTED_PROTOCOL)
        return fm_fail(err, FM_EIO, "%s: %.*s: %s", name, (int)origin(url), url, curl->easy_strerror(result)), FM_HUB_FAILED;
    if (result != CURLE_OK) return fm_fail(err, FM_EIO, "%s: %.*s: %s", name, (int)origin(url), url, curl->easy_strerror(result)), FM_HUB_AGAIN;
    if (head->status == 200 || head->status == 206) return FM_HUB_GOOD;
    if (head->status == 301 || head->status == 302 || head->status == 303 || head->status == 307 || head->status == 308) {
        if (resolve_location(&hub->curl, head, url)) return FM_HUB_MOVED;
        return fm_fail(err, FM_EIO, "%s: the server sends on to '%.200s', which is no address to go to", name, head->location), FM_HUB_FAILED;
    }
    if (head->status == 429 || head->status == 408 || head->status >= 500) {
        fm_fail(err, FM_EIO, "%s: %.*s answers %ld%s", name, (int)origin(url), url, head->status, head->status == 429 ? ": too many requests" : "");
        if (head->retry_after <= MOST_WAIT_SECONDS) return FM_HUB_AGAIN;
        return fm_fail(err, FM_EIO, "%s: too many requests: the hub says to come again in %.0f s", name, head->retry_after), FM_HUB_FAILED;
    }
    refused(hub, head, name, err);
    return hubs ? FM_HUB_FAILED : FM_HUB_EXPIRED;
}

double fm_hub_delay(const fm_hub_head *head, int failures) {
    double seconds = 0.25;
    for (int i = 1; i < failures && seconds < 30; i++) seconds *= 2;
    return head->retry_after > seconds ? head->retry_after : seconds;
}

int fm_hub_wait(const fm_hub *hub, double seconds, fm_error *err) {
    for (double until = fm_now() + seconds; fm_now() < until;) {
        if (hub->cancelled && hub->cancelled(hub->user)) return fm_fail(err, FM_ECANCELLED, "pulling was cancelled");
        double left = until - fm_now() < 0.1 ? until - fm_now() : 0.1;
        if (left > 0) nanosleep(&(struct timespec){0, (long)(left * 1e9)}, NULL);
    }
    return 0;
}

/* ---- small answers ---- */

typedef struct body {
    const fm_hub *hub;
    char *text;
    size_t n, room, limit;
    bool too_large;
} body;

static size_t on_body(char *data, size_t size, size_t n, void *user) {
    body *b = user;
    n *= size;
    if (n > b->limit - b->n) {
        b->too_large = true;
        return 0;
    }
    if (b->n + n + 1 > b->room) {
        size_t room = 2 * (b->n + n + 1);
        char *text = realloc(b->text, room);
        if (!text) return 0;
        b->text = text;
        b->room = room;
    }
    memcpy(b->text + b->n, data, n);
    b->n += n;
    b->text[b->n] = '\0';
    return n;
}

static int on_progress(void *user, curl_off_t a, curl_off_t b, curl_off_t c, curl_off_t d) {
    const fm_hub *hub = ((body *)user)->hub;
    (void)a, (void)b, (void)c, (void)d;
    return hub->cancelled && hub->cancelled(hub->user);
}

/* One request, without redirects or retries. */
static fm_hub_verdict ask_once(CURL *easy, body *b, const char *url, bool only_head, const char *what, fm_hub_head *head, fm_error *err) {
    const fm_curl *curl = &b->hub->curl;
    struct curl_slist *headers = NULL;
    b->n = 0;
    CURLcode result = CURLE_OUT_OF_MEMORY;
    if (fm_hub_ask(b->hub, easy, url, head, &headers)) {
        curl->easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_body);
        curl->easy_setopt(easy, CURLOPT_WRITEDATA, b);
        curl->easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl->easy_setopt(easy, CURLOPT_XFERINFODATA, b);
        curl->easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
        curl->easy_setopt(easy, CURLOPT_NOBODY, only_head ? 1L : 0L);
        result = curl->easy_perform(easy);
    }
    curl->slist_free_all(headers);
    if (result == CURLE_ABORTED_BY_CALLBACK) return fm_fail(err, FM_ECANCELLED, "pulling was cancelled"), FM_HUB_FAILED;
    if (b->too_large)
        return fm_fail(err, FM_EFORMAT, "%s%s%s: the answer has more than %zu bytes", b->hub->repo, *what ? "/" : "", what, b->limit), FM_HUB_FAILED;
    if (result == CURLE_WRITE_ERROR) result = CURLE_OUT_OF_MEMORY;
    return fm_hub_judge(b->hub, result, head, url, what, err);
}

/* Asks until there is an answer. With only_head a redirect to another host is one. */
static int ask(body *b, const char *url, bool only_head, const char *what, fm_hub_head *head, fm_error *err) {
    const fm_curl *curl = &b->hub->curl;
    char at[FM_HUB_URL];
    int failures = 0, redirects = 0, rc = 0;
    fm_error why = {0};
    CURL *easy = curl->easy_init();
    snprintf(at, sizeof at, "%s", url);
    if (!easy) return fm_fail(err, FM_ENOMEM, "%s: no memory for a request", b->hub->repo);
    for (bool done = false; !done && rc == 0;) {
        fm_hub_verdict verdict = ask_once(easy, b, at, only_head, what, head, &why);
        if (verdict == FM_HUB_EXPIRED) {
            snprintf(at, sizeof at, "%s", url);
            verdict = FM_HUB_AGAIN;
        }
        if (verdict == FM_HUB_MOVED && ++redirects > MOST_REDIRECTS) {
            fm_fail(&why, FM_EIO, "%s/%s: the server sends on more than %d times", b->hub->repo, what, MOST_REDIRECTS);
            verdict = FM_HUB_FAILED;
        }
        if (verdict == FM_HUB_MOVED && only_head && (head->linked_etag[0] || !is_hubs(b->hub, head->location))) verdict = FM_HUB_GOOD;
        if (verdict == FM_HUB_GOOD) done = true;
        if (verdict == FM_HUB_MOVED) snprintf(at, sizeof at, "%s", head->location);
        if (verdict == FM_HUB_FAILED || (verdict == FM_HUB_AGAIN && ++failures > b->hub->n_retries)) {
            if (err) *err = why;
            rc = why.code;
        } else if (verdict == FM_HUB_AGAIN) {
            rc = fm_hub_wait(b->hub, fm_hub_delay(head, failures), err);
        }
    }
    curl->easy_cleanup(easy);
    return rc;
}

int fm_hub_get(const fm_hub *hub, const char *url, const char *what, size_t limit, char **text, size_t *bytes, fm_error *err) {
    fm_hub_head head;
    body b = {.hub = hub, .limit = limit};
    int rc = ask(&b, url, false, what, &head, err);
    if (rc == 0 && !b.text && !(b.text = calloc(1, 1))) rc = fm_fail(err, FM_ENOMEM, "%s: no memory for an answer", hub->repo);
    if (rc < 0) {
        free(b.text);
        b.text = NULL;
    }
    *text = b.text;
    *bytes = b.n;
    return rc;
}

int fm_hub_stat(const fm_hub *hub, const char *commit, const char *file, uint64_t *bytes, char hash[65], fm_error *err) {
    char url[FM_HUB_URL];
    fm_hub_head head;
    body b = {.hub = hub, .limit = 65536};
    fm_hub_file_url(hub, commit, file, url);
    int rc = ask(&b, url, true, file, &head, err);
    free(b.text);
    if (rc < 0) return rc;
    int64_t n = head.linked_bytes >= 0 ? head.linked_bytes : head.length;
    fm_hub_etag(head.linked_etag[0] ? head.linked_etag : head.etag, hash);
    if (n < 0 || !(fm_hub_is_hash(hash, 40) || fm_hub_is_hash(hash, 64)))
        return fm_fail(err, FM_EFORMAT, "%s/%s: the hub does not say its size and hash", hub->repo, file);
    *bytes = (uint64_t)n;
    return 0;
}
