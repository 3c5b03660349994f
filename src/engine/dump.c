/* engine/dump.c: writing down what is computed, for comparison with another implementation. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "formats/safetensors.h"

typedef struct dump {
    int hidden, vocab, n;
    float *streams; /* [1 + n_layers][n][hidden] */
    float *logits;  /* [n][vocab] */
} dump;

static void keep_stream(void *user, const char *name, int position, int n, int hidden, const float *x) {
    dump *d = user;
    int which = strcmp(name, "embed") ? 1 + atoi(name + strlen("layer.")) : 0;
    memcpy(d->streams + ((size_t)which * (size_t)d->n + (size_t)position) * (size_t)hidden, x, (size_t)n * (size_t)hidden * sizeof *x);
}

static int keep_logits(void *user, int position, const float *logits) {
    dump *d = user;
    memcpy(d->logits + (size_t)position * (size_t)d->vocab, logits, (size_t)d->vocab * sizeof *logits);
    return 0;
}

static int write_dump(const dump *d, int n_layers, const int32_t *ids, const char *path, fm_error *err) {
    size_t count = (size_t)n_layers + 3, stream = (size_t)d->n * (size_t)d->hidden;
    fm_safetensors_entry *entries = calloc(count, sizeof *entries);
    char(*names)[24] = calloc(count, sizeof *names);
    if (!entries || !names) {
        free(entries);
        free(names);
        return fm_fail(err, FM_ENOMEM, "no memory for %zu tensors", count);
    }
    for (int i = 0; i <= n_layers; i++) {
        snprintf(names[i], sizeof names[i], "layer.%d", i - 1);
        entries[i] = (fm_safetensors_entry){.name = i ? names[i] : "embed",
                                            .dtype = FM_F32,
                                            .n_dims = 2,
                                            .shape = {(uint64_t)d->n, (uint64_t)d->hidden},
                                            .data = d->streams + (size_t)i * stream};
    }
    entries[n_layers + 1] = (fm_safetensors_entry){.name = "ids", .dtype = FM_I32, .n_dims = 1, .shape = {(uint64_t)d->n}, .data = ids};
    entries[n_layers + 2] =
        (fm_safetensors_entry){.name = "logits", .dtype = FM_F32, .n_dims = 2, .shape = {(uint64_t)d->n, (uint64_t)d->vocab}, .data = d->logits};
    int rc = fm_safetensors_write(path, entries, (int)count, err);
    free(entries);
    free(names);
    return rc;
}

int fm_dump(fm_engine *e, const int32_t *ids, int n, const char *path, fm_error *err) {
    dump d = {.hidden = e->model->description.hidden, .vocab = e->model->description.vocab, .n = n};
    int n_layers = e->model->description.n_layers;
    fm_session *session = NULL;
    int rc = fm_session_open(&session, e, err);
    if (rc < 0) return rc;
    d.streams = calloc((size_t)(n_layers + 1) * (size_t)(n > 0 ? n : 1) * (size_t)d.hidden, sizeof *d.streams);
    d.logits = calloc((size_t)(n > 0 ? n : 1) * (size_t)d.vocab, sizeof *d.logits);
    if (!d.streams || !d.logits) {
        rc = fm_fail(err, FM_ENOMEM, "no memory for the outputs of %d tokens", n);
        goto done;
    }
    fm_session_trace(session, keep_stream, &d);
    rc = fm_session_feed(session, ids, n, FM_LOGITS_ALL, keep_logits, &d, err);
    if (rc >= 0) rc = write_dump(&d, n_layers, ids, path, err);
done:
    fm_session_close(&session);
    free(d.streams);
    free(d.logits);
    return rc < 0 ? rc : 0;
}
