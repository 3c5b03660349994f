/* batch.c: several prompts at once, a session each: an expert that two of them need is read and computed once, and each answer is what it would be alone.  batch MODEL PROMPT… */
#include <flash_moe.h>
#include <stdio.h>
#include <string.h>

enum { MOST = 16, TOKENS = 24 };

typedef struct batch {
    fm_engine *engine;
    fm_session *sessions[MOST];
    int32_t *prompts[MOST], next[MOST], made[MOST][TOKENS];
    int n, n_made[MOST];
} batch;

static int open_all(batch *b, char **prompts, fm_error *err) {
    fm_piece pieces[MOST];
    for (int i = 0; i < b->n; i++) {
        int n = fm_engine_encode(b->engine, prompts[i], strlen(prompts[i]), false, &b->prompts[i], err), rc = n;
        if (rc < 0 || (rc = fm_session_open(&b->sessions[i], b->engine, err)) < 0) return rc;
        pieces[i] = (fm_piece){b->sessions[i], b->prompts[i], n, FM_LOGITS_LAST};
    }
    return fm_engine_feed(b->engine, pieces, b->n, NULL, NULL, err);
}

/* The likeliest token of each session that has not ended goes into the next batch. */
static int step(batch *b, fm_error *err) {
    fm_piece pieces[MOST];
    int n = 0, vocab = fm_engine_info(b->engine)->vocab;
    for (int i = 0; i < b->n; i++) {
        const float *logits = fm_session_logits(b->sessions[i]);
        int32_t best = 0;
        if (b->n_made[i] == TOKENS || b->next[i] < 0) continue;
        for (int32_t id = 1; id < vocab; id++) best = logits[id] > logits[best] ? id : best;
        b->next[i] = fm_engine_token_is_eos(b->engine, best) ? -1 : best;
        if (b->next[i] < 0) continue;
        b->made[i][b->n_made[i]++] = best;
        pieces[n++] = (fm_piece){b->sessions[i], &b->next[i], 1, FM_LOGITS_LAST};
    }
    return n ? fm_engine_feed(b->engine, pieces, n, NULL, NULL, err) : 0;
}

int main(int argc, char **argv) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    batch b = {.n = argc - 2};
    fm_error err = {0};
    if (b.n < 1 || b.n > MOST) return 2;
    options.n_sessions = b.n;
    int rc = fm_engine_open(&b.engine, argv[1], &options, &err);
    if (rc >= 0) rc = open_all(&b, argv + 2, &err);
    while (rc > 0) rc = step(&b, &err);
    for (int i = 0; i < b.n && rc == 0; i++) {
        printf("%s|", argv[2 + i]);
        for (int j = 0; j < b.n_made[i]; j++) {
            const char *bytes;
            int n = fm_engine_token_bytes(b.engine, b.made[i][j], &bytes);
            printf("%.*s", n, bytes);
        }
        printf("\n");
    }
    if (rc < 0) fprintf(stderr, "%s.\n", err.message);
    for (int i = 0; i < b.n; i++) {
        fm_free(b.prompts[i]);
        fm_session_close(&b.sessions[i]);
    }
    fm_engine_close(&b.engine);
    return rc < 0;
}
