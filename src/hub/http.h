/* hub/http.h: one request to the hub: how it is asked, what an answer's head means, and in which sentence it fails. Redirects are followed by the caller, so that the token
 * goes to the hub's own host and nowhere else. */
#ifndef FM_HUB_HTTP_H
#define FM_HUB_HTTP_H

#include "hub/curl.h"

#define FM_HUB_URL 8200 /* signed addresses are long */

typedef struct fm_hub {
    fm_curl curl;
    char endpoint[1024];          /* "https://huggingface.co" */
    const char *token;            /* NULL: none */
    char repo[200];               /* ORG/NAME */
    int n_retries;                /* after as many failures in a row, without a byte between them, it is over */
    int (*cancelled)(void *user); /* looked at several times a second; non-zero ends it */
    void *user;
} fm_hub;

typedef struct fm_hub_head { /* of an answer */
    long status;
    char location[FM_HUB_URL];
    char etag[200], linked_etag[200], commit[64], error_code[64], error[200];
    int64_t linked_bytes, length, first, total; /* X-Linked-Size, Content-Length, Content-Range; -1: not said */
    double retry_after;                         /* seconds; -1: not said */
} fm_hub_head;

/* FM_EINVAL unless endpoint is an http or https address; FM_EUNSUPPORTED without libcurl. */
int fm_hub_open(fm_hub *hub, const char *endpoint, const char *token, const char *repo, fm_error *err);
void fm_hub_close(fm_hub *hub);

/* ENDPOINT/PREFIX REPO/MIDDLE/REVISION/FILE, escaped; file may be NULL: without it. */
void fm_hub_api_url(const fm_hub *hub, const char *revision, char out[FM_HUB_URL]);
void fm_hub_file_url(const fm_hub *hub, const char *commit, const char *file, char out[FM_HUB_URL]);

/* Prepares easy to ask for url; *headers is freed by the caller after the request. The head's fields are filled as they come. False: no memory. */
bool fm_hub_ask(const fm_hub *hub, CURL *easy, const char *url, fm_hub_head *head, struct curl_slist **headers);

/* An ETag without what is around it, as far as it fits. */
void fm_hub_etag(const char *etag, char hash[65]);

typedef enum fm_hub_verdict {
    FM_HUB_GOOD,
    FM_HUB_MOVED,   /* to head->location, which is then a whole address */
    FM_HUB_AGAIN,   /* it may work later */
    FM_HUB_EXPIRED, /* an address that the hub gave out works no longer: ask the hub again */
    FM_HUB_FAILED
} fm_hub_verdict;

/* What became of a request to url for what (a file's name, "" for the model). In all cases but the first two *err has the sentence. */
fm_hub_verdict fm_hub_judge(const fm_hub *hub, CURLcode result, fm_hub_head *head, const char *url, const char *what, fm_error *err);
/* Seconds to wait before the next try, after so many failures. */
double fm_hub_delay(const fm_hub_head *head, int failures);
/* Sleeps. FM_ECANCELLED. */
int fm_hub_wait(const fm_hub *hub, double seconds, fm_error *err);

/* A whole small answer, at most limit bytes, as a malloc'd string. */
int fm_hub_get(const fm_hub *hub, const char *url, const char *what, size_t limit, char **text, size_t *bytes, fm_error *err);
/* Size and hash of a file, for listings that do not say. */
int fm_hub_stat(const fm_hub *hub, const char *commit, const char *file, uint64_t *bytes, char hash[65], fm_error *err);

#endif
