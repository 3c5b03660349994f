/* hub/curl.h: libcurl, which is loaded when a model is pulled and not before: it brings some thirty libraries, which would cost every other command 24 ms and megabytes of memory, and a
 * machine without it can do everything else. */
#ifndef FM_HUB_CURL_H
#define FM_HUB_CURL_H

#include <curl/curl.h>

#include "base/error.h"

#define FM_CURL_FUNCTIONS(X)                                                                                                                                   \
    X(easy_cleanup)                                                                                                                                            \
    X(easy_getinfo) X(easy_init) X(easy_perform) X(easy_reset) X(easy_setopt) X(easy_strerror) X(free) X(global_cleanup) X(global_init) X(multi_add_handle)    \
        X(multi_cleanup) X(multi_info_read) X(multi_init) X(multi_perform) X(multi_poll) X(multi_remove_handle) X(slist_append) X(slist_free_all) X(url)       \
            X(url_cleanup) X(url_get) X(url_set)

#define FM_CURL_MEMBER(name) __typeof__(curl_##name) *name;
typedef struct fm_curl {
    FM_CURL_FUNCTIONS(FM_CURL_MEMBER)
} fm_curl;

/* Loads and begins it. It stays loaded, as what it brings does not bear being unloaded. FM_EUNSUPPORTED: there is none, or it is too old. */
int fm_curl_open(fm_curl *curl, fm_error *err);
void fm_curl_close(fm_curl *curl);

#endif
