/* perplexity.c: how well a model predicts a text, and the token that surprised it most.  perplexity MODEL FILE */
#include <flash_moe_tools.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct surprise {
    int place;
    int32_t id;
    double nll;
} surprise;

static int note(void *user, int place, int32_t id, double nll, double nll_b) {
    surprise *most = user;
    (void)nll_b;
    if (nll > most->nll) *most = (surprise){place, id, nll};
    return 0;
}

static int measure(fm_engine *engine, const char *text, size_t bytes, fm_error *err) {
    fm_quality_options options = FM_QUALITY_OPTIONS_INIT;
    fm_perplexity_result result;
    surprise most = {0, 0, 0};
    int32_t *ids;
    int n = fm_engine_encode(engine, text, bytes, true, &ids, err), rc = n;
    if (n < 0) return n;
    options.window = n < 256 ? n : 256;
    options.token = note;
    options.user = &most;
    rc = fm_perplexity(engine, ids, n, &options, &result, err);
    fm_free(ids);
    if (rc < 0) return rc;
    const char *word;
    int length = fm_engine_token_bytes(engine, most.id, &word);
    printf("perplexity %.3f over %d tokens; least expected: \"%.*s\" at token %d\n", result.perplexity, result.n_tokens, length, word, most.place);
    return 0;
}

int main(int argc, char **argv) {
    static char text[1 << 20];
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    fm_engine *engine = NULL;
    fm_error err = {0};
    FILE *file = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (!file) return 2;
    size_t bytes = fread(text, 1, sizeof text, file);
    fclose(file);
    int rc = fm_engine_open(&engine, argv[1], &options, &err);
    if (rc >= 0) rc = measure(engine, text, bytes, &err);
    if (rc < 0) fprintf(stderr, "%s.\n", err.message);
    fm_engine_close(&engine);
    return rc < 0;
}
