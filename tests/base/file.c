/* Files: exact reads and their errors, direct reads where the disk gives them, things that are no files. */
#include "base/file.h"

#include "tree.h"

static char path[TREE_PATH];

static const char *at(const char *name) {
    snprintf(path, sizeof path, "%s%s", tree_root, name);
    return path;
}

static void test_read(void) {
    enum { N = 100000 };
    static uint8_t data[N], back[N];
    uint64_t seed = 1;
    for (int i = 0; i < N; i++) data[i] = (uint8_t)test_random(&seed);
    tree_write("/data", data, N);
    fm_file f;
    fm_error failed = {0};
    MUST(fm_file_open(&f, at("/data"), false, err));
    CHECK(f.size == N && f.direct_fd == -1 && f.alignment == 1 && !strcmp(f.path, at("/data")), "%llu bytes, alignment %u", (unsigned long long)f.size,
          f.alignment);
    MUST(fm_file_read(&f, back, N, 0, err));
    CHECK(!memcmp(back, data, N), "the whole file");
    MUST(fm_file_read(&f, back, 1001, 777, err));
    CHECK(!memcmp(back, data + 777, 1001), "a part");
    MUST(fm_file_read(&f, back, 1, N - 1, err));
    CHECK(back[0] == data[N - 1], "the last byte");
    MUST(fm_file_read(&f, back, 0, N + 5, err));
    CHECK(fm_file_read(&f, back, 2, N - 1, &failed) == FM_EFORMAT, "past the end: %s", failed.message);
    CHECK(strstr(failed.message, "/data") && strstr(failed.message, "100000") && strstr(failed.message, "99999"), "%s", failed.message);
    CHECK(fm_file_read(&f, back, 1, UINT64_MAX - 1, &failed) == FM_EIO && strstr(failed.message, "/data"), "%s", failed.message);
    fm_file_close(&f);
    CHECK(f.fd == -1 && f.direct_fd == -1 && !f.path, "closed");
    fm_file_close(&f);

    MUST(fm_file_open(&f, at("/data"), true, err));
    CHECK(f.fd >= 0, "the buffered one stays");
    if (f.direct_fd < 0) {
        fprintf(stderr, "no direct I/O in the working directory: direct reads are not tested\n");
        CHECK(f.alignment == 1, "alignment %u", f.alignment);
    } else {
        void *block = NULL;
        CHECK(f.alignment && !(f.alignment & (f.alignment - 1)), "alignment %u", f.alignment);
        CHECK(posix_memalign(&block, f.alignment < sizeof(void *) ? sizeof(void *) : f.alignment, f.alignment) == 0, "memory");
        ssize_t n = pread(f.direct_fd, block, f.alignment, f.alignment);
        CHECK(n == (ssize_t)f.alignment && !memcmp(block, data + f.alignment, f.alignment), "a direct read of %u bytes: %zd", f.alignment, n);
        free(block);
    }
    fm_file_close(&f);
}

static void test_refused(void) {
    fm_file f;
    fm_error failed = {0};
    CHECK(fm_file_open(&f, at("/none"), true, &failed) == FM_EIO && strstr(failed.message, "/none: No such file"), "%s", failed.message);
    CHECK(fm_file_open(&f, tree_root, false, &failed) == FM_EIO && strstr(failed.message, "a directory, not a file"), "%s", failed.message);
    CHECK(mkfifo(at("/pipe"), 0600) == 0, "no pipe");
    alarm(20); /* opening a pipe would wait */
    CHECK(fm_file_open(&f, at("/pipe"), true, &failed) == FM_EIO && strstr(failed.message, "a device or pipe, not a file"), "%s", failed.message);
    alarm(0);
    CHECK(fm_file_open(&f, "/dev/null", false, &failed) == FM_EIO, "%s", failed.message);
    CHECK(f.fd == -1 && f.direct_fd == -1 && !f.path, "a file that was not opened");

    tree_text("/tiny", "x"); /* shorter than a block of direct I/O */
    tree_text("/empty", "");
    uint8_t byte = 0;
    MUST(fm_file_open(&f, at("/tiny"), true, err));
    MUST(fm_file_read(&f, &byte, 1, 0, err));
    CHECK(f.size == 1 && byte == 'x', "%llu bytes", (unsigned long long)f.size);
    fm_file_close(&f);
    MUST(fm_file_open(&f, at("/empty"), true, err));
    CHECK(f.size == 0 && fm_file_read(&f, &byte, 1, 0, NULL) == FM_EFORMAT, "an empty file");
    fm_file_close(&f);
#if defined(__linux__)
    MUST(fm_file_open(&f, "/proc/self/status", true, err)); /* a file that refuses O_DIRECT */
    CHECK(f.direct_fd == -1 && f.alignment == 1 && f.fd >= 0, "direct %d, alignment %u", f.direct_fd, f.alignment);
    MUST(fm_file_read(&f, &byte, 1, 0, err));
    CHECK(byte == 'N', "read %d", byte);
    fm_file_close(&f);
#endif
    /* One that was never opened does not close descriptor 0. */
    int zero = dup(0);
    fm_file never = {0};
    fm_file_close(&never);
    CHECK(zero < 0 || fcntl(0, F_GETFD) >= 0, "descriptor 0 was closed");
    if (zero >= 0) close(zero);
}

static void test_text(void) {
    char *text;
    size_t bytes;
    fm_error failed = {0};
    tree_write("/text", "ab\0cd", 5);
    MUST(fm_file_read_text(&text, &bytes, at("/text"), 5, err));
    CHECK(bytes == 5 && !memcmp(text, "ab\0cd", 6), "%zu bytes", bytes);
    free(text);
    CHECK(fm_file_read_text(&text, &bytes, at("/text"), 4, &failed) == FM_EFORMAT && !text && !bytes, "%s", failed.message);
    CHECK(strstr(failed.message, "/text") && strstr(failed.message, "5 bytes") && strstr(failed.message, "the 4"), "%s", failed.message);
    CHECK(fm_file_read_text(&text, &bytes, at("/none"), 4, &failed) == FM_EIO && !text, "%s", failed.message);
    MUST(fm_file_read_text(&text, &bytes, at("/empty"), 4, err));
    CHECK(bytes == 0 && text[0] == 0, "an empty text");
    free(text);
}

int main(void) {
    tree_open();
    test_read();
    test_refused();
    test_text();
    char out[8];
    fm_error failed = {0};
    MUST(fm_path_join(out, sizeof out, "abc", "def", err));
    CHECK(!strcmp(out, "abc/def"), "%s", out);
    MUST(fm_path_join(out, sizeof out, "abc/", "def", err));
    CHECK(!strcmp(out, "abc/def"), "%s", out);
    MUST(fm_path_join(out, sizeof out, "/", "a", err));
    CHECK(!strcmp(out, "/a"), "%s", out);
    CHECK(fm_path_join(out, sizeof out, "abc", "defg", &failed) == FM_EINVAL && strstr(failed.message, "abc/defg"), "%s", failed.message);
    CHECK(fm_path_exists(at("/data")) && fm_path_exists(tree_root) && !fm_path_exists(at("/none")), "exists");
    return TEST_END();
}
