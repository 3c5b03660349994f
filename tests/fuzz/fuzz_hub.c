/* tests/fuzz/fuzz_hub.c: any bytes as what the hub answers, the listing of a model's files, and behind a 0 byte its index of shards: what is accepted names only plain files. */
#include <assert.h>
#include <string.h>

#include "hub/answer.h"
#include "hub/name.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const fm_hub_listing *l, bool selected) {
    bool weights = false;
    assert(fm_hub_is_hash(l->commit, 40));
    for (int i = 0; i < l->n_files; i++) {
        const fm_hub_file *f = &l->files[i];
        assert(fm_hub_is_file(f->name) && f->name[0] != '/' && !strstr(f->name, "/../") && strncmp(f->name, "../", 3));
        assert(!f->hash[0] || fm_hub_is_hash(f->hash, 40) || fm_hub_is_hash(f->hash, 64));
        assert(f->weights >= weights); /* they come last */
        weights = f->weights && selected;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *text = (const char *)data, *index = memchr(text, 0, size);
    size_t n = index ? (size_t)(index - text) : size;
    fm_hub_listing listing;
    fm_error err = {0};
    if (fm_hub_listing_parse(&listing, "org/name", text, n, &err) < 0) {
        assert(err.code < 0 && err.message[0] && !listing.files && !listing.n_files);
        return 0;
    }
    check(&listing, false);
    int rc = fm_hub_listing_select(&listing, "org/name", index ? index + 1 : NULL, index ? size - n - 1 : 0, &err);
    assert(rc == 0 || (rc < 0 && err.message[0]));
    if (rc == 0) {
        assert(listing.n_files > 0);
        check(&listing, true);
    }
    fm_hub_listing_close(&listing);
    return 0;
}
