/* cli/remote/remote.c: requests by libcurl. */
#include "cli/remote/remote.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/remote/stream.h"
#include "hub/curl.h"

enum { MOST_BODY = 4 << 20, WAIT_MS = 50, CONNECT_SECONDS = 20, MODELS_SECONDS = 60 };

struct remote {
    char *url; /* up to, and without, /v1 */
    char *key_from, *model;
    int context;
    fm_curl lib; /* loaded for this, as it would slow every other command's start */
    CURL *curl;
    CURLM *multi;
    struct curl_slist *headers;
};

/* One request and what comes of it. */
struct request {
    struct remote *remote;
    const struct remote_calls *calls; /* NULL: of no answer */
    struct stream *stream;            /* of an answer with status 200 */
    struct text body;                 /* anything else */
    long status;
    char reason[CURL_ERROR_SIZE];
};

const char *fm_remote_url(const struct remote *r) { return r->url; }
const char *fm_remote_model(const struct remote *r) { return r->model; }
int fm_remote_context(const struct remote *r) { return r->context; }

/* ---- one request ---- */

static size_t take(char *bytes, size_t size, size_t n, void *user) {
    struct request *q = user;

    n *= size;
    q->remote->lib.easy_getinfo(q->remote->curl, CURLINFO_RESPONSE_CODE, &q->status);
    if (q->stream && q->status == 200) return fm_stream_feed(q->stream, bytes, n) ? 0 : n;
    return q->body.n + n <= MOST_BODY && fm_text_add(&q->body, bytes, n) ? n : 0;
}

static bool wants_stop(const struct request *q) { return q->calls && q->calls->stop && q->calls->stop(); }

/* Runs the request that is set up. Returns curl's code; CURLE_ABORTED_BY_CALLBACK: it was to stop. */
static CURLcode run(struct request *q) {
    struct remote *r = q->remote;
    int running = 1, left;
    CURLcode code = CURLE_ABORTED_BY_CALLBACK;
    CURLMsg *message;

    r->lib.easy_setopt(r->curl, CURLOPT_WRITEFUNCTION, take);
    r->lib.easy_setopt(r->curl, CURLOPT_WRITEDATA, q);
    r->lib.easy_setopt(r->curl, CURLOPT_ERRORBUFFER, q->reason);
    if (r->lib.multi_add_handle(r->multi, r->curl) != CURLM_OK) return CURLE_OUT_OF_MEMORY;
    while (running && !wants_stop(q)) {
        if (r->lib.multi_perform(r->multi, &running) != CURLM_OK) break;
        if (running) r->lib.multi_poll(r->multi, NULL, 0, WAIT_MS, NULL);
    }
    while ((message = r->lib.multi_info_read(r->multi, &left)))
        if (message->msg == CURLMSG_DONE) code = message->data.result;
    r->lib.easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &q->status);
    r->lib.multi_remove_handle(r->multi, r->curl);
    r->lib.easy_setopt(r->curl, CURLOPT_ERRORBUFFER, NULL);
    return code;
}

static int fail_connection(const struct request *q, CURLcode code, fm_error *err) {
    const char *why = *q->reason ? q->reason : q->remote->lib.easy_strerror(code);

    if (q->status) return fm_cli_fail(err, FM_EIO, "%s: the connection was cut in the middle of the answer: %s", q->remote->url, why);
    return fm_cli_fail(err, FM_EIO, "%s: the server cannot be reached: %s", q->remote->url, why);
}

/* A status other than 200. */
static int fail_status(const struct request *q, fm_error *err) {
    const struct remote *r = q->remote;
    char message[400];

    if (q->status == 401 && !r->key_from) return fm_cli_fail(err, FM_EIO, "%s: the server wants an API key: --api-key FILE", r->url);
    if (q->status == 401) return fm_cli_fail(err, FM_EIO, "%s: the API key of --api-key %s is not the server's", r->url, r->key_from);
    if (q->body.n && fm_stream_refusal(message, sizeof message, q->body.bytes, q->body.n))
        return fm_cli_fail(err, q->status == 400 ? FM_EINVAL : FM_EIO, "%s: the server answered %ld: %s", r->url, q->status, message);
    return fm_cli_fail(err, FM_EIO, "%s: the server answered %ld", r->url, q->status);
}

static void set_address(struct remote *r, const char *path) {
    char address[2200];

    snprintf(address, sizeof address, "%s%s", r->url, path);
    r->lib.easy_setopt(r->curl, CURLOPT_URL, address);
}

/* ---- opening ---- */

/* url without what stands behind host, port and path. */
static char *base_of(const char *url, fm_error *err) {
    size_t n = strlen(url), scheme = strncmp(url, "http://", 7) == 0 ? 7 : strncmp(url, "https://", 8) == 0 ? 8 : 0;

    while (n > scheme && url[n - 1] == '/') n--;
    if (n > 3 && strncmp(url + n - 3, "/v1", 3) == 0) n -= 3;
    while (n > scheme && url[n - 1] == '/') n--;
    if (!scheme || n == scheme || n > 2000 || strcspn(url, "?# \t\n") < n) {
        fm_cli_fail(err, FM_EINVAL, "--connect takes a server's address such as http://127.0.0.1:8080, not '%.200s'", url);
        return NULL;
    }
    char *base = strndup(url, n);
    if (!base) fm_cli_fail(err, FM_ENOMEM, "no memory for an address");
    return base;
}

static int read_key(char key[4096], const char *from, fm_error *err) {
    const char *value = strcmp(from, "env") == 0 ? getenv("FLASH_MOE_API_KEY") : NULL;
    FILE *file = NULL;
    size_t n = 0;

    if (strcmp(from, "env") == 0) {
        if (!value) return fm_cli_fail(err, FM_EINVAL, "--api-key env needs the variable FLASH_MOE_API_KEY");
        n = (size_t)snprintf(key, 4096, "%s", value);
    } else {
        if (!(file = fopen(from, "r"))) return fm_cli_fail(err, FM_EINVAL, "%s, the file of --api-key, cannot be opened: %s", from, strerror(errno));
        n = fread(key, 1, 4095, file);
        fclose(file);
    }
    while (n > 0 && n < 4096 && strchr(" \t\r\n", key[n - 1])) n--;
    if (n < 4096) key[n] = '\0';
    for (size_t i = 0; i < n; i++)
        if (key[i] <= ' ' || key[i] > '~') n = 0;
    return n > 0 && n < 4095 ? 0 : fm_cli_fail(err, FM_EINVAL, "%s has to hold one API key", value ? "FLASH_MOE_API_KEY" : from);
}

static int add_header(struct remote *r, const char *line, fm_error *err) {
    struct curl_slist *list = r->lib.slist_append(r->headers, line);

    if (!list) return fm_cli_fail(err, FM_ENOMEM, "no memory for a request");
    r->headers = list;
    return 0;
}

static int set_headers(struct remote *r, const char *key_from, fm_error *err) {
    char key[4096], line[4200];
    int rc = add_header(r, "Content-Type: application/json", err);

    if (rc >= 0) rc = add_header(r, "Expect:", err);
    if (rc < 0 || !key_from) return rc;
    if (!(r->key_from = strdup(key_from))) return fm_cli_fail(err, FM_ENOMEM, "no memory for a file's name");
    if ((rc = read_key(key, key_from, err)) < 0) return rc;
    snprintf(line, sizeof line, "Authorization: Bearer %s", key);
    return add_header(r, line, err);
}

static int find_model(struct remote *r, fm_error *err) {
    struct request q = {.remote = r};
    CURLcode code;
    int rc = 0;

    set_address(r, "/v1/models");
    r->lib.easy_setopt(r->curl, CURLOPT_TIMEOUT, (long)MODELS_SECONDS);
    code = run(&q);
    r->lib.easy_setopt(r->curl, CURLOPT_TIMEOUT, 0L);
    json_t *list = q.body.n ? json_loadb(q.body.bytes, q.body.n, 0, NULL) : NULL, *first = json_array_get(json_object_get(list, "data"), 0);
    const char *id = json_string_value(json_object_get(first, "id"));
    if (code != CURLE_OK)
        rc = fail_connection(&q, code, err);
    else if (q.status != 200)
        rc = fail_status(&q, err);
    else if (!id)
        rc = fm_cli_fail(err, FM_EFORMAT, "%s: this server has no list of models at /v1/models", r->url);
    else if (!(r->model = strdup(id)))
        rc = fm_cli_fail(err, FM_ENOMEM, "no memory for a model's name");
    r->context = (int)json_integer_value(json_object_get(first, "context_length"));
    json_decref(list);
    free(q.body.bytes);
    return rc;
}

int fm_remote_open(struct remote **out, const char *url, const char *key_from, fm_error *err) {
    struct remote *r = *out = calloc(1, sizeof *r);
    int rc;

    if (!r) return fm_cli_fail(err, FM_ENOMEM, "no memory for a connection");
    if ((rc = fm_curl_open(&r->lib, err)) < 0) return rc;
    r->curl = r->lib.easy_init();
    r->multi = r->lib.multi_init();
    if (!r->curl || !r->multi) return fm_cli_fail(err, FM_ENOMEM, "no memory for a connection");
    if (!(r->url = base_of(url, err))) return err ? err->code : FM_EINVAL;
    if ((rc = set_headers(r, key_from, err)) < 0) return rc;
    r->lib.easy_setopt(r->curl, CURLOPT_HTTPHEADER, r->headers);
    r->lib.easy_setopt(r->curl, CURLOPT_NOSIGNAL, 1L);
    r->lib.easy_setopt(r->curl, CURLOPT_PROTOCOLS_STR, "http,https");
    r->lib.easy_setopt(r->curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_SECONDS);
    r->lib.easy_setopt(r->curl, CURLOPT_TCP_KEEPALIVE, 1L);
    return find_model(r, err);
}

void fm_remote_close(struct remote **remote) {
    struct remote *r = *remote;

    if (!r) return;
    if (r->curl) r->lib.easy_cleanup(r->curl);
    if (r->multi) r->lib.multi_cleanup(r->multi);
    if (r->headers) r->lib.slist_free_all(r->headers);
    fm_curl_close(&r->lib);
    free(r->url);
    free(r->key_from);
    free(r->model);
    free(r);
    *remote = NULL;
}

/* ---- answers ---- */

/* The whole body, malloc'd. */
static char *whole_request(const struct remote *r, const char *request) {
    json_t *json = json_loads(request, 0, NULL);
    char *text = NULL;

    if (json && !json_object_set_new(json, "model", json_string(r->model)) && !json_object_set_new(json, "stream", json_true()) &&
        !json_object_set_new(json, "stream_options", json_pack("{s:b}", "include_usage", 1)))
        text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

struct timed { /* tells when the first event came */
    const struct remote_calls *calls;
    double first;
};

static int on_event(void *user, const fm_event *event) {
    struct timed *t = user;

    if (!t->first) t->first = fm_seconds();
    return t->calls->event(t->calls->user, event);
}

static void fill(fm_answered *out, const struct stream *s, double begun, double first, bool stopped) {
    double now = fm_seconds();

    *out = (fm_answered){.stop = stopped ? FM_STOP_CANCELLED : s->stop,
                         .n_prompt = s->n_prompt,
                         .n_tokens = s->n_tokens,
                         .n_reasoning = s->n_reasoning,
                         .synced.n_kept = s->n_cached,
                         .first_token_seconds = (first ? first : now) - begun,
                         .decode_seconds = s->tokens_per_second > 0 ? (s->n_tokens - 1) / s->tokens_per_second : 0,
                         .message = fm_stream_message(s)};
}

int fm_remote_answer(struct remote *r, const char *request, const struct remote_calls *calls, fm_answered *out, fm_error *err) {
    struct timed timed = {.calls = calls};
    struct stream stream = {.event = on_event, .user = &timed, .comment = calls->comment, .comment_user = calls->comment_user};
    struct request q = {.remote = r, .calls = calls, .stream = &stream};
    char *body = whole_request(r, request);
    double begun = fm_seconds();
    fm_error why = {0};
    int rc = 0;

    *out = (fm_answered){0};
    if (!body) return fm_cli_fail(err, FM_ENOMEM, "no memory for a request");
    fm_stream_open(&stream);
    set_address(r, "/v1/chat/completions");
    r->lib.easy_setopt(r->curl, CURLOPT_POSTFIELDS, body);
    CURLcode code = run(&q);
    bool stopped = wants_stop(&q) || stream.stopped;
    if (stopped)
        fm_stream_end(&stream, NULL);
    else if (q.status && q.status != 200)
        rc = fail_status(&q, err);
    else if (!stream.error.code && code != CURLE_OK && !stream.whole)
        rc = fail_connection(&q, code, err);
    else if (fm_stream_end(&stream, &why) < 0)
        rc = fm_cli_fail(err, why.code, "%s: %s", r->url, why.message);
    if (rc >= 0) fill(out, &stream, begun, timed.first, stopped);
    r->lib.easy_setopt(r->curl, CURLOPT_HTTPGET, 1L);
    fm_stream_close(&stream);
    free(q.body.bytes);
    free(body);
    return rc;
}
