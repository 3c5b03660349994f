/* generate.c: a prompt in, a text out.  cc generate.c $(pkg-config --cflags --libs flash-moe) && ./a.out MODEL "Once upon a time" */
#include <flash_moe.h>
#include <stdio.h>
#include <string.h>

static int print(void *user, const char *text, size_t bytes) {
    (void)user;
    return fwrite(text, 1, bytes, stdout) != bytes;
}

int main(int argc, char **argv) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    fm_generation generation = FM_GENERATION_INIT;
    fm_engine *engine = NULL;
    fm_session *session = NULL;
    fm_sampler *sampler = NULL;
    fm_sampling sampling;
    fm_generated done;
    fm_error err = {0};
    int32_t *ids = NULL;
    int n, rc;
    if (argc != 3) return 2;
    generation.max_tokens = 40;
    generation.text = print;
    if ((rc = fm_engine_open(&engine, argv[1], &options, &err)) < 0) goto end;
    if ((rc = n = fm_engine_encode(engine, argv[2], strlen(argv[2]), false, &ids, &err)) < 0) goto end;
    fm_engine_sampling(engine, &sampling);
    if ((rc = fm_session_open(&session, engine, &err)) < 0) goto end;
    if ((rc = fm_sampler_open(&sampler, fm_engine_info(engine)->vocab, &sampling, &err)) < 0) goto end;
    rc = fm_session_generate(session, ids, n, sampler, &generation, &done, &err);
end:
    printf("\n");
    if (rc < 0) fprintf(stderr, "%s.\n", err.message);
    fm_free(ids);
    fm_sampler_close(&sampler);
    fm_session_close(&session);
    fm_engine_close(&engine);
    return rc < 0;
}
