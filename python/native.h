/* python/native.h: what the extension module has beside the public headers: what macros say, as functions, and a stream's step as one call, because a call that
 * comes once in 30 ms finds its code and data gone from the processor's caches, so ten of them cost ten times as much. native.py hands it to cffi. */
#include <flash_moe_tools.h>

static void fmpy_engine_options(fm_engine_options *out);
static void fmpy_sampling(fm_sampling *out);
static void fmpy_answer_options(fm_answer_options *out);
static void fmpy_chat_options(fm_chat_options *out);
static void fmpy_pack_options(fm_pack_options *out);
static void fmpy_quality_options(fm_quality_options *out);
static void fmpy_trace_options(fm_trace_options *out);
static void fmpy_pull_options(fm_pull_options *out);
static const char *fmpy_version(void);

/* How far a stream was when its last token had been chosen; n_requests to stall_seconds are the engine's sums. session.py unpacks it: Statistics. */
typedef struct fmpy_figures {
    int64_t n_prompt, n_tokens;
    double prompt_seconds, first_token_seconds, decode_seconds;
    uint64_t n_requests, n_hits, disk_bytes;
    double stall_seconds;
    double library_seconds; /* in the two calls below */
} fmpy_figures;

enum { FMPY_GOES_ON = 0, FMPY_EOS = 1, FMPY_FULL = 2 };

typedef struct fmpy_stream {
    fm_engine **engine; /* as Handle has them: NULL behind them when it is closed */
    fm_session **session;
    fm_sampler *sampler;
    int pid;           /* of the process they are of */
    int32_t token;     /* the last one that was chosen, which is not computed yet; -1: none */
    int end;           /* FMPY_…: what the last token ends by being there */
    int n_bytes;       /* of its text */
    const char *bytes; /* borrowed from the engine */
    double start;
    fmpy_figures figures;
    fm_error error; /* of fmpy_stream_next */
} fmpy_stream;

/* Opens the sampler, and computes what the session does not hold of the prompt. */
static int fmpy_stream_begin(fmpy_stream *stream, const fm_sampling *sampling, const int32_t *ids, int n, fm_error *err);
/* Computes the token before and chooses the next one. Returns it, or an error; any, if the engine is closed or of another process. */
static int fmpy_stream_next(fmpy_stream *stream);
static void fmpy_stream_end(fmpy_stream *stream);
