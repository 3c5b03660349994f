/* A snapshot directory: which files are read, and that index and shards agree. */
#include "formats/safetensors.h"

#include "formats/files.h"

/* A file of one-byte tensors, their names separated by spaces. */
static void shard(const char *file, const char *names) {
    char header[600] = "{", copy[200];
    int n = 0;
    snprintf(copy, sizeof copy, "%s", names);
    for (char *name = strtok(copy, " "); name; name = strtok(NULL, " "), n++) {
        size_t used = strlen(header);
        snprintf(header + used, sizeof header - used, "%s\"%s\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[%d,%d]}", n ? "," : "", name, n, n + 1);
    }
    strcat(header, "}");
    write_safetensors(file, header, (size_t)n);
}

static void index_text(const char *map) {
    char text[600];
    snprintf(text, sizeof text, "{\"metadata\":{\"total_size\":3},\"weight_map\":%s}", map);
    tree_text("/model.safetensors.index.json", text);
}

/* The directory must give these tensors, n_files files being opened. */
static void check_good(const char *what, const char *names, int n_files) {
    fm_tensors t = {0};
    fm_error e = {0};
    char copy[200];
    int n = 0;
    int rc = fm_safetensors_add_snapshot(&t, tree_root, &e);
    CHECK(rc >= 0, "%s: %s", what, e.message);
    MUST(fm_tensors_finish(&t, err));
    snprintf(copy, sizeof copy, "%s", names);
    for (char *name = strtok(copy, " "); name; name = strtok(NULL, " "), n++) CHECK(fm_tensors_find(&t, name), "%s: %s is not found", what, name);
    CHECK(t.n_tensors == n && t.n_files == n_files, "%s: %d tensors in %d files", what, t.n_tensors, t.n_files);
    fm_tensors_close(&t);
}

static void check_bad(const char *what, int code, const char *const *says) {
    fm_tensors t = {0};
    fm_error e = {0};
    check_error(what, fm_safetensors_add_snapshot(&t, tree_root, &e), &e, code, says);
    fm_tensors_close(&t);
}
#define SAYS(...)                                                                                                                                              \
    (const char *const[]) { __VA_ARGS__, NULL }

static void test_indexed(void) {
    tree_clear();
    shard("/model-00001-of-00002.safetensors", "a b");
    shard("/model-00002-of-00002.safetensors", "c");
    shard("/other.safetensors", "a b c d"); /* not named */
    index_text("{\"a\":\"model-00001-of-00002.safetensors\",\"c\":\"model-00002-of-00002.safetensors\",\"b\":\"model-00001-of-00002.safetensors\"}");
    check_good("two shards", "a b c", 2);
    index_text("{\"a\":\"model-00001-of-00002.safetensors\"}");
    check_good("a tensor that the index leaves out", "a b", 1);

    index_text("{\"a\":\"model-00001-of-00002.safetensors\",\"c\":\"model-00003-of-00002.safetensors\"}");
    check_bad("a shard is missing", FM_EIO, SAYS("/model-00003-of-00002.safetensors: No such file"));
    index_text("{\"a\":\"model-00002-of-00002.safetensors\",\"b\":\"model-00001-of-00002.safetensors\"}");
    check_bad("in another", FM_EFORMAT,
              SAYS("index.json: tensor a should be in model-00002-of-00002.safetensors, but it is in model-00001-of-00002.safetensors"));
    index_text("{\"a\":\"model-00001-of-00002.safetensors\",\"z\":\"model-00001-of-00002.safetensors\"}");
    check_bad("in none", FM_EFORMAT, SAYS("index.json: tensor z should be in model-00001-of-00002.safetensors, but it is in none of the files"));
    index_text("{\"a\":\"model-00001-of-00002.safetensors\",\"d\":\"other.safetensors\"}");
    check_bad("twice", FM_EFORMAT, SAYS("tensor a is there twice", "/model-00001-of-00002.safetensors", "/other.safetensors"));
    tree_text("/model-00002-of-00002.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n");
    index_text("{\"a\":\"model-00001-of-00002.safetensors\",\"c\":\"model-00002-of-00002.safetensors\"}");
    check_bad("a pointer", FM_EFORMAT, SAYS("/model-00002-of-00002.safetensors: it is a Git LFS pointer"));
}

static void test_bad_index(void) {
    static const char *const names[] = {"\"../a.safetensors\"", "\"/etc/passwd\"", "\"..\"", "\".\"", "\"\"", "7", "null", "\"x/a.safetensors\"", "[\"a\"]"};
    tree_clear();
    shard("/a.safetensors", "a");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char map[100];
        snprintf(map, sizeof map, "{\"a\":%s}", names[i]);
        index_text(map);
        check_bad(names[i], FM_EFORMAT, SAYS("index.json: tensor a is in", "no name of a file beside the index"));
    }
    index_text("{\"a\":\"a.safetensors\",\"a\":\"a.safetensors\"}");
    check_bad("twice in the index", FM_EFORMAT, SAYS("index.json: it is not JSON", "duplicate object key"));
    index_text("{}");
    check_bad("empty", FM_EFORMAT, SAYS("index.json: its weight_map names no tensors"));
    index_text("7");
    check_bad("no map", FM_EFORMAT, SAYS("index.json: its weight_map names no tensors"));
    tree_text("/model.safetensors.index.json", "{\"metadata\":{}}");
    check_bad("no map", FM_EFORMAT, SAYS("index.json: its weight_map names no tensors"));
    tree_text("/model.safetensors.index.json", "{\"weight_map\":\n{\"a\" \"b\"}}");
    check_bad("no JSON", FM_EFORMAT, SAYS("index.json: it is not JSON: line 2"));
    tree_text("/model.safetensors.index.json", "[]");
    check_bad("an array", FM_EFORMAT, SAYS("index.json: it is not a JSON object"));
    tree_text("/model.safetensors.index.json", "");
    check_bad("nothing", FM_EFORMAT, SAYS("index.json: it is not JSON"));
    tree_text("/model.safetensors.index.json", "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n");
    check_bad("a pointer", FM_EFORMAT, SAYS("index.json: it is a Git LFS pointer, not the file"));
}

static void test_plain(void) {
    tree_clear();
    check_bad("empty", FM_EFORMAT, SAYS(tree_root, "it has no safetensors files"));
    tree_text("/.hidden.safetensors", "no");
    tree_text("/model.safetensors.part", "no");
    check_bad("others", FM_EFORMAT, SAYS(tree_root, "it has no safetensors files"));
    shard("/weights.safetensors", "a b");
    check_good("one file of any name", "a b", 1);
    shard("/adapter.safetensors", "c");
    check_bad("two of other names", FM_EFORMAT, SAYS(tree_root, "it has 2 safetensors files, but no model.safetensors.index.json"));
    shard("/model.safetensors", "d");
    check_good("the model's among others", "d", 1);
    shard("/model-00002.safetensors", "e f");
    check_good("all that are the model's", "d e f", 2);
    shard("/model-00003.safetensors", "e");
    fm_tensors t = {0};
    fm_error e = {0};
    int rc = fm_safetensors_add_snapshot(&t, tree_root, &e);
    if (rc >= 0) rc = fm_tensors_finish(&t, &e);
    check_error("the same tensor in two", rc, &e, FM_EFORMAT, SAYS("tensor e is there twice", "/model-00002.safetensors", "/model-00003.safetensors"));
    fm_tensors_close(&t);
    check_error("no directory", fm_safetensors_add_snapshot(&t, at("/none"), &e), &e, FM_EIO, SAYS("/none: No such file"));
    check_error("a file", fm_safetensors_add_snapshot(&t, at("/model.safetensors"), &e), &e, FM_EIO, SAYS("/model.safetensors: Not a directory"));
}

int main(void) {
    tree_open();
    test_indexed();
    test_bad_index();
    test_plain();
    return TEST_END();
}
