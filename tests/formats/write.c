/* fm_safetensors_write: what it wrote is read back; what cannot be written leaves the old file and nothing else. */
#include "formats/safetensors.h"

#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#include "formats/files.h"

static int n_files(void) {
    DIR *dir = opendir(tree_root);
    int n = 0;
    for (struct dirent *e; (e = readdir(dir));) n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void test_round_trip(void) {
    static const float values[6] = {0, -0.0f, 1.5f, 1e-40f, -3e38f, 7};
    static const int32_t ids[3] = {-1, 248319, 7};
    for (int extra = 0; extra < 9; extra++) { /* names of all lengths modulo 8 */
        char name[40];
        snprintf(name, sizeof name, "layers.0 \"q\"\\\xc3\xa4%.*s", extra, "xxxxxxxx");
        const fm_safetensors_entry entries[] = {{.name = name, .dtype = FM_F32, .n_dims = 2, .shape = {2, 3}, .data = values},
                                                {.name = "ids", .dtype = FM_I32, .n_dims = 1, .shape = {3}, .data = ids},
                                                {.name = "none", .dtype = FM_F32, .n_dims = 2, .shape = {0, 5}, .data = NULL},
                                                {.name = "one", .dtype = FM_F32, .n_dims = 0, .data = values + 2}};
        MUST(fm_safetensors_write(at("/out.safetensors"), entries, 4, err));
        fm_tensors t = {0};
        MUST(fm_safetensors_add(&t, at("/out.safetensors"), err));
        MUST(fm_tensors_finish(&t, err));
        CHECK(t.n_tensors == 4 && n_files() == 1, "%d tensors, %d files", t.n_tensors, n_files());
        for (int i = 0; i < 4; i++) {
            const fm_tensor *x = fm_tensors_find(&t, entries[i].name);
            uint8_t data[24];
            if (!x) {
                CHECK(x, "%s is not found", entries[i].name);
                continue;
            }
            CHECK(x->dtype == entries[i].dtype && x->n_dims == entries[i].n_dims && !memcmp(x->shape, entries[i].shape, sizeof x->shape), "%s", x->name);
            CHECK(x->bytes <= sizeof data, "%s has %llu bytes", x->name, (unsigned long long)x->bytes);
            MUST(fm_file_read(&t.files[0], data, x->bytes, x->offset, err));
            CHECK(!x->bytes || !memcmp(data, entries[i].data, x->bytes), "%s", x->name);
        }
        uint64_t first = fm_tensors_find(&t, name) ? fm_tensors_find(&t, name)->offset : 1;
        CHECK(first % 8 == 0, "the data begins at %llu", (unsigned long long)first);
        fm_tensors_close(&t);
    }
    MUST(fm_safetensors_write(at("/out.safetensors"), NULL, 0, err));
    fm_tensors t = {0};
    MUST(fm_safetensors_add(&t, at("/out.safetensors"), err));
    CHECK(t.n_tensors == 0, "%d tensors", t.n_tensors);
    fm_tensors_close(&t);
}
#define SAYS(...)                                                                                                                                              \
    (const char *const[]) { __VA_ARGS__, NULL }

static void test_refused(void) {
    static float big[20000];
    const fm_safetensors_entry entry = {.name = "x", .dtype = FM_F32, .n_dims = 1, .shape = {20000}, .data = big};
    fm_error e = {0};
    tree_clear();
    check_error("no directory", fm_safetensors_write(at("/none/out"), &entry, 1, &e), &e, FM_EIO, SAYS("/none/out: it cannot be written: No such file"));
    check_error("a directory", fm_safetensors_write(tree_root, &entry, 1, &e), &e, FM_EIO, SAYS(tree_root, "is not a file"));
    CHECK(mkfifo(at("/pipe"), 0600) == 0, "no pipe"); /* not a device of the machine: a writer that is wrong would replace it */
    check_error("a pipe", fm_safetensors_write(at("/pipe"), &entry, 1, &e), &e, FM_EIO, SAYS("/pipe: it is there and is not a file"));
    struct stat st;
    CHECK(stat(at("/pipe"), &st) == 0 && S_ISFIFO(st.st_mode), "the pipe is still one");
    remove(at("/pipe"));
    const fm_safetensors_entry twice[2] = {entry, entry}, bad = {.name = "\xff", .dtype = FM_F32, .n_dims = 1, .shape = {1}, .data = big};
    check_error("twice", fm_safetensors_write(at("/out"), twice, 2, &e), &e, FM_EINVAL, SAYS("/out: two tensors are called x"));
    check_error("no name", fm_safetensors_write(at("/out"), &bad, 1, &e), &e, FM_EINVAL, SAYS("/out: tensor 0 has a name that is not UTF-8"));
    CHECK(n_files() == 0, "%d files are left", n_files());
    /* A disk that is full half way. */
    tree_text("/out", "the old one");
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit was, limit;
    getrlimit(RLIMIT_FSIZE, &was);
    limit = (struct rlimit){.rlim_cur = 40000, .rlim_max = was.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0, "no limit");
    int rc = fm_safetensors_write(at("/out"), &entry, 1, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    check_error("a full disk", rc, &e, FM_EIO, SAYS("/out: it cannot be written: File too large"));
    char *text = NULL;
    size_t bytes;
    MUST(fm_file_read_text(&text, &bytes, at("/out"), 100, err));
    CHECK(!strcmp(text, "the old one") && n_files() == 1, "%zu bytes, %d files", bytes, n_files());
    free(text);
    MUST(fm_safetensors_write(at("/out"), &entry, 1, err));
    CHECK(n_files() == 1, "%d files", n_files());
}

int main(void) {
    tree_open();
    test_round_trip();
    test_refused();
    return TEST_END();
}
