/* The sentence of an error: its parts, cutting, wrapping itself, no place to put it. */
#include "base/error.h"

#include <errno.h>

#include "test.h"

static void test_control_bytes(void) {
    fm_error err = {0};
    fm_fail(&err, FM_EFORMAT, "tensor %s", "a\033[2Jb\nc\177\xc3\xa9");
    CHECK(!strcmp(err.message, "tensor a?[2Jb?c?\xc3\xa9"), "%s", err.message);
}

int main(void) {
    test_control_bytes();
    fm_error err = {0};
    CHECK(fm_fail(&err, FM_EFORMAT, "%s: tensor %d", "a.bin", 7) == FM_EFORMAT, "code %d", err.code);
    CHECK(err.code == FM_EFORMAT && !strcmp(err.message, "a.bin: tensor 7"), "%s", err.message);
    CHECK(fm_fail_errno(&err, FM_EIO, ENOENT, "%s", "b.bin") == FM_EIO && err.code == FM_EIO, "code %d", err.code);
    CHECK(!strcmp(err.message, "b.bin: No such file or directory"), "%s", err.message);
    fm_fail(&err, FM_EIO, "loading: %s", err.message);
    CHECK(!strcmp(err.message, "loading: b.bin: No such file or directory"), "%s", err.message);

    CHECK(fm_fail(NULL, FM_ENAN, "nobody reads %d", 1) == FM_ENAN, "without a place");
    CHECK(fm_fail_errno(NULL, FM_EIO, EIO, "nobody reads %d", 1) == FM_EIO, "without a place");

    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    fm_fail(&err, FM_EINVAL, "%s", longer);
    CHECK(strlen(err.message) == sizeof err.message - 1, "%zu characters", strlen(err.message));
    fm_fail_errno(&err, FM_EIO, EIO, "%s", longer);
    CHECK(strlen(err.message) == sizeof err.message - 1 && err.code == FM_EIO, "%zu characters", strlen(err.message));
    fm_fail(&err, FM_EIO, "short");
    CHECK(!strcmp(err.message, "short"), "a short sentence over a long one: %s", err.message);
    return TEST_END();
}
