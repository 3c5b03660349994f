/* The list of tables and finding one by name. */
#include "cpu/isa/kernels.h"
#include "test.h"

int main(void) {
    const fm_kernels *list[8];
    int n = fm_kernels_list(list, 8);
    CHECK(n >= 1 && n <= 8, "%d tables", n);
    CHECK(list[0] == &fm_kernels_scalar, "the first is %s", list[0]->name);
    CHECK(fm_kernels_list(list, 1) == 1, "max holds");
    n = fm_kernels_list(list, 8);
    fm_error err = {0};
    CHECK(fm_kernels_find(NULL, &err) == list[n - 1], "the best one");
    CHECK(fm_kernels_find("", &err) == list[n - 1], "the best one");
    CHECK(fm_kernels_find("avx", &err) == NULL, "no prefix is taken");
    CHECK(err.code == FM_EINVAL, "%d", err.code);
    for (int i = 0; i < n; i++) {
        CHECK(fm_kernels_find(list[i]->name, &err) == list[i], "%s", list[i]->name);
        CHECK(strstr(err.message, list[i]->name), "%s does not name %s", err.message, list[i]->name);
        void (*const *entry)(void) = (void (*const *)(void))(const void *)(&list[i]->quantize);
        for (; (const void *)entry < (const void *)(list[i] + 1); entry++) CHECK(*entry != NULL, "%s has an empty entry", list[i]->name);
    }
    CHECK(fm_kernels_find("avx", NULL) == NULL, "err may be NULL");
    return TEST_END();
}
