/* tests/engine/order.c: order independence: the same logits, bit for bit, whatever the threads, the budget, the policy, the I/O back end, the order in which reads
 * complete, how the prompt is cut into pieces, and who else is in the batch; for each kind of KV cache. order [DIRECTORY]: of a tiny model, what depends on its mixers. */
#include "engine/engine.h"
#include "experts/io_fake.h"
#include "test.h"

#define N_PROMPT 290 /* more than a block of keys */
#define N_TOKENS 310

static const char *model = TEST_SOURCE_ROOT "/models/ember";
static int vocab = 4000; /* that is used */
static int32_t ids[2][N_TOKENS];

typedef struct hash {
    uint64_t sum;
    int vocab;
} hash;

static int add_row(void *user, int position, const float *logits) {
    hash *h = user;
    const uint8_t *bytes = (const uint8_t *)logits;
    (void)position;
    for (size_t i = 0; i < (size_t)h->vocab * sizeof(float); i++) h->sum = (h->sum ^ bytes[i]) * 0x100000001b3u;
    return 0;
}

/* The prompt in pieces of at most `piece`, then one by one; a hash of every row of logits. */
static uint64_t run(fm_engine *engine, int which, int piece) {
    fm_session *session;
    hash h = {.sum = 0xcbf29ce484222325u, .vocab = fm_engine_info(engine)->vocab};
    MUST(fm_session_open(&session, engine, err));
    for (int at = 0; at < N_TOKENS;) {
        int n = at < N_PROMPT ? (N_PROMPT - at < piece ? N_PROMPT - at : piece) : 1;
        MUST(fm_session_feed(session, ids[which] + at, n, FM_LOGITS_ALL, add_row, &h, err));
        at += n;
    }
    fm_session_close(&session);
    return h.sum;
}

static fm_engine *open_engine(const fm_engine_options *options, const fm_io_ops *io) {
    fm_engine *engine;
    MUST(fm_engine_open_io(&engine, model, options, io, err));
    return engine;
}

static uint64_t run_with(const fm_engine_options *options, const fm_io_ops *io, int which, int piece) {
    fm_engine *engine = open_engine(options, io);
    uint64_t sum = run(engine, which, piece);
    fm_engine_close(&engine);
    return sum;
}

/* Both texts in one batch, one as a prompt and then tokens, the other a few tokens at a time; the first one's logits. */
typedef struct pair {
    hash h;
    int vocab, n_first;
    int position;
} pair;

static int add_first(void *user, int position, const float *logits) {
    pair *p = user;
    if (position != p->position || p->n_first == 0) return 0;
    p->position++;
    p->n_first--;
    return add_row(&p->h, position, logits);
}

static uint64_t run_batched(const fm_engine_options *options) {
    fm_engine *engine = open_engine(options, NULL);
    fm_session *a, *b;
    pair p = {.h = {.sum = 0xcbf29ce484222325u, .vocab = fm_engine_info(engine)->vocab}};
    MUST(fm_session_open(&a, engine, err));
    MUST(fm_session_open(&b, engine, err));
    for (int at = 0, other = 0; at < N_TOKENS;) {
        int n = at < N_PROMPT ? 50 : 1, m = other + 3 <= N_TOKENS ? 3 : 1;
        fm_piece pieces[2] = {{a, ids[0] + at, n, FM_LOGITS_ALL}, {b, ids[1] + other, m, FM_LOGITS_NONE}};
        p.n_first = n;
        p.position = at;
        MUST(fm_engine_feed(engine, pieces, 2, add_first, &p, err));
        at += n;
        other += m;
    }
    fm_session_close(&a);
    fm_session_close(&b);
    fm_engine_close(&engine);
    return p.h.sum;
}

/* A prompt that is longer than a piece of a mixer, in one batch and in many; the session beside it straddles the pieces' edges. */
static void long_prompt(fm_engine_options o) {
    enum { N = 1300 };
    static int32_t text[N];
    uint64_t random = 9, sums[3];
    o.context = 1400;
    o.n_sessions = 2;
    o.memory_bytes = (uint64_t)256 << 20;
    for (int i = 0; i < N; i++) text[i] = (int32_t)(3 + test_random(&random) % (uint64_t)(vocab - 3));
    for (int way = 0; way < 3; way++) {
        fm_engine *engine = open_engine(&o, NULL);
        fm_session *a, *b;
        hash h = {.sum = 0xcbf29ce484222325u, .vocab = fm_engine_info(engine)->vocab};
        CHECK(fm_engine_plan(engine)->batch >= N + 700, "a batch of %d tokens", fm_engine_plan(engine)->batch);
        MUST(fm_session_open(&a, engine, err));
        MUST(fm_session_open(&b, engine, err));
        fm_piece pieces[2] = {{b, text + 100, 700, FM_LOGITS_NONE}, {a, text, N, FM_LOGITS_NONE}};
        if (way == 0) MUST(fm_session_feed(a, text, N, FM_LOGITS_NONE, NULL, NULL, err));
        if (way == 1) MUST(fm_engine_feed(engine, pieces, 2, NULL, NULL, err));
        for (int at = 0; at < N && way == 2; at += 100) MUST(fm_session_feed(a, text + at, 100, FM_LOGITS_NONE, NULL, NULL, err));
        for (int i = 0; i < 3; i++) MUST(fm_session_feed(a, text + i, 1, FM_LOGITS_ALL, add_row, &h, err));
        sums[way] = h.sum;
        fm_session_close(&a);
        fm_session_close(&b);
        fm_engine_close(&engine);
    }
    CHECK(sums[0] == sums[2], "one batch of %d tokens gives other logits than pieces of 100", N);
    CHECK(sums[0] == sums[1], "another long prompt in the batch changes the logits");
}

static void check_kind(int kv, fm_engine_options o) {
    o.kv = kv;
    uint64_t want = run_with(&o, NULL, 0, N_PROMPT);
    CHECK(run_with(&o, NULL, 1, N_PROMPT) != want, "another text gives the same logits");
    for (int t = 2; t <= 8; t++) {
        o.n_threads = t;
        CHECK(run_with(&o, NULL, 0, N_PROMPT) == want, "%d threads, kv %d", t, kv);
    }
    o.n_threads = 2;
    long_prompt(o);
    for (int piece = 1; piece <= 64; piece = piece * 3 + 1) CHECK(run_with(&o, NULL, 0, piece) == want, "pieces of %d, kv %d", piece, kv);
    fm_plan plan;
    MUST(fm_plan_make(&plan, model, &o, err));
    CHECK(plan.resident, "the whole model fits in %llu bytes", (unsigned long long)plan.budget_bytes);
    o.n_sessions = 2;
    o.memory_bytes = plan.floor_bytes * 2;
    CHECK(run_batched(&o) == want, "another session in the batch, kv %d", kv);
    for (int other = FM_KV_BF16; other < kv; other++) {
        o.kv = other;
        CHECK(run_batched(&o) != want, "kv %d gives the bits of kv %d", other, kv);
    }
}

/* Budgets, policies, back ends and completions, which have nothing to do with the KV cache. */
static void check_reads(fm_engine_options o) {
    uint64_t want = run_with(&o, NULL, 0, N_PROMPT);
    fm_plan plan;
    MUST(fm_plan_make(&plan, model, &o, err));
    uint64_t floor = plan.floor_bytes, all = floor + (uint64_t)plan.n_experts_total * plan.slot_bytes;
    for (int step = 0; step < 6; step++) {
        o.memory_bytes = floor + (all - floor) * (uint64_t)(step * step) / 25;
        o.io = step % 2 ? "pread" : NULL;
        o.policy = step % 3 ? "lru" : "lfu";
        CHECK(run_with(&o, NULL, 0, N_PROMPT) == want, "budget %llu of %llu to %llu", (unsigned long long)o.memory_bytes, (unsigned long long)floor,
              (unsigned long long)all);
    }
    o.io = o.policy = NULL;
    for (int seed = 1; seed <= 4; seed++) {
        o.memory_bytes = floor + (uint64_t)(seed * 20) * plan.slot_bytes;
        io_fake = IO_FAKE_INIT;
        io_fake.seed = (uint64_t)seed;
        io_fake.shuffle = true;
        io_fake.delay_percent = 30;
        io_fake.short_percent = seed > 2 ? 20 : 0;
        CHECK(run_with(&o, &io_fake_ops, 0, seed % 2 ? N_PROMPT : 5) == want, "completions shuffled by seed %d", seed);
    }
}

int main(int argc, char **argv) {
    uint64_t random = 1;
    if (argc > 1) {
        fm_model_info info;
        model = argv[1];
        MUST(fm_model_info_read(&info, model, NULL, err));
        vocab = info.vocab;
    }
    for (int w = 0; w < 2; w++) {
        for (int i = 0; i < N_TOKENS; i++) ids[w][i] = (int32_t)(3 + test_random(&random) % (uint64_t)(vocab - 3));
    }
    fm_engine_options o = FM_ENGINE_OPTIONS_INIT;
    o.context = 512;
    o.n_threads = 1;
    o.memory_bytes = (uint64_t)256 << 20;
    for (int kv = FM_KV_BF16; kv <= (argc > 1 || TEST_SLOW ? FM_KV_BF16 : FM_KV_Q8); kv++) check_kind(kv, o);
    if (argc > 1) return TEST_END();
    o.n_threads = 2;
    check_reads(o);
    return TEST_END();
}
