/* experts/io.c: choosing an I/O back end. */
#include "experts/io.h"

#include <string.h>

/* Best first. */
static const fm_io_ops *const back_ends[] = {
#ifdef FM_HAVE_URING
    &fm_io_uring,
#endif
    &fm_io_pread,
};

int fm_io_open(fm_io **io, const char *name, int depth, const char **note, fm_error *err) {
    const int n = sizeof back_ends / sizeof *back_ends;
    int rc = FM_EUNSUPPORTED;
    *note = NULL;
    *io = NULL;
    if (!name) {
        for (int i = 0; i < n && rc == FM_EUNSUPPORTED; i++) {
            rc = back_ends[i]->open(io, depth, err);
            if (rc == FM_EUNSUPPORTED) *note = "this system refuses io_uring: experts are read by threads";
        }
        return rc;
    }
    for (int i = 0; i < n; i++) {
        if (!strcmp(name, back_ends[i]->name)) return back_ends[i]->open(io, depth, err);
    }
    return fm_fail(err, FM_EINVAL, "there is no I/O back end \"%s\": use %s", name, n == 2 ? "uring or pread" : "pread");
}
