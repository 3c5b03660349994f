/* base/error.h: filling an fm_error. */
#ifndef FM_BASE_ERROR_H
#define FM_BASE_ERROR_H

#include "flash_moe.h"

/* Sets *err (which may be NULL) to code and the formatted sentence, and returns code. */
__attribute__((format(printf, 3, 4))) int fm_fail(fm_error *err, int code, const char *format, ...);

/* The same with ": strerror(errno_value)" appended. */
__attribute__((format(printf, 4, 5))) int fm_fail_errno(fm_error *err, int code, int errno_value, const char *format, ...);

#endif
