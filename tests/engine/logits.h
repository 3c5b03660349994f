/* tests/engine/logits.h: the logits behind each of the tokens that were fed. */
#ifndef FM_TESTS_ENGINE_LOGITS_H
#define FM_TESTS_ENGINE_LOGITS_H

#include "test.h"

typedef struct rows {
    float *data; /* [n][vocab] */
    int vocab;
} rows;

/* An fm_logits_fn with rows as user. */
static inline int rows_keep(void *user, int position, const float *logits) {
    rows *r = user;
    memcpy(r->data + (size_t)position * (size_t)r->vocab, logits, (size_t)r->vocab * sizeof *logits);
    return 0;
}

#endif
