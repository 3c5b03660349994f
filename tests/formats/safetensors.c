/* One safetensors file: what is read of good ones, and a sentence for each way to be bad. */
#include "formats/safetensors.h"

#include "formats/files.h"

/* Tensors out of order, with a hole, an empty one inside another's bytes, a scalar, metadata, and spaces at the end as writers pad. */
static void test_good(void) {
    const char *header = "{\"__metadata__\":{\"format\":\"pt\",\"b\":\"x\"},"
                         "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[16,40]},"
                         "\"a.weight\":{\"dtype\":\"BF16\",\"shape\":[1,2,1,4,1],\"data_offsets\":[0,16]},"
                         "\"none\":{\"dtype\":\"U32\",\"shape\":[4,0],\"data_offsets\":[20,20]},"
                         "\"end\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[50,50]},"
                         "\"one\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[42,50]}}   ";
    write_safetensors("/good.safetensors", header, 50);
    fm_tensors t = {0};
    MUST(fm_safetensors_add(&t, at("/good.safetensors"), err));
    MUST(fm_tensors_finish(&t, err));
    uint64_t data = 8 + strlen(header);
    CHECK(t.n_files == 1 && t.n_tensors == 5, "%d files, %d tensors", t.n_files, t.n_tensors);
    const fm_tensor *b = fm_tensors_find(&t, "b"), *a = fm_tensors_find(&t, "a.weight"), *none = fm_tensors_find(&t, "none"), *one = fm_tensors_find(&t, "one");
    CHECK(a && b && none && one && fm_tensors_find(&t, "end"), "one is not found");
    CHECK(!fm_tensors_find(&t, "__metadata__") && !fm_tensors_find(&t, "") && !fm_tensors_find(&t, "B"), "what is not there is found");
    CHECK(b->dtype == FM_F32 && b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->offset == data + 16 && b->bytes == 24 && b->stride == 0, "b");
    CHECK(a->dtype == FM_BF16 && a->n_dims == 5 && a->shape[1] == 2 && a->shape[3] == 4 && a->offset == data && a->bytes == 16, "a");
    CHECK(none->bytes == 0 && none->n_dims == 2 && one->n_dims == 0 && one->bytes == 8 && one->offset == data + 42, "none, one");
    uint8_t byte;
    MUST(fm_file_read(&t.files[b->file], &byte, 1, b->offset + 5, err));
    CHECK(byte == 21, "byte 5 of b is %d", byte);
    fm_tensors_close(&t);
    CHECK(t.n_files == 0 && !t.tensors && !fm_tensors_find(&t, "b"), "closed");
    fm_tensors_close(&t);
}

static void test_types(void) {
    static const struct {
        const char *name;
        fm_dtype dtype;
        int bytes;
    } types[] = {{"F32", FM_F32, 4}, {"F16", FM_F16, 2},         {"BF16", FM_BF16, 2}, {"U32", FM_U32, 4}, {"U8", FM_U8, 1},
                 {"I8", FM_I8, 1},   {"F8_E4M3", FM_F8_E4M3, 1}, {"I32", FM_I32, 4},   {"I64", FM_I64, 8}, {"U16", FM_U16, 2},
                 {"I16", FM_I16, 2}, {"F64", FM_F64, 8},         {"BOOL", FM_BOOL, 1}};
    CHECK(sizeof types / sizeof *types == FM_N_DTYPES, "a type is not tested");
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char header[200];
        int bytes = 3 * types[i].bytes;
        snprintf(header, sizeof header, "{\"x\":{\"dtype\":\"%s\",\"shape\":[3],\"data_offsets\":[0,%d]}}", types[i].name, bytes);
        write_safetensors("/type", header, (size_t)bytes);
        fm_tensors t = {0};
        MUST(fm_safetensors_add(&t, at("/type"), err));
        CHECK(t.tensors[0].dtype == types[i].dtype && fm_dtype_bytes(types[i].dtype) == (size_t)types[i].bytes, "%s", types[i].name);
        CHECK(!strcmp(fm_dtype_name(types[i].dtype), types[i].name), "%s", types[i].name);
        fm_tensors_close(&t);
    }
}

#define T(dtype, shape, offsets) "{\"t.x\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

static const struct {
    const char *header;
    size_t n_data;
    int code;
    const char *says[4];
} bad_headers[] = {
    /* JSON */
    {"", 0, FM_EFORMAT, {"/bad:", "its header is not JSON"}},
    {"   ", 0, FM_EFORMAT, {"/bad:", "its header is not JSON"}},
    {"{", 0, FM_EFORMAT, {"/bad:", "its header is not JSON", "byte 1"}},
    {"{]", 0, FM_EFORMAT, {"/bad:", "its header is not JSON", "byte 2"}},
    {"[]", 0, FM_EFORMAT, {"/bad:", "its header is not a JSON object"}},
    {"{} {}", 0, FM_EFORMAT, {"/bad:", "its header is not JSON", "end of file expected"}},
    {"{\"a\":1e999}", 0, FM_EFORMAT, {"/bad:", "its header is not JSON", "overflow"}},
    {"{\"a\\u0000b\":{}}", 0, FM_EFORMAT, {"/bad:", "its header is not JSON", "NUL"}},
    {"{\"__metadata__\":{\"a\":\"\\u0000\"}}", 0, FM_EFORMAT, {"/bad:", "its header is not JSON"}},
    {"{\"a\xff\":{}}", 0, FM_EFORMAT, {"/bad:", "its header is not JSON", "0xff"}},
    {"{\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]}}",
     0,
     FM_EFORMAT,
     {"duplicate object key"}},
    {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, FM_EFORMAT, {"duplicate object key"}},
    /* what is missing or of the wrong kind */
    {"{\"t.x\":7}", 0, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {"{\"t.x\":{\"shape\":[1],\"data_offsets\":[0,1]}}", 1, FM_EFORMAT, {"/bad: tensor t.x lacks a dtype"}},
    {"{\"t.x\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {"{\"t.x\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {T("U8", "1", "[0,1]"), 1, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {T("U8", "[1]", "[0]"), 1, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {T("U8", "[1]", "[0,1,2]"), 1, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {T("U8", "[1]", "\"0-1\""), 1, FM_EFORMAT, {"/bad: tensor t.x lacks"}},
    {T("Q7", "[1]", "[0,1]"), 1, FM_EUNSUPPORTED, {"/bad: tensor t.x is of type Q7"}},
    {T("bf16", "[1]", "[0,2]"), 2, FM_EUNSUPPORTED, {"/bad: tensor t.x is of type bf16"}},
    {T("U8", "[1,1,1,1,1,1]", "[0,1]"), 1, FM_EUNSUPPORTED, {"/bad: tensor t.x has 6 dimensions, more than 5"}},
    /* numbers */
    {T("U8", "[-1]", "[0,1]"), 1, FM_EFORMAT, {"/bad: tensor t.x has a shape that is not made of whole numbers"}},
    {T("U8", "[1.0]", "[0,1]"), 1, FM_EFORMAT, {"t.x has a shape that is not made of whole numbers"}},
    {T("U8", "[true]", "[0,1]"), 1, FM_EFORMAT, {"t.x has a shape that is not made of whole numbers"}},
    {T("U8", "[\"1\"]", "[0,1]"), 1, FM_EFORMAT, {"t.x has a shape that is not made of whole numbers"}},
    {T("U8", "[1]", "[-1,0]"), 1, FM_EFORMAT, {"/bad: tensor t.x has data_offsets that are not whole numbers"}},
    {T("U8", "[1]", "[0,1e0]"), 1, FM_EFORMAT, {"t.x has data_offsets that are not whole numbers"}},
    {T("U8", "[1]", "[null,1]"), 1, FM_EFORMAT, {"t.x has data_offsets that are not whole numbers"}},
    {T("U8", "[1]", "[0,18446744073709551616]"), 1, FM_EFORMAT, {"its header is not JSON", "too big integer"}},
    {T("U8", "[9223372036854775808]", "[0,1]"), 1, FM_EFORMAT, {"its header is not JSON", "too big integer"}},
    {T("U8", "[1]", "[1,0]"), 1, FM_EFORMAT, {"/bad: tensor t.x has data_offsets 1 to 0: it ends before it begins"}},
    /* places */
    {T("BF16", "[3]", "[0,5]"), 5, FM_EFORMAT, {"/bad: tensor t.x has 5 bytes, but BF16 [3] is 6"}},
    {T("F32", "[2,3]", "[0,25]"), 25, FM_EFORMAT, {"/bad: tensor t.x has 25 bytes, but F32 [2, 3] is 24"}},
    {T("F32", "[]", "[0,0]"), 0, FM_EFORMAT, {"/bad: tensor t.x has 0 bytes, but F32 [] is 4"}},
    {T("U8", "[4294967296,4294967296]", "[0,0]"), 0, FM_EFORMAT, {"/bad: tensor t.x is U8 [4294967296, 4294967296], which is more than any file holds"}},
    {T("F32", "[4611686018427387905]", "[0,4]"), 4, FM_EFORMAT, {"tensor t.x is F32 [4611686018427387905], which is more than any file holds"}},
    {T("U8", "[9]", "[0,9]"), 8, FM_EFORMAT, {"/bad: tensor t.x lies at bytes", "it is 1 bytes short"}},
    {T("U8", "[4]", "[100,104]"), 4, FM_EFORMAT, {"/bad: tensor t.x lies at bytes", "it is 100 bytes short"}},
    {T("U8", "[0]", "[5,5]"), 4, FM_EFORMAT, {"/bad: tensor t.x lies at bytes", "it is 1 bytes short"}},
    {T("U8", "[1]", "[9223372036854775806,9223372036854775807]"), 1, FM_EFORMAT, {"/bad: tensor t.x lies at bytes"}},
    {T("U8", "[3]", "[0,3]"), 7, FM_EFORMAT, {"/bad: 4 bytes follow its last tensor, which ends at "}},
    {"{}", 7, FM_EFORMAT, {"/bad: 7 bytes follow its last tensor, which ends at 10"}},
};

static void test_headers(void) {
    for (size_t i = 0; i < sizeof bad_headers / sizeof *bad_headers; i++) {
        fm_tensors t = {0};
        fm_error e = {0};
        write_safetensors("/bad", bad_headers[i].header, bad_headers[i].n_data);
        check_error(bad_headers[i].header, fm_safetensors_add(&t, at("/bad"), &e), &e, bad_headers[i].code, bad_headers[i].says);
        CHECK(fm_safetensors_add(&t, at("/bad"), NULL) == bad_headers[i].code, "without an error");
        fm_tensors_close(&t);
    }
}

/* Overlaps, whatever lies between the two. */
static void test_overlaps(void) {
    static const struct {
        int range[4][2];
        const char *says; /* NULL: none overlap */
    } cases[] = {
        {{{0, 10}, {10, 20}, {20, 30}, {30, 40}}, NULL},
        {{{30, 40}, {0, 10}, {20, 30}, {12, 18}}, NULL},
        {{{0, 40}, {0, 0}, {7, 7}, {40, 40}}, NULL},
        {{{0, 10}, {9, 20}, {20, 30}, {30, 40}}, "tensors t0,"},
        {{{0, 10}, {30, 40}, {20, 31}, {10, 20}}, "tensors t2,"},
        {{{0, 40}, {5, 6}, {6, 7}, {7, 8}}, "tensors t0,"},
        {{{0, 20}, {10, 10}, {12, 40}, {40, 40}}, "tensors t0,"},
        {{{0, 40}, {0, 40}, {40, 40}, {0, 0}}, "overlap"},
        {{{1, 2}, {1, 40}, {0, 1}, {40, 40}}, "overlap"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char header[600] = "{";
        for (int k = 0; k < 4; k++) {
            const int *r = cases[i].range[k];
            size_t n = strlen(header);
            snprintf(header + n, sizeof header - n, "%s\"t%d\":{\"dtype\":\"U8\",\"shape\":[%d],\"data_offsets\":[%d,%d]}", k ? "," : "", k, r[1] - r[0], r[0],
                     r[1]);
        }
        strcat(header, "}");
        write_safetensors("/places", header, 40);
        fm_tensors t = {0};
        fm_error e = {0};
        int rc = fm_safetensors_add(&t, at("/places"), &e);
        if (cases[i].says) {
            check_error(header, rc, &e, FM_EFORMAT, (const char *const[]){"/places: ", "overlap", cases[i].says, NULL});
        } else {
            CHECK(rc == 0 && t.n_tensors == 4, "case %zu: %s", i, e.message);
        }
        fm_tensors_close(&t);
    }
}

/* Files that end too soon or are no safetensors files at all. */
static void test_files(void) {
    static const char good[] = T("U8", "[8]", "[0,8]");
    const uint64_t n = sizeof good - 1;
    char number[2][32];
    static const struct {
        uint64_t length; /* 0: the header's own */
        size_t keep;     /* of the header, and of 8 bytes of data if it is all of it */
        const char *says;
    } cases[] = {
        {0, 10, "its header should have"},
        {sizeof good - 1 + 9, 1000, "its header should have"}, /* one more than there are after the length */
        {(uint64_t)1 << 27, 1000, "its header should have 134217728 bytes"},
        {(uint64_t)1 << 63, 1000, "its header should have 9223372036854775808 bytes"},
        {UINT64_MAX, 1000, "its header should have 18446744073709551615 bytes"},
        {UINT64_MAX - 7, 1000, "its header should have 18446744073709551608 bytes"},
        {7, 1000, "its header is not JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_tensors t = {0};
        fm_error e = {0};
        bool whole = cases[i].keep > n;
        write_parts("/file", cases[i].length ? cases[i].length : n, good, whole ? n : cases[i].keep, whole ? 8 : 0);
        check_error(cases[i].says, fm_safetensors_add(&t, at("/file"), &e), &e, FM_EFORMAT, (const char *const[]){"/file: ", cases[i].says, NULL});
        fm_tensors_close(&t);
    }
    for (size_t cut = 0; cut <= 8; cut++) { /* of the data */
        fm_tensors t = {0};
        fm_error e = {0};
        write_parts("/file", n, good, n, 8 - cut);
        int rc = fm_safetensors_add(&t, at("/file"), &e);
        snprintf(number[0], sizeof number[0], "it is %zu bytes short", cut);
        snprintf(number[1], sizeof number[1], "ends at %zu", (size_t)n + 16 - cut);
        if (cut)
            check_error("cut", rc, &e, FM_EFORMAT, (const char *const[]){"/file: tensor t.x", number[0], number[1], NULL});
        else
            CHECK(rc == 0, "%s", e.message);
        fm_tensors_close(&t);
    }
}

static void test_texts(void) {
    static const struct {
        const char *text;
        int code;
        const char *says;
    } texts[] = {
        {"", FM_EFORMAT, "/text: it has 0 bytes, too few for a safetensors file"},
        {"1234567", FM_EFORMAT, "/text: it has 7 bytes, too few for a safetensors file"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 16971296\n", FM_EFORMAT,
         "/text: it is a Git LFS pointer, not the file: fetch it with git lfs pull"},
        {"<html>404</html>", FM_EFORMAT, "its header should have"},
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        fm_tensors t = {0};
        fm_error e = {0};
        tree_text("/text", texts[i].text);
        check_error(texts[i].text, fm_safetensors_add(&t, at("/text"), &e), &e, texts[i].code, (const char *const[]){texts[i].says, NULL});
        fm_tensors_close(&t);
    }
    fm_tensors t = {0};
    fm_error e = {0};
    check_error("missing", fm_safetensors_add(&t, at("/missing"), &e), &e, FM_EIO, (const char *const[]){"/missing: No such file", NULL});
    check_error("directory", fm_safetensors_add(&t, tree_root, &e), &e, FM_EIO, (const char *const[]){tree_root, "a directory", NULL});
    fm_tensors_close(&t);
}

/* A header of more than 100 MB, in a file that has them (a hole), and JSON that is deep. */
static void test_large(void) {
    const uint64_t over = ((uint64_t)100 << 20) + 1;
    fm_tensors t = {0};
    fm_error e = {0};
    write_parts("/large", over, "", 0, 0);
    CHECK(truncate(at("/large"), (off_t)(8 + over)) == 0, "no hole");
    check_error("large", fm_safetensors_add(&t, at("/large"), &e), &e, FM_EFORMAT,
                (const char *const[]){"/large: a header of 104857601 bytes is more than the 104857600", NULL});
    enum { DEPTH = 100000 };
    char *deep = malloc(DEPTH + 6);
    memcpy(deep, "{\"a\":", 5);
    memset(deep + 5, '[', DEPTH);
    deep[DEPTH + 5] = 0;
    write_safetensors("/deep", deep, 0);
    check_error("deep", fm_safetensors_add(&t, at("/deep"), &e), &e, FM_EFORMAT, (const char *const[]){"/deep: its header is not JSON", "depth", NULL});
    free(deep);
    fm_tensors_close(&t);
}

int main(void) {
    tree_open();
    test_good();
    test_types();
    test_headers();
    test_overlaps();
    test_files();
    test_texts();
    test_large();
    return TEST_END();
}
