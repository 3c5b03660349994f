/* hub/curl.c: see curl.h. */
#include "hub/curl.h"

#include <dlfcn.h>
#include <string.h>

int fm_curl_open(fm_curl *curl, fm_error *err) {
    static const char *const files[] = {"libcurl.so.4", "libcurl-gnutls.so.4", "libcurl.4.dylib"};
    void *library = NULL, *found;
    *curl = (fm_curl){0};
    for (size_t i = 0; i < sizeof files / sizeof *files && !library; i++) library = dlopen(files[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) return fm_fail(err, FM_EUNSUPPORTED, "fetching models needs libcurl, which is not installed (libcurl4)");
/* A pointer to a function is set by its bytes, as C knows no other way from dlsym's. */
#define LOAD(name)                                                                                                                                             \
    if (!(found = dlsym(library, "curl_" #name))) return fm_fail(err, FM_EUNSUPPORTED, "fetching models needs a newer libcurl: it has no curl_" #name);        \
    memcpy(&curl->name, &found, sizeof found);
    FM_CURL_FUNCTIONS(LOAD)
    if (curl->global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) return 0;
    *curl = (fm_curl){0};
    return fm_fail(err, FM_ENOMEM, "no memory for connections");
}

void fm_curl_close(fm_curl *curl) {
    if (curl->global_cleanup) curl->global_cleanup();
    *curl = (fm_curl){0};
}
