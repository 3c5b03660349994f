/* A directory of the flash-moe programs: 3 layers, the first without experts, 4 experts of gate and down, then each way to be wrong. */
#include "formats/packed_experts.h"

#include "formats/files.h"

#define LAYOUT(size, layers, experts, components)                                                                                                              \
    "{\"expert_size\":" size ",\"num_layers\":" layers ",\"num_experts\":" experts ",\"components\":[" components "]}"
#define PART(name, offset, size, dtype, shape) "{\"name\":\"" name "\",\"offset\":" offset ",\"size\":" size ",\"dtype\":\"" dtype "\",\"shape\":" shape "}"
#define GATE PART("gate_proj.weight", "0", "256", "U32", "[8,8]")
#define SCALES PART("gate_proj.scales", "256", "16", "BF16", "[8,1]")
#define DOWN PART("down_proj.weight", "384", "128", "uint32", "[4,8,4]")
#define GOOD LAYOUT("512", "3", "4", GATE "," SCALES "," DOWN)
#define ENTRY(name, offset, size, dtype, shape) "\"" name "\":{\"offset\":" offset ",\"size\":" size ",\"dtype\":\"" dtype "\",\"shape\":" shape "}"
#define DENSE ENTRY("model.layers.0.mlp.gate_proj.weight", "0", "24", "F32", "[2,3]")
#define NORM ENTRY("model.norm.weight", "64", "6", "BFloat16", "[3]")
#define MANIFEST(tensors) "{\"model\":\"m\",\"num_tensors\":2,\"tensors\":{" tensors "},\"config\":{}}"

static void make(void) {
    static uint8_t bytes[4 * 512];
    tree_clear();
    tree_text("/packed_experts/layout.json", GOOD);
    tree_text("/model_weights.json", MANIFEST(DENSE "," NORM));
    tree_write("/model_weights.bin", bytes, 70);
    tree_write("/packed_experts/layer_01.bin", bytes, sizeof bytes);
    tree_write("/packed_experts/layer_02.bin", bytes, sizeof bytes);
}

static void check_bad(const char *what, int code, const char *const *says) {
    fm_tensors t = {0};
    fm_error e = {0};
    int rc = fm_packed_experts_add(&t, tree_root, &e);
    if (rc >= 0) rc = fm_tensors_finish(&t, &e);
    check_error(what, rc, &e, code, says);
    fm_tensors_close(&t);
}
#define SAYS(...)                                                                                                                                              \
    (const char *const[]) { __VA_ARGS__, NULL }

static void test_good(void) {
    make();
    fm_tensors t = {0};
    MUST(fm_packed_experts_add(&t, tree_root, err));
    MUST(fm_tensors_finish(&t, err));
    CHECK(t.n_files == 3 && t.n_tensors == 2 + 2 * 3, "%d files, %d tensors", t.n_files, t.n_tensors);
    const fm_tensor *down = fm_tensors_find(&t, "model.layers.2.mlp.switch_mlp.down_proj.weight"), *norm = fm_tensors_find(&t, "model.norm.weight");
    const fm_tensor *scales = fm_tensors_find(&t, "model.layers.1.mlp.switch_mlp.gate_proj.scales");
    CHECK(down && norm && scales && !fm_tensors_find(&t, "model.layers.0.mlp.switch_mlp.gate_proj.weight"), "names");
    CHECK(down->dtype == FM_U32 && down->n_dims == 3 && down->shape[0] == 4 && down->shape[1] == 8 && down->shape[2] == 4, "down's shape");
    CHECK(down->offset == 384 && down->stride == 512 && down->bytes == 512 && strstr(t.files[down->file].path, "layer_02.bin"), "down's place");
    CHECK(scales->dtype == FM_BF16 && scales->offset == 256 && scales->stride == 512 && scales->bytes == 64 && scales->shape[1] == 8 && scales->shape[2] == 1,
          "scales");
    CHECK(strstr(t.files[scales->file].path, "layer_01.bin"), "%s", t.files[scales->file].path);
    CHECK(norm->dtype == FM_BF16 && norm->n_dims == 1 && norm->offset == 64 && norm->bytes == 6 && norm->stride == 0, "norm");
    fm_tensors_close(&t);
    /* A layer may have both. */
    static uint8_t bytes[2048];
    tree_write("/packed_experts/layer_00.bin", bytes, sizeof bytes);
    MUST(fm_packed_experts_add(&t, tree_root, err));
    CHECK(t.n_files == 4 && t.n_tensors == 2 + 3 * 3, "%d files, %d tensors", t.n_files, t.n_tensors);
    fm_tensors_close(&t);
}

static void test_here(void) {
    tree_clear();
    CHECK(!fm_packed_experts_here(tree_root), "an empty directory");
    tree_text("/packed_experts/layout.json", "");
    CHECK(fm_packed_experts_here(tree_root), "experts alone");
    tree_text("/model.safetensors", "");
    CHECK(!fm_packed_experts_here(tree_root), "a snapshot with experts in it");
    tree_text("/model_weights.json", "");
    CHECK(fm_packed_experts_here(tree_root), "the manifest decides");
    tree_clear();
    tree_text("/packed_experts/layout.json", "");
    tree_text("/model.safetensors.index.json", "");
    CHECK(!fm_packed_experts_here(tree_root), "a snapshot of several files");
    tree_clear();
    tree_text("/model_weights.json", "");
    CHECK(fm_packed_experts_here(tree_root), "the manifest alone");
}

static void test_layouts(void) {
    static const struct {
        const char *layout;
        int code;
        const char *says[3];
    } cases[] = {
        {"{", FM_EFORMAT, {"layout.json: it is not JSON"}},
        {"[]", FM_EFORMAT, {"layout.json: it is not a JSON object"}},
        {"{}", FM_EFORMAT, {"layout.json: it has no expert_size"}},
        {LAYOUT("0", "3", "4", GATE), FM_EFORMAT, {"layout.json: it has no expert_size from 1 to"}},
        {LAYOUT("512.0", "3", "4", GATE), FM_EFORMAT, {"layout.json: it has no expert_size"}},
        {LAYOUT("4294967296", "3", "4", GATE), FM_EFORMAT, {"layout.json: it has no expert_size from 1 to 4294967295"}},
        {LAYOUT("512", "-3", "4", GATE), FM_EFORMAT, {"layout.json: it has no num_layers from 1 to"}},
        {LAYOUT("512", "3", "65537", GATE), FM_EFORMAT, {"layout.json: it has no num_experts from 1 to 65536"}},
        {LAYOUT("512", "3", "4", ""), FM_EFORMAT, {"layout.json: it has no components"}},
        {LAYOUT("512", "3", "4", "7"), FM_EFORMAT, {"layout.json: component 0 has no name"}},
        {LAYOUT("512", "3", "4", GATE ",{\"name\":\"x\"}"), FM_EFORMAT, {"layout.json: component x has no dtype"}},
        {LAYOUT("512", "3", "4", PART("x", "0", "4", "I4", "[1,1]")), FM_EUNSUPPORTED, {"layout.json: component x is of type I4"}},
        {LAYOUT("512", "3", "4", PART("x", "-1", "4", "U32", "[1,1]")), FM_EFORMAT, {"component x has no offset and size"}},
        {LAYOUT("512", "3", "4", PART("x", "0", "4", "U32", "[1,-1]")), FM_EFORMAT, {"component x has no shape"}},
        {LAYOUT("512", "3", "4", PART("x", "0", "4", "U32", "[1]")), FM_EFORMAT, {"component x has 1 dimensions, not 2"}},
        {LAYOUT("512", "3", "4", PART("x", "0", "4", "U32", "[3,1,1]")), FM_EFORMAT, {"component x has 3 dimensions, not 2"}},
        {LAYOUT("512", "3", "4", PART("x", "512", "4", "U32", "[1,1]")), FM_EFORMAT, {"component x, 4 bytes at 512, leaves the 512 bytes of an expert"}},
        {LAYOUT("512", "3", "4", PART("x", "500", "16", "U32", "[4,1]")), FM_EFORMAT, {"component x, 16 bytes at 500, leaves"}},
        {LAYOUT("512", "3", "4", PART("x", "9223372036854775807", "9223372036854775807", "U32", "[1,1]")), FM_EFORMAT, {"component x", "leaves"}},
        {LAYOUT("512", "3", "4", GATE "," PART("x", "255", "4", "U32", "[1,1]")), FM_EFORMAT, {"gate_proj.weight, at 0, and x, at 255, overlap"}},
        {LAYOUT("512", "3", "4", GATE "," PART("gate_proj.weight", "256", "4", "U32", "[1,1]")), FM_EFORMAT, {"gate_proj.weight is there twice"}},
        {LAYOUT("512", "3", "4", PART("x", "0", "8", "U32", "[1,1]")),
         FM_EFORMAT,
         {"layer_01.bin: tensor model.layers.1.mlp.switch_mlp.x has 32 bytes", "U32 [4, 1, 1] is 16"}},
        {LAYOUT("500", "3", "4", GATE), FM_EFORMAT, {"layer_01.bin: it has 2048 bytes, but 4 experts of 500 are 2000"}},
        {LAYOUT("512", "3", "5", GATE), FM_EFORMAT, {"layer_01.bin: it has 2048 bytes, but 5 experts of 512 are 2560"}},
        {LAYOUT("512", "4", "4", GATE), FM_EIO, {"layer_03.bin: No such file"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make();
        tree_text("/packed_experts/layout.json", cases[i].layout);
        check_bad(cases[i].layout, cases[i].code, cases[i].says);
    }
    char many[4000] = "{\"expert_size\":512,\"num_layers\":1,\"num_experts\":1,\"components\":[";
    for (int i = 0; i < 17; i++)
        sprintf(many + strlen(many), "%s{\"name\":\"c%d\",\"offset\":%d,\"size\":4,\"dtype\":\"F32\",\"shape\":[1,1]}", i ? "," : "", i, 4 * i);
    strcat(many, "]}");
    make();
    tree_text("/packed_experts/layout.json", many);
    check_bad("17 components", FM_EUNSUPPORTED, SAYS("layout.json: it has more than 16 components"));
}

static void test_manifests(void) {
    static const struct {
        const char *manifest;
        int code;
        const char *says[3];
    } cases[] = {
        {"no", FM_EFORMAT, {"model_weights.json: it is not JSON"}},
        {"{\"tensors\":[]}", FM_EFORMAT, {"model_weights.json: it has no tensors"}},
        {MANIFEST(DENSE ",\"x\":7"), FM_EFORMAT, {"model_weights.json: tensor x has no dtype"}},
        {MANIFEST(DENSE "," ENTRY("x", "24", "4", "I4", "[1]")), FM_EUNSUPPORTED, {"model_weights.json: tensor x is of type I4"}},
        {MANIFEST(DENSE "," ENTRY("x", "1.5", "4", "F32", "[1]")), FM_EFORMAT, {"model_weights.json: tensor x has no offset and size"}},
        {MANIFEST(DENSE "," ENTRY("x", "24", "4", "F32", "[1,1,1,1,1,1]")), FM_EFORMAT, {"model_weights.json: tensor x has no shape of up to 5"}},
        {MANIFEST(DENSE "," ENTRY("x", "24", "5", "F32", "[1]")), FM_EFORMAT, {"model_weights.bin: tensor x has 5 bytes, but F32 [1] is 4"}},
        {MANIFEST(DENSE "," ENTRY("x", "68", "4", "F32", "[1]")),
         FM_EFORMAT,
         {"model_weights.bin: tensor x lies at bytes 68 to 72, but the file ends at 70: it is 2 bytes short"}},
        {MANIFEST(DENSE "," ENTRY("x", "20", "8", "F32", "[2]")), FM_EFORMAT, {"model_weights.bin: tensors model.layers.0", "x, from 20, overlap"}},
        {MANIFEST(NORM), FM_EIO, {"layer_00.bin: No such file"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        make();
        tree_text("/model_weights.json", cases[i].manifest);
        check_bad(cases[i].manifest, cases[i].code, cases[i].says);
    }
}

static void test_files(void) {
    static const char *const needed[] = {"/model_weights.json", "/model_weights.bin", "/packed_experts/layout.json", "/packed_experts/layer_02.bin"};
    for (int i = 0; i < 4; i++) {
        make();
        remove(at(needed[i]));
        check_bad(needed[i], FM_EIO, SAYS(needed[i], "No such file"));
        make();
        tree_text(needed[i], "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n");
        check_bad(needed[i], FM_EFORMAT, SAYS(needed[i], "it is a Git LFS pointer"));
    }
    make();
    CHECK(truncate(at("/packed_experts/layer_02.bin"), 2047) == 0, "truncate");
    check_bad("cut", FM_EFORMAT, SAYS("layer_02.bin: it has 2047 bytes, but 4 experts of 512 are 2048"));
    CHECK(truncate(at("/packed_experts/layer_02.bin"), 2049) == 0, "truncate");
    check_bad("long", FM_EFORMAT, SAYS("layer_02.bin: it has 2049 bytes"));
    make();
    CHECK(truncate(at("/model_weights.bin"), 69) == 0, "truncate");
    check_bad("cut", FM_EFORMAT, SAYS("model_weights.bin: tensor model.norm.weight lies at bytes 64 to 70, but the file ends at 69: it is 1 bytes short"));
}

int main(void) {
    tree_open();
    test_good();
    test_here();
    test_layouts();
    test_manifests();
    test_files();
    return TEST_END();
}
