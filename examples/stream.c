/* stream.c: a token at a time, with what each one cost and how sure the model was.  stream MODEL PROMPT */
#include <flash_moe.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The likelihood of token id under logits [n]. */
static double likelihood(const float *logits, int n, int32_t id) {
    double most = logits[0], sum = 0;
    for (int i = 1; i < n; i++) most = logits[i] > most ? logits[i] : most;
    for (int i = 0; i < n; i++) sum += exp(logits[i] - most);
    return exp(logits[id] - most) / sum;
}

static int stream(fm_engine *engine, fm_session *session, fm_sampler *sampler, const char *prompt, fm_error *err) {
    int vocab = fm_engine_info(engine)->vocab;
    uint64_t before = 0;
    int32_t *ids;
    int rc = fm_engine_encode(engine, prompt, strlen(prompt), false, &ids, err);
    if (rc < 0) return rc;
    rc = fm_session_feed(session, ids, rc, FM_LOGITS_LAST, NULL, NULL, err);
    fm_free(ids);
    for (int i = 0; i < 16 && rc >= 0; i++) {
        const float *logits = fm_session_logits(session);
        fm_stats stats;
        const char *bytes;
        int32_t id = fm_sampler_choose(sampler, logits, err);
        if (id < 0) return id;
        if (fm_engine_token_is_eos(engine, id)) break;
        int n = fm_engine_token_bytes(engine, id, &bytes);
        fm_engine_stats(engine, &stats);
        printf("%-14.*s %3.0f %%  %6.1f KB from the disk\n", n, bytes, 100 * likelihood(logits, vocab, id), (double)(stats.disk_bytes - before) / 1e3);
        before = stats.disk_bytes;
        fm_sampler_feed(sampler, id);
        rc = fm_session_feed(session, &id, 1, FM_LOGITS_LAST, NULL, NULL, err);
    }
    return rc < 0 ? rc : 0;
}

int main(int argc, char **argv) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    fm_sampling greedy = FM_SAMPLING_INIT;
    fm_engine *engine = NULL;
    fm_session *session = NULL;
    fm_sampler *sampler = NULL;
    fm_error err = {0};
    int rc;
    if (argc != 3) return 2;
    if ((rc = fm_engine_open(&engine, argv[1], &options, &err)) < 0) goto end;
    if ((rc = fm_session_open(&session, engine, &err)) < 0) goto end;
    if ((rc = fm_sampler_open(&sampler, fm_engine_info(engine)->vocab, &greedy, &err)) < 0) goto end;
    rc = stream(engine, session, sampler, argv[2], &err);
end:
    if (rc < 0) fprintf(stderr, "%s.\n", err.message);
    fm_sampler_close(&sampler);
    fm_session_close(&session);
    fm_engine_close(&engine);
    return rc < 0;
}
