/* The packer: the bytes of what it writes, what it refuses, and that whoever stops half way leaves nothing. */
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>

#include "base/memory.h"
#include "base/pool.h"
#include "formats/files.h"
#include "formats/json.h"
#include "formats/pack.h"
#include "formats/safetensors.h"

#define SAYS(...)                                                                                                                                              \
    (const char *const[]) { __VA_ARGS__, NULL }

enum { N_EXPERTS = 11 };

static fm_matrix_type affine(int rows, int cols, int bits, int group) {
    fm_matrix_type type;
    const fm_affine_shape shape = {(uint64_t)rows, (uint64_t)(cols * bits / 32), (uint64_t)(cols / group), FM_BF16, bits, group};
    MUST(fm_matrix_type_affine(&type, "x", &shape, err));
    return type;
}

static int n_files(const char *directory) {
    DIR *dir = opendir(directory);
    int n = dir ? 0 : -1;
    for (struct dirent *e; dir && (e = readdir(dir));) n += e->d_name[0] != '.';
    if (dir) closedir(dir);
    return n;
}

/* ---- how an expert lies ---- */

static void test_layout(void) {
    /* Bytes of one expert of published models (hidden, width, bits): r16 is a permutation of what packed_experts holds. */
    static const struct {
        int hidden, width, bits, bytes;
    } known[] = {{4096, 1024, 4, 7077888}, {3072, 1024, 4, 5308416}, {2048, 512, 4, 1769472}, {4096, 1024, 2, 3932160}, {3072, 1024, 2, 2949120}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        fm_matrix_type up = affine(known[i].width, known[i].hidden, known[i].bits, 64), down = affine(known[i].hidden, known[i].width, known[i].bits, 64);
        uint64_t offsets[FM_EXPERT_MATRICES], bytes = fm_pack_expert_bytes((fm_matrix_type[FM_EXPERT_MATRICES]){up, up, down}, offsets);
        CHECK(bytes == (uint64_t)known[i].bytes, "%d: %llu", known[i].hidden, (unsigned long long)bytes);
        CHECK(offsets[0] == 0 && offsets[1] == bytes / 3 && offsets[2] == bytes / 3 * 2, "%llu", (unsigned long long)offsets[1]);
    }
    /* 17 rows are two strips; 3, 5 and 6 bits at their native width; a bf16 matrix of 7 x 9 is 126 bytes, so the next begins at 128. */
    static const int bits[] = {2, 3, 4, 5, 6, 8};
    for (int i = 0; i < 6; i++) {
        fm_matrix_type r16 = affine(17, 128, bits[i], 32), bf16 = {.format = FM_FORMAT_BF16, .rows = 7, .cols = 9};
        uint64_t offsets[FM_EXPERT_MATRICES], bytes = fm_pack_expert_bytes((fm_matrix_type[FM_EXPERT_MATRICES]){bf16, r16, r16}, offsets),
                                              one = 2 * 16 * 4 * (4 * (uint64_t)bits[i] + 4);
        CHECK(offsets[0] == 0 && offsets[1] == 128 && offsets[2] == 128 + one, "%d bits: %llu", bits[i], (unsigned long long)offsets[2]);
        CHECK(bytes == (128 + 2 * one + 4095) / 4096 * 4096, "%d bits: %llu", bits[i], (unsigned long long)bytes);
    }
    CHECK(fm_pack_hash("", 0) == 0x2d06800538d394c2, "%llx", (unsigned long long)fm_pack_hash("", 0));
}

/* ---- a whole model ---- */

static const fm_pack_tensor tensors[] = {{.name = "a.weight", .dtype = FM_U32, .n_dims = 2, .shape = {3, 5}},
                                         {.name = "none", .dtype = FM_F32, .n_dims = 1, .shape = {0}},
                                         {.name = "big", .dtype = FM_BF16, .n_dims = 2, .shape = {1500, 3001}}, /* more than is written at once */
                                         {.name = "last", .dtype = FM_BF16, .n_dims = 1, .shape = {1}}};
enum { N_TENSORS = sizeof tensors / sizeof *tensors, DENSE_BYTES = 60 + 2 * 1500 * 3001 + 2 };

static uint8_t dense_byte(size_t i) { return (uint8_t)(i * 2654435761u >> 13); }

static void write_dense(fm_packer *packer, size_t bytes) {
    uint8_t *data = malloc(bytes);
    for (size_t i = 0; i < bytes; i++) data[i] = dense_byte(i);
    MUST(fm_packer_dense(packer, tensors, N_TENSORS, err));
    for (size_t at = 0, n = 1; at < bytes; at += n, n = n * 7 % 2000003) { /* pieces of many sizes */
        if (n > bytes - at) n = bytes - at;
        MUST(fm_packer_dense_write(packer, data + at, n, err));
    }
    free(data);
}

typedef struct bank {
    fm_packer *packer;
    uint8_t *experts; /* [N_EXPERTS][bytes] */
    uint64_t bytes;
    int salt;
} bank;

static void expert_task(void *arg, int task, int thread) {
    const bank *b = arg;
    int e = (task * 7 + 3) % N_EXPERTS; /* any order */
    uint8_t *data = b->experts + (size_t)e * b->bytes;
    (void)thread;
    for (size_t i = 0; i < b->bytes; i++) data[i] = (uint8_t)(((size_t)e + 1) * (i + 1) >> (e % 5 + b->salt));
    MUST(fm_packer_expert(b->packer, e, data, err));
}

static json_t *field(json_t *json, const char *name) { return json_object_get(json, name); }

static void check_layer(const bank *b, const char *name, const fm_matrix_type *type, json_t *json) {
    uint64_t size = N_EXPERTS * (b->bytes + 8) + 8;
    char path[100], *file;
    size_t bytes;
    snprintf(path, sizeof path, "/model/%s", name);
    MUST(fm_file_read_text(&file, &bytes, at(path), 1 << 24, err));
    CHECK(bytes == size, "%s has %zu bytes, not %llu", name, bytes, (unsigned long long)size);
    if (bytes == size) {
        CHECK(!memcmp(file, b->experts, N_EXPERTS * b->bytes), "%s: other experts", name);
        const uint8_t *table = (uint8_t *)file + N_EXPERTS * b->bytes;
        for (int e = 0; e <= N_EXPERTS; e++) {
            uint64_t in_file = 0, hash = e < N_EXPERTS ? fm_pack_hash(b->experts + (size_t)e * b->bytes, b->bytes) : fm_pack_hash(table, N_EXPERTS * 8);
            for (int i = 7; i >= 0; i--) in_file = in_file << 8 | table[e * 8 + i];
            CHECK(in_file == hash, "%s: hash %d", name, e);
        }
    }
    free(file);
    CHECK(json_is_object(json) && !strcmp(json_string_value(field(json, "file")), name), "%s", name);
    CHECK(json_integer_value(field(json, "expert_bytes")) == (json_int_t)b->bytes, "%s", name);
    json_t *down = field(json, "down");
    CHECK(json_integer_value(field(down, "rows")) == type->rows && json_integer_value(field(down, "cols")) == type->cols, "%s: shape of down", name);
    CHECK(!strcmp(json_string_value(field(down, "format")), "affine") && !strcmp(json_string_value(field(down, "scales")), "BF16"), "%s: type of down", name);
    CHECK(json_integer_value(field(down, "bits")) == type->bits && json_integer_value(field(down, "group")) == type->group, "%s: type of down", name);
    CHECK(!strcmp(json_string_value(field(field(json, "gate"), "format")), "F16"), "%s: type of gate", name);
}

static void check_dense(json_t *json) {
    fm_tensors t = {0};
    MUST(fm_safetensors_add(&t, at("/model/dense.safetensors"), err));
    MUST(fm_tensors_finish(&t, err));
    CHECK(t.n_tensors == N_TENSORS, "%d tensors", t.n_tensors);
    CHECK(!strcmp(json_string_value(field(json, "file")), "dense.safetensors") && json_object_size(field(json, "tensors")) == N_TENSORS, "dense");
    size_t from = 0;
    for (int i = 0; i < N_TENSORS; i++) {
        const fm_tensor *x = fm_tensors_find(&t, tensors[i].name);
        CHECK(x, "%s is not found", tensors[i].name);
        if (!x) continue;
        uint8_t *data = malloc(x->bytes + 1);
        char text[20];
        MUST(fm_file_read(&t.files[0], data, x->bytes, x->offset, err));
        size_t same = 0;
        while (same < x->bytes && data[same] == dense_byte(from + same)) same++;
        CHECK(same == x->bytes, "%s: byte %zu is another", x->name, same);
        from += x->bytes;
        snprintf(text, sizeof text, "%016llx", (unsigned long long)fm_pack_hash(data, x->bytes));
        CHECK(!strcmp(json_string_value(field(field(json, "tensors"), x->name)), text), "%s: another hash", x->name);
        free(data);
    }
    fm_tensors_close(&t);
}

static void check_links(void) {
    struct stat a, b;
    CHECK(stat(at("/model/experts/layer_01.bin"), &a) == 0 && stat(at("/model/experts/layer_102.bin"), &b) == 0, "the files are there");
    CHECK(a.st_ino == b.st_ino && a.st_nlink == 2, "they are one, with %d names", (int)a.st_nlink);
    CHECK(n_files(at("/model/experts")) == 3 && n_files(at("/model")) == 5, "%d and %d files", n_files(at("/model/experts")), n_files(at("/model")));
    CHECK(n_files(tree_root) == 2, "%d files", n_files(tree_root));
}

static void test_model(void) {
    fm_matrix_type types[FM_EXPERT_MATRICES] = {{.format = FM_FORMAT_F16, .rows = 37, .cols = 64}, affine(37, 64, 4, 32), affine(70, 96, 3, 32)};
    bank banks[2] = {{.bytes = fm_pack_expert_bytes(types, NULL), .salt = 0}, {.bytes = fm_pack_expert_bytes(types, NULL), .salt = 2}};
    fm_region regions[2];
    fm_packer *packer;
    fm_pool *pool;
    MUST(fm_pool_open(&pool, 3, err));
    tree_text("/from", "copied");
    MUST(fm_packer_open(&packer, at("/model//"), 103, N_EXPERTS, err));
    MUST(fm_packer_file(packer, "config.json", "{}\n", 3, err));
    MUST(fm_packer_copy(packer, "tokenizer.json", at("/from"), err));
    for (int i = 0; i < 2; i++) {
        MUST(fm_region_open(&regions[i], N_EXPERTS * banks[i].bytes, "test", err));
        banks[i].packer = packer;
        banks[i].experts = regions[i].data;
        MUST(fm_packer_layer(packer, i ? 7 : 1, types, err));
        fm_pool_run(pool, N_EXPERTS, expert_task, &banks[i]);
        MUST(fm_packer_layer_end(packer, err));
        if (i == 0) {
            write_dense(packer, DENSE_BYTES);
            MUST(fm_packer_dense_end(packer, err));
        }
    }
    MUST(fm_packer_layer_like(packer, 102, 1, err));
    CHECK(n_files(at("/model")) == -1, "it appears when it is whole");
    MUST(fm_packer_finish(packer, "the test", err));
    fm_packer_close(&packer);
    CHECK(!packer, "closed");
    check_links();
    json_t *json;
    MUST(fm_json_open(&json, at("/model/model.json"), err));
    json_t *layers = field(json, "layers");
    CHECK(!strcmp(json_string_value(field(json, "format")), "flash-moe") && json_integer_value(field(json, "version")) == 1, "head");
    CHECK(!strcmp(json_string_value(field(json, "made_by")), "the test") && json_array_size(layers) == 103, "head");
    for (size_t i = 0; i < 103; i++) CHECK(json_is_null(json_array_get(layers, i)) == (i != 1 && i != 7 && i != 102), "layer %zu", i);
    check_layer(&banks[0], "experts/layer_01.bin", &types[2], json_array_get(layers, 1));
    check_layer(&banks[1], "experts/layer_07.bin", &types[2], json_array_get(layers, 7));
    check_layer(&banks[0], "experts/layer_102.bin", &types[2], json_array_get(layers, 102));
    check_dense(field(json, "dense"));
    json_decref(json);
    for (int i = 0; i < 2; i++) fm_region_close(&regions[i]);
    fm_pool_close(&pool);
}

/* ---- what is refused ---- */

static void test_order(void) {
    fm_matrix_type types[FM_EXPERT_MATRICES] = {affine(16, 64, 4, 64), affine(16, 64, 4, 64), affine(16, 64, 4, 64)};
    fm_packer *p;
    fm_error e = {0};
    fm_region r;
    tree_clear();
    MUST(fm_region_open(&r, 4096, "test", err));
    MUST(fm_packer_open(&p, at("/m"), 2, 2, err));
    check_error("early", fm_packer_finish(p, "x", &e), &e, FM_EINVAL, SAYS("/m: its dense part is not written"));
    check_error("not begun", fm_packer_dense_write(p, "", 1, &e), &e, FM_EINVAL, SAYS("/m: its dense part is not open"));
    write_dense(p, DENSE_BYTES - 1);
    check_error("short", fm_packer_dense_end(p, &e), &e, FM_EINVAL, SAYS("dense.safetensors: tensor last lacks 1 bytes"));
    check_error("long", fm_packer_dense_write(p, "abc", 3, &e), &e, FM_EINVAL, SAYS("dense.safetensors: 2 bytes follow the last tensor"));
    check_error("dense twice", fm_packer_dense(p, tensors, 1, &e), &e, FM_EINVAL, SAYS("/m: its dense part is begun twice"));
    MUST(fm_packer_dense_end(p, err));
    check_error("no layer", fm_packer_expert(p, 0, r.data, &e), &e, FM_EINVAL, SAYS("/m: expert 0 has no place"));
    check_error("no layer", fm_packer_layer(p, 2, types, &e), &e, FM_EINVAL, SAYS("/m: there are 2 layers, no layer 2"));
    check_error("like none", fm_packer_layer_like(p, 1, 0, &e), &e, FM_EINVAL, SAYS("/m: layer 1 cannot be like layer 0, which has no file"));
    MUST(fm_packer_layer(p, 0, types, err));
    MUST(fm_packer_expert(p, 1, r.data, err));
    check_error("nested", fm_packer_layer(p, 1, types, &e), &e, FM_EINVAL, SAYS("/m: layer 0 is not ended yet, but layer 1 begins"));
    check_error("twice", fm_packer_expert(p, 1, r.data, &e), &e, FM_EINVAL, SAYS("layer_00.bin: expert 1 is given twice"));
    check_error("too many", fm_packer_expert(p, 2, r.data, &e), &e, FM_EINVAL, SAYS("/m: expert 2 has no place"));
    check_error("one lacks", fm_packer_layer_end(p, &e), &e, FM_EINVAL, SAYS("layer_00.bin: expert 0 is not given"));
    check_error("open", fm_packer_finish(p, "x", &e), &e, FM_EINVAL, SAYS("/m: layer 0 is not ended"));
    MUST(fm_packer_expert(p, 0, r.data, err));
    MUST(fm_packer_layer_end(p, err));
    check_error("layer twice", fm_packer_layer(p, 0, types, &e), &e, FM_EINVAL, SAYS("/m: layer 0 is given twice"));
    check_error("no source", fm_packer_copy(p, "x", at("/none"), &e), &e, FM_EIO, SAYS("/none: No such file"));
    mkdir(at("/m"), 0777);
    check_error("made meanwhile", fm_packer_finish(p, "x", &e), &e, FM_EIO, SAYS("/m: it is there already, made since this began"));
    CHECK(n_files(at("/m")) == 0 && n_files(at("/m.part")) == 3, "both are there");
    fm_packer_close(&p);
    CHECK(n_files(tree_root) == 1, "the part is removed");
    fm_packer_close(&p);
    fm_region_close(&r);
}

static void test_places(void) {
    fm_packer *p, *second;
    fm_error e = {0};
    tree_clear();
    tree_text("/file", "x");
    check_error("a file", fm_packer_open(&p, at("/file"), 1, 1, &e), &e, FM_EIO, SAYS("/file: it is there already"));
    check_error("no parent", fm_packer_open(&p, at("/none/m"), 1, 1, &e), &e, FM_EIO, SAYS("/none/m.part: it cannot be made: No such file"));
    check_error("no name", fm_packer_open(&p, "", 1, 1, &e), &e, FM_EINVAL, SAYS("the directory to write has no name"));
    CHECK(symlink("nowhere", at("/link")) == 0, "a link");
    check_error("a link", fm_packer_open(&p, at("/link"), 1, 1, &e), &e, FM_EIO, SAYS("/link: it is there already"));
    MUST(fm_packer_open(&p, at("/m"), 1, 1, err));
    check_error("at once", fm_packer_open(&second, at("/m"), 1, 1, &e), &e, FM_EIO, SAYS("/m.part: it is there already, left by"));
    CHECK(n_files(at("/m.part")) == 1, "who was refused removes nothing");
    fm_packer_close(&p);
    CHECK(n_files(tree_root) == 2, "%d files", n_files(tree_root));
}

/* A disk that is full: known when a file is begun where room can be reserved, else when it is written; both leave nothing. */
static void test_full(void) {
    fm_matrix_type types[FM_EXPERT_MATRICES] = {affine(64, 1024, 4, 64), affine(64, 1024, 4, 64), affine(64, 1024, 4, 64)};
    uint64_t bytes = fm_pack_expert_bytes(types, NULL);
    fm_packer *p;
    fm_error e = {0};
    fm_region r;
    struct rlimit was, limit;
    tree_clear();
    MUST(fm_region_open(&r, bytes, "test", err));
    MUST(fm_packer_open(&p, at("/m"), 1, 4, err));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &was);
    limit = (struct rlimit){.rlim_cur = 2 * bytes + 4096, .rlim_max = was.rlim_max};
    CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0, "no limit");
    int rc = fm_packer_layer(p, 0, types, &e);
    for (int i = 0; i < 4 && rc == 0; i++) rc = fm_packer_expert(p, i, r.data, &e);
    check_error("experts", rc, &e, FM_EIO, SAYS("/m.part/experts/layer_00.bin: it cannot be written", ": File too large"));
    rc = fm_packer_dense(p, &(fm_pack_tensor){.name = "x", .dtype = FM_F32, .n_dims = 1, .shape = {1 << 20}}, 1, &e);
    for (int i = 0; i < 200 && rc == 0; i++) rc = fm_packer_dense_write(p, r.data, 40000, &e);
    check_error("dense", rc, &e, FM_EIO, SAYS("/m.part/dense.safetensors: it cannot be written", ": File too large"));
    rc = fm_packer_file(p, "big", r.data, 3 * bytes, &e);
    check_error("file", rc, &e, FM_EIO, SAYS("/m.part/big: it cannot be written", ": File too large"));
    setrlimit(RLIMIT_FSIZE, &was);
    fm_packer_close(&p);
    CHECK(n_files(tree_root) == 0, "%d files are left", n_files(tree_root));
    fm_region_close(&r);
}

int main(void) {
    tree_open();
    test_layout();
    test_model();
    test_order();
    test_places();
    test_full();
    return TEST_END();
}
