/* tests/python/cost.c: a token's cost from C, for tools/python_cost.py: the same loop as a Python stream's. cost MODEL MEMORY THREADS CONTEXT ID…: reads the prompt's ids,
 * prints "ready THREADS CPU EOS…", then for each line "N" on its input decodes N tokens and prints the nanoseconds and the ids. */
#include <flash_moe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MAX_BLOCK 4096
#define MAX_PROMPT 64

typedef struct program {
    fm_engine *engine;
    fm_session *session;
    fm_sampler *sampler;
    fm_error err;
    int32_t token; /* the last one, not computed yet; -1: none */
    char text[64 * MAX_BLOCK];
    size_t n_text;
} program;

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1000000000ll * t.tv_sec + t.tv_nsec;
}

/* Nothing ends the text: tokens that would are not chosen. */
static int open_sampler(program *p) {
    fm_logit_bias bias[16];
    fm_sampling sampling = FM_SAMPLING_INIT;
    int vocab = fm_engine_info(p->engine)->vocab;
    for (int32_t id = 0; id < vocab && sampling.n_bias < 16; id++)
        if (fm_engine_token_is_eos(p->engine, id)) bias[sampling.n_bias++] = (fm_logit_bias){id, -100};
    sampling.bias = bias;
    printf("ready %d %s", fm_engine_n_threads(p->engine), fm_engine_cpu(p->engine));
    for (int i = 0; i < sampling.n_bias; i++) printf(" %d", bias[i].id);
    printf("\n");
    return fm_sampler_open(&p->sampler, vocab, &sampling, &p->err);
}

static int next_token(program *p) {
    int rc;
    const char *bytes;
    if (p->token >= 0 && (rc = fm_session_feed(p->session, &p->token, 1, FM_LOGITS_LAST, NULL, NULL, &p->err)) < 0) return rc;
    int32_t id = fm_sampler_choose(p->sampler, fm_session_logits(p->session), &p->err);
    if (id < 0) return id;
    fm_sampler_feed(p->sampler, id);
    if (fm_engine_token_is_eos(p->engine, id) || fm_session_position(p->session) == fm_engine_plan(p->engine)->context) {
        snprintf(p->err.message, sizeof p->err.message, "token %d ended the text", id);
        return FM_EFULL;
    }
    int n = fm_engine_token_bytes(p->engine, id, &bytes);
    if (n && p->n_text + (size_t)n <= sizeof p->text) memcpy(p->text + p->n_text, bytes, (size_t)n);
    p->n_text += (size_t)n;
    return p->token = id;
}

static int serve(program *p) {
    static int32_t ids[MAX_BLOCK];
    char line[32];
    while (fgets(line, sizeof line, stdin)) {
        int n = atoi(line), rc;
        if (n < 1 || n > MAX_BLOCK) return FM_EINVAL;
        p->n_text = 0;
        long long start = now();
        for (int i = 0; i < n; i++) {
            if ((rc = next_token(p)) < 0) return rc;
            ids[i] = rc;
        }
        printf("%lld", now() - start);
        for (int i = 0; i < n; i++) printf(" %d", ids[i]);
        printf("\n");
        fflush(stdout);
    }
    return 0;
}

int main(int argc, char **argv) {
    static program p = {.token = -1};
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    int32_t ids[MAX_PROMPT];
    int n = argc - 5, rc;
    if (n < 1 || n > MAX_PROMPT) return 2;
    options.memory_bytes = strtoull(argv[2], NULL, 10);
    options.n_threads = atoi(argv[3]);
    options.context = atoi(argv[4]);
    for (int i = 0; i < n; i++) ids[i] = atoi(argv[5 + i]);
    if ((rc = fm_engine_open(&p.engine, argv[1], &options, &p.err)) < 0) goto end;
    if ((rc = fm_session_open(&p.session, p.engine, &p.err)) < 0) goto end;
    if ((rc = open_sampler(&p)) < 0) goto end;
    for (int i = 0; i < n; i++) fm_sampler_feed(p.sampler, ids[i]);
    if ((rc = fm_session_sync(p.session, ids, n, NULL, 0, NULL, &p.err)) < 0) goto end;
    fflush(stdout);
    rc = serve(&p);
end:
    if (rc < 0) fprintf(stderr, "cost: %s (%d).\n", p.err.message, rc);
    fm_sampler_close(&p.sampler);
    fm_session_close(&p.session);
    fm_engine_close(&p.engine);
    return rc < 0;
}
