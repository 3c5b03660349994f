/* tests/fuzz/fuzz_rules.c: any bytes as a file of rules for pack: what is accepted has only values that matrices can have. */
#include <assert.h>

#include "prepare/pack/pack.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    fm_rules rules;
    fm_error err = {0};
    if (fm_rules_parse(&rules, "rules.json", (const char *)data, size, &err) < 0) {
        assert(err.code < 0 && err.message[0] && !rules.rules && !rules.n);
        return 0;
    }
    for (int i = 0; i < rules.n; i++) {
        const fm_rule *r = &rules.rules[i];
        assert(r->tensors && r->first >= 0 && r->first <= r->last && (r->search >= -1 && r->search <= 1));
        assert(r->bits == -1 || r->bits == FM_BITS_KEEP || r->bits == FM_BITS_BF16 || (r->bits >= 2 && r->bits <= 8 && r->bits != 7));
        assert(r->group == -1 || r->group == 32 || r->group == 64 || r->group == 128);
    }
    fm_rules_close(&rules);
    return 0;
}
