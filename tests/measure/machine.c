/* tests/measure/machine.c: the sampling of a machine: medians, levels, a disk read where experts lie, the page cache emptied. No figure is judged but as positive. */
#include "measure/machine.h"

#include <unistd.h>
#ifdef __linux__
#include <sys/statfs.h>
#endif

#include "test.h"

#define EXPERT_BYTES (64 << 10)
#define N_EXPERTS 16

static void samples(void) {
    fm_samples s = {0};
    fm_spread none = fm_samples_spread(&s);
    CHECK(none.median == 0 && none.least == 0 && none.most == 0, "of none");
    const double values[] = {5, 1, 9, 3};
    for (int i = 0; i < 3; i++) fm_samples_add(&s, values[i]);
    fm_spread odd = fm_samples_spread(&s);
    CHECK(odd.median == 5 && odd.least == 1 && odd.most == 9, "%g from %g to %g", odd.median, odd.least, odd.most);
    fm_samples_add(&s, values[3]);
    CHECK(fm_samples_spread(&s).median == 4, "between the middle two: %g", fm_samples_spread(&s).median);
    CHECK(s.values[0] == 5, "samples stay in order");
    for (int i = 0; i < 2 * FM_MAX_SAMPLES; i++) fm_samples_add(&s, 4);
    CHECK(s.n == FM_MAX_SAMPLES && fm_samples_spread(&s).most == 9, "%d samples", s.n);
}

/* A model with one layer of experts in a file that is read through the page cache. */
static fm_source sources[2][FM_N_ROLES];
static fm_expert_layout layout;
static fm_extent extents[N_EXPERTS];
static fm_file file;
static fm_model model = {.tensors = {.files = &file, .n_files = 1}, .sources = sources, .experts = &layout, .extents = extents, .n_extents = 1};

static void make_model(const char *path) {
    static uint8_t expert[EXPERT_BYTES];
    FILE *f = fopen(path, "wb");
    for (int i = 0; i < N_EXPERTS; i++) {
        memset(expert, i, sizeof expert);
        if (!f || fwrite(expert, sizeof expert, 1, f) != 1) exit(1);
        extents[i] = (fm_extent){.offset = (uint64_t)i * EXPERT_BYTES, .bytes = EXPERT_BYTES};
    }
    if (fclose(f)) exit(1);
    MUST(fm_file_open(&file, path, false, err));
    layout.disk_bytes = EXPERT_BYTES;
    layout.matrix[FM_GATE].type = (fm_matrix_type){.format = FM_FORMAT_F32, .rows = 64, .cols = 64};
    model.description.n_layers = 1;
    model.description.n_experts = N_EXPERTS;
    model.description.layers[0].moe = true;
}

static void check_rates(const char *what, const fm_machine_rate *rates, int n, int last) {
    CHECK(n > 0 && rates[0].level == 1 && rates[n - 1].level == last, "%s: %d levels to %d, expected %d", what, n, n ? rates[n - 1].level : 0, last);
    for (int i = 0; i < n; i++) {
        fm_spread s = fm_samples_spread(&rates[i].per_second);
        CHECK(rates[i].per_second.n == 2 && s.least > 0 && s.least <= s.median && s.median <= s.most, "%s at %d: %d samples, %g", what, rates[i].level,
              rates[i].per_second.n, s.median);
    }
}

/* Whether the file system is tmpfs, whose files are their page cache. */
static bool in_memory(const char *path) {
#ifdef __linux__
    struct statfs fs;
    return statfs(path, &fs) == 0 && fs.f_type == 0x01021994;
#else
    (void)path;
    return false;
#endif
}

static void machine(const char *path) {
    fm_machine_config config = {.model = &model, .n_threads = 3, .int8 = true, .buffer_bytes = 5 * EXPERT_BYTES};
    const fm_machine_rate *rates;
    fm_machine *m;
    MUST(fm_machine_open(&m, &config, err));
    for (int i = 0; i < 2; i++) MUST(fm_machine_sample(m, 0.002, err));
    int n = fm_machine_ram(m, &rates);
    check_rates("memory", rates, n, 3);
    CHECK(n == 3 && rates[1].level == 2, "%d levels", n);
    n = fm_machine_disk(m, &rates);
    check_rates("disk", rates, n, 4);
    const fm_machine_rate *best = fm_machine_best_disk(m);
    for (int i = 0; i < n; i++) {
        double median = fm_samples_spread(&rates[i].per_second).median;
        CHECK(fm_samples_spread(&best->per_second).median >= median, "%d in flight is better than the best", rates[i].level);
    }
    CHECK(fm_machine_operations(m)->n == 2 && fm_samples_spread(fm_machine_operations(m)).least > 0, "products");
    CHECK(fm_machine_read_bytes(m) == EXPERT_BYTES && !fm_machine_direct(m), "reads of %llu bytes", (unsigned long long)fm_machine_read_bytes(m));
    uint8_t *all = malloc((size_t)file.size);
    MUST(fm_file_read(&file, all, (size_t)file.size, 0, err)); /* now it is in the page cache */
    uint64_t left = fm_machine_drop_cache(m);
    if (in_memory(path))
        CHECK(left == file.size, "%llu bytes of a file that is memory itself could be dropped", (unsigned long long)(file.size - left));
    else
        CHECK(left == 0, "%llu bytes are left in the page cache", (unsigned long long)left);
    free(all);
    fm_machine_close(&m);
}

/* A read that fails is an error with the file's name, not a speed. */
static void disk_error(void) {
    fm_machine_config config = {.model = &model, .n_threads = 1, .int8 = true};
    fm_machine *m;
    fm_error error = {0};
    int fd = file.fd;
    MUST(fm_machine_open(&m, &config, err));
    file.fd = -1;
    CHECK(fm_machine_sample(m, 0.002, &error) == FM_EIO && strstr(error.message, file.path), "%s", error.message);
    file.fd = fd;
    fm_machine_close(&m);
    config.cpu = "abacus";
    CHECK(fm_machine_open(&m, &config, &error) == FM_EINVAL && !m && strstr(error.message, "abacus"), "%s", error.message);
}

int main(void) {
    char path[] = "machine-XXXXXX";
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    samples();
    make_model(path);
    machine(path);
    disk_error();
    double idle = fm_machine_idle(0.05);
    CHECK(idle == -1 || (idle >= 0 && idle <= 1), "idle %g", idle);
    fm_file_close(&file);
    unlink(path);
    return TEST_END();
}
