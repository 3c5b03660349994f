/* python/native.c: see native.h. */
#include <time.h>
#include <unistd.h>

static void fmpy_engine_options(fm_engine_options *out) { *out = (fm_engine_options)FM_ENGINE_OPTIONS_INIT; }
static void fmpy_sampling(fm_sampling *out) { *out = (fm_sampling)FM_SAMPLING_INIT; }
static void fmpy_answer_options(fm_answer_options *out) { *out = (fm_answer_options)FM_ANSWER_OPTIONS_INIT; }
static void fmpy_chat_options(fm_chat_options *out) { *out = (fm_chat_options)FM_CHAT_OPTIONS_INIT; }
static void fmpy_pack_options(fm_pack_options *out) { *out = (fm_pack_options)FM_PACK_OPTIONS_INIT; }
static void fmpy_quality_options(fm_quality_options *out) { *out = (fm_quality_options)FM_QUALITY_OPTIONS_INIT; }
static void fmpy_trace_options(fm_trace_options *out) { *out = (fm_trace_options)FM_TRACE_OPTIONS_INIT; }
static void fmpy_pull_options(fm_pull_options *out) { *out = (fm_pull_options)FM_PULL_OPTIONS_INIT; }
static const char *fmpy_version(void) { return FM_VERSION; }

static double seconds_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void take_sums(fmpy_stream *stream) {
    fm_stats sums;
    fm_engine_stats(*stream->engine, &sums);
    stream->figures.n_requests = sums.n_requests;
    stream->figures.n_hits = sums.n_hits;
    stream->figures.disk_bytes = sums.disk_bytes;
    stream->figures.stall_seconds = sums.stall_seconds;
}

static int fmpy_stream_begin(fmpy_stream *stream, const fm_sampling *sampling, const int32_t *ids, int n, fm_error *err) {
    stream->start = seconds_now();
    stream->token = -1;
    int rc = fm_sampler_open(&stream->sampler, fm_engine_info(*stream->engine)->vocab, sampling, err);
    if (rc < 0) return rc;
    for (int i = 0; i < n; i++) fm_sampler_feed(stream->sampler, ids[i]);
    if ((rc = fm_session_sync(*stream->session, ids, n, NULL, 0, NULL, err)) < 0) return rc;
    take_sums(stream);
    stream->figures.n_prompt = n;
    stream->figures.prompt_seconds = stream->figures.library_seconds = seconds_now() - stream->start;
    return 0;
}

static int fmpy_stream_next(fmpy_stream *stream) {
    fm_error *err = &stream->error;
    fmpy_figures *f = &stream->figures;
    double entered = seconds_now();
    int rc;
    if (getpid() != stream->pid || !*stream->engine) return FM_EINVAL;
    fm_session *session = *stream->session;
    if (stream->token >= 0 && (rc = fm_session_feed(session, &stream->token, 1, FM_LOGITS_LAST, NULL, NULL, err)) < 0) return rc;
    int32_t id = fm_sampler_choose(stream->sampler, fm_session_logits(session), err);
    if (id < 0) return id;
    fm_sampler_feed(stream->sampler, id);
    stream->token = id;
    stream->end = FMPY_GOES_ON;
    if (fm_session_position(session) == fm_engine_plan(*stream->engine)->context) stream->end = FMPY_FULL;
    if (fm_engine_token_is_eos(*stream->engine, id)) stream->end = FMPY_EOS;
    stream->n_bytes = fm_engine_token_bytes(*stream->engine, id, &stream->bytes);
    if (!stream->n_bytes) stream->bytes = "";
    take_sums(stream);
    double now = seconds_now();
    if (f->n_tokens++ == 0) f->first_token_seconds = now - stream->start;
    f->decode_seconds = now - stream->start - f->first_token_seconds;
    f->library_seconds += now - entered;
    return id;
}

static void fmpy_stream_end(fmpy_stream *stream) { fm_sampler_close(&stream->sampler); }
