/* threads.c: sessions of one engine in a thread each give the tokens that each gives alone, whatever the others do; a computation is cancelled from another thread.
 * The thread sanitizer runs it too. */
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "base/turn.h"
#include "test.h"

#define N_THREADS 4
#define TOKENS (TEST_SLOW ? 12 : 48)

static const char *const prompts[N_THREADS] = {"Once upon a time, in a house by the bridge", "The capital of Norway is",
                                               "Mia and Tom went to the old mill because", "One morning the blue kite"};

typedef struct talk {
    fm_engine *engine;
    const char *prompt;
    char text[2][8192]; /* of the first turn and the second */
    size_t n[2];
    int turn, n_kept;
} talk;

static int take_text(void *user, const char *text, size_t bytes) {
    talk *t = user;
    memcpy(t->text[t->turn] + t->n[t->turn], text, bytes);
    t->n[t->turn] += bytes;
    return 0;
}

/* Two continuations of one prompt, the second from a snapshot at its end; the session is closed and opened in between. */
static void *talk_twice(void *arg) {
    talk *t = arg;
    int32_t *ids;
    int n;
    MUST(n = fm_engine_encode(t->engine, t->prompt, strlen(t->prompt), false, &ids, err));
    for (t->turn = 0; t->turn < 2; t->turn++) {
        fm_sampling how = FM_SAMPLING_INIT;
        fm_generation o = FM_GENERATION_INIT;
        fm_session *session;
        fm_sampler *sampler;
        fm_generated done;
        fm_synced synced;
        how.temperature = 0.8f;
        how.seed = 7;
        o.max_tokens = TOKENS;
        o.text = take_text;
        o.user = t;
        MUST(fm_session_open(&session, t->engine, err));
        MUST(fm_session_sync(session, ids, n, &(int){n - 1}, 1, &synced, err));
        if (t->turn) t->n_kept = synced.n_kept;
        MUST(fm_sampler_open(&sampler, fm_engine_info(t->engine)->vocab, &how, err));
        MUST(fm_session_rewind(session, ids, n, err));
        MUST(fm_session_generate(session, ids + fm_session_position(session), n - fm_session_position(session), sampler, &o, &done, err));
        fm_sampler_close(&sampler);
        fm_session_close(&session);
    }
    fm_free(ids);
    return NULL;
}

static fm_engine *open_engine(const char *model) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    fm_engine *e;
    o.context = 256;
    o.n_sessions = N_THREADS;
    o.n_threads = 2;
    o.memory_bytes = 24 << 20; /* experts stream */
    MUST(fm_engine_open(&e, model, &o, err));
    return e;
}

static atomic_bool over;
static atomic_int odd; /* answers that cannot be */

/* What is not computing may be asked at any time. */
static void *look(void *arg) {
    fm_engine *e = arg;
    uint64_t before = 0;
    while (!atomic_load(&over)) {
        fm_stats s;
        const char *bytes;
        fm_engine_stats(e, &s);
        if (s.n_tokens < before || fm_engine_token_bytes(e, 300, &bytes) < 1) atomic_fetch_add(&odd, 1);
        before = s.n_tokens;
        MUST(fm_engine_idle(e, 0, err));
        usleep(500);
    }
    return NULL;
}

static void together(const char *model) {
    static talk alone[N_THREADS], beside[N_THREADS];
    fm_engine *e = open_engine(model);
    pthread_t threads[N_THREADS], looking;
    for (int i = 0; i < N_THREADS; i++) {
        alone[i] = (talk){.engine = e, .prompt = prompts[i]};
        talk_twice(&alone[i]);
        CHECK(alone[i].n[0] > 0 && alone[i].n[0] == alone[i].n[1] && !memcmp(alone[i].text[0], alone[i].text[1], alone[i].n[0]), "prompt %d: \"%s\" and \"%s\"",
              i, alone[i].text[0], alone[i].text[1]);
    }
    fm_engine_close(&e);
    e = open_engine(model);
    if (pthread_create(&looking, NULL, look, e)) exit(1);
    for (int i = 0; i < N_THREADS; i++) {
        beside[i] = (talk){.engine = e, .prompt = prompts[i]};
        if (pthread_create(&threads[i], NULL, talk_twice, &beside[i])) exit(1);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(threads[i], NULL);
        for (int turn = 0; turn < 2; turn++) {
            CHECK(beside[i].n[turn] == alone[i].n[turn] && !memcmp(beside[i].text[turn], alone[i].text[turn], alone[i].n[turn]), "prompt %d, turn %d: \"%s\"",
                  i, turn, beside[i].text[turn]);
        }
        CHECK(beside[i].n_kept > 0, "prompt %d was read twice", i);
    }
    atomic_store(&over, true);
    pthread_join(looking, NULL);
    CHECK(!atomic_load(&odd), "%d odd answers to who only looked", atomic_load(&odd));
    fm_engine_close(&e);
}

/* ---- cancelling ---- */

typedef struct endless {
    fm_engine *engine;
    atomic_int pieces;
    fm_generated done;
} endless;

static int count_text(void *user, const char *text, size_t bytes) {
    (void)text, (void)bytes;
    atomic_fetch_add(&((endless *)user)->pieces, 1);
    return 0;
}

static void *generate(void *arg) {
    endless *x = arg;
    fm_generation o = FM_GENERATION_INIT;
    fm_sampling how = FM_SAMPLING_INIT;
    fm_session *session;
    fm_sampler *sampler;
    o.ignore_eos = true;
    o.text = count_text;
    o.user = x;
    MUST(fm_session_open(&session, x->engine, err));
    MUST(fm_sampler_open(&sampler, fm_engine_info(x->engine)->vocab, &how, err));
    MUST(fm_session_generate(session, (const int32_t[]){300, 301, 302}, 3, sampler, &o, &x->done, err));
    fm_sampler_close(&sampler);
    fm_session_close(&session);
    return NULL;
}

static void cancelled(const char *model) {
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    endless x = {0};
    pthread_t thread;
    o.context = 16384; /* longer than the wait for it */
    MUST(fm_engine_open(&x.engine, model, &o, err));
    if (pthread_create(&thread, NULL, generate, &x)) exit(1);
    while (atomic_load(&x.pieces) < 3) usleep(100);
    fm_engine_cancel(x.engine, true);
    pthread_join(thread, NULL);
    CHECK(x.done.stop == FM_STOP_CANCELLED && x.done.n_tokens >= 3 && x.done.n_tokens < 16000, "stop %d after %d tokens", x.done.stop, x.done.n_tokens);
    fm_engine_cancel(x.engine, false);
    fm_session *session;
    MUST(fm_session_open(&session, x.engine, err));
    MUST(fm_session_feed(session, (const int32_t[]){300, 301, 302}, 3, FM_LOGITS_LAST, NULL, NULL, err));
    CHECK(fm_session_logits(session) != NULL, "no logits after a cancelled call");
    fm_session_close(&session);
    fm_engine_close(&x.engine);
}

/* ---- the lock itself ---- */

static fm_turn turn;
static int order[8], n_order;
static atomic_int waiting;

static void *stand_in_line(void *arg) {
    atomic_fetch_add(&waiting, 1);
    fm_turn_take(&turn);
    order[n_order++] = *(int *)arg;
    fm_turn_give(&turn);
    return NULL;
}

/* Whoever asked first comes first, the one that passes on behind all of them, and a holder may ask again. */
static void in_line(void) {
    pthread_t threads[3];
    int names[3] = {1, 2, 3};
    MUST(fm_turn_open(&turn, err));
    fm_turn_take(&turn);
    fm_turn_take(&turn);
    for (int i = 0; i < 3; i++) {
        if (pthread_create(&threads[i], NULL, stand_in_line, &names[i])) exit(1);
        while (atomic_load(&waiting) <= i) usleep(100);
        usleep(20000); /* from there to the queue */
    }
    order[n_order++] = 0;
    fm_turn_pass(&turn);
    order[n_order++] = 4;
    fm_turn_give(&turn);
    fm_turn_pass(&turn); /* nobody waits */
    fm_turn_give(&turn);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 5; i++) CHECK(order[i] == i, "place %d has %d", i, order[i]);
    fm_turn_close(&turn);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    in_line();
    together(argv[1]);
    cancelled(argv[1]);
    return TEST_END();
}
