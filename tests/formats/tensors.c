/* The table itself: many names, names that are there twice, tensors that lie apart (strided), and arithmetic at the end of 64 bits. */
#include "formats/tensors.h"

#include "formats/files.h"

enum { MANY = 20000 };

static void test_many(void) {
    fm_tensors t = {0};
    char name[64];
    tree_text("/data", "01234567");
    MUST(fm_tensors_add_file(&t, at("/data"), err));
    CHECK(!fm_tensors_find(&t, "x"), "found without an index");
    MUST(fm_tensors_finish(&t, err));
    CHECK(!fm_tensors_find(&t, "x"), "found in an empty table");
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "model.layers.%d.x", i);
        MUST(fm_tensors_add(&t, name, &(fm_tensor){.dtype = FM_U8, .n_dims = 1, .shape = {1}, .offset = (uint64_t)i % 8, .bytes = 1}, err));
    }
    MUST(fm_tensors_finish(&t, err));
    int wrong = 0;
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "model.layers.%d.x", i);
        const fm_tensor *x = fm_tensors_find(&t, name);
        wrong += !x || x != &t.tensors[i] || strcmp(x->name, name);
        snprintf(name, sizeof name, "model.layers.%d.y", i);
        wrong += fm_tensors_find(&t, name) != NULL;
    }
    CHECK(wrong == 0, "%d of %d look-ups are wrong", wrong, 2 * MANY);
    fm_error e = {0};
    tree_text("/more", "8");
    MUST(fm_tensors_add_file(&t, at("/more"), err));
    MUST(fm_tensors_add(&t, "model.layers.7.x", &(fm_tensor){.file = 1, .dtype = FM_U8, .n_dims = 1, .shape = {1}, .bytes = 1}, err));
    check_error("twice", fm_tensors_finish(&t, &e), &e, FM_EFORMAT, (const char *const[]){"tensor model.layers.7.x is there twice", "/data", "/more", NULL});
    fm_tensors_close(&t);
}

/* shape [4][2] of U8, its rows `stride` apart, in a file of 100 bytes. */
static void test_strides(void) {
    static const struct {
        uint64_t offset, stride, n;
        const char *says; /* NULL: it fits */
    } cases[] = {
        {0, 32, 4, NULL},
        {2, 32, 4, NULL},
        {3, 32, 4, "lies at bytes 3 to 101, but the file ends at 100: it is 1 bytes short"},
        {0, 33, 4, "lies at bytes 0 to 101"},
        {98, 32, 1, NULL},
        {99, 32, 1, "lies at bytes 99 to 101"},
        {100, 32, 0, NULL},
        {0, UINT64_MAX, 4, "lies at bytes 0 to"},
        {0, UINT64_MAX / 3, 4, "lies at bytes 0 to"},
        {0, UINT64_MAX / 3 + 1, 4, "lies at bytes 0 to"}, /* times 3 it is 2 */
        {UINT64_MAX - 1, 1, 2, "lies at bytes 18446744073709551614 to"},
        {UINT64_MAX, 0, 4, "lies at bytes 18446744073709551615 to"},
    };
    static uint8_t data[100];
    tree_write("/strided", data, sizeof data);
    fm_tensors t = {0};
    MUST(fm_tensors_add_file(&t, at("/strided"), err));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_error e = {0};
        fm_tensor x = {.dtype = FM_U8, .n_dims = 2, .shape = {cases[i].n, 2}, .offset = cases[i].offset, .bytes = 2 * cases[i].n, .stride = cases[i].stride};
        int rc = fm_tensors_add(&t, "x", &x, &e);
        if (cases[i].says) check_error(cases[i].says, rc, &e, FM_EFORMAT, (const char *const[]){"/strided: tensor x", cases[i].says, NULL});
        if (!cases[i].says) CHECK(rc == 0, "case %zu: %s", i, e.message);
    }
    fm_tensors_close(&t);
}

int main(void) {
    tree_open();
    test_many();
    test_strides();
    return TEST_END();
}
