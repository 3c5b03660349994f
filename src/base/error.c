/* base/error.c: see error.h. */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Formats beside *err first: a caller may wrap the sentence that is there, with err->message as an argument. */
static void set(fm_error *err, int code, const char *format, va_list args, const char *reason) {
    char message[sizeof err->message];
    vsnprintf(message, sizeof message, format, args);
    if (reason) {
        size_t n = strlen(message);
        snprintf(message + n, sizeof message - n, ": %s", reason);
    }
    /* Names come from files of strangers: nothing in them may move a terminal's cursor. */
    for (char *c = message; *c; c++) {
        if ((unsigned char)*c < ' ' || *c == 127) *c = '?';
    }
    memcpy(err->message, message, strlen(message) + 1);
    err->code = code;
}

int fm_fail(fm_error *err, int code, const char *format, ...) {
    if (!err) return code;
    va_list args;
    va_start(args, format);
    set(err, code, format, args, NULL);
    va_end(args);
    return code;
}

/* glibc and POSIX disagree about strerror_r; this takes either. */
static const char *reason_of(int errno_value, char *buffer, size_t size) {
    buffer[0] = 0;
#if defined(__GLIBC__)
    return strerror_r(errno_value, buffer, size);
#else
    return strerror_r(errno_value, buffer, size) ? "unknown error" : buffer;
#endif
}

int fm_fail_errno(fm_error *err, int code, int errno_value, const char *format, ...) {
    char buffer[128];
    if (!err) return code;
    va_list args;
    va_start(args, format);
    set(err, code, format, args, reason_of(errno_value, buffer, sizeof buffer));
    va_end(args);
    return code;
}
