/* hub/name.h: names that come from outside: of models and revisions as people type them, of files and hashes as the hub sends them. Nothing that passes here can lead out of
 * the cache. */
#ifndef FM_HUB_NAME_H
#define FM_HUB_NAME_H

#include "base/error.h"

typedef struct fm_hub_name {
    char repo[200];     /* "ORG/NAME" */
    char revision[200]; /* "main" if none was said */
} fm_hub_name;

/* Reads "ORG/NAME" or "ORG/NAME@REVISION". FM_EINVAL for what no model can be called. */
int fm_hub_name_read(fm_hub_name *out, const char *text, fm_error *err);

/* Whether text is n hexadecimal digits in small letters: 40 for commits and git blobs, 64 for sha256. */
bool fm_hub_is_hash(const char *text, size_t n);

/* Whether name is a plain path below a directory: components of at most 255 visible bytes, none of them "." or "..", none empty, no backslash. */
bool fm_hub_is_file(const char *name);

#endif
