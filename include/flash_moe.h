/* flash_moe.h: the public interface of libflash-moe, and its manual.
 *
 * flash-moe runs mixture-of-experts language models that are larger than memory: the dense part stays in RAM, the
 * routed experts are read from the disk when the router asks for them.
 *
 *   engine    a loaded model: weights, expert store, threads. One per model.
 *   session   one timeline of tokens with its KV cache and recurrent states. Several per engine.
 *   sampler   turns logits into a token.
 *
 * A program that is complete (cc generate.c $(pkg-config --cflags --libs flash-moe); more of them are in examples/):
 *
 *     #include <flash_moe.h>
 *     #include <stdio.h>
 *     #include <string.h>
 *
 *     static int print(void *user, const char *text, size_t bytes) {
 *         (void)user;
 *         return fwrite(text, 1, bytes, stdout) != bytes;
 *     }
 *
 *     int main(int argc, char **argv) {
 *         fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
 *         fm_generation generation = FM_GENERATION_INIT;
 *         fm_engine *engine = NULL;
 *         fm_session *session = NULL;
 *         fm_sampler *sampler = NULL;
 *         fm_sampling sampling;
 *         fm_generated done;
 *         fm_error err = {0};
 *         int32_t *ids = NULL;
 *         int n, rc;
 *         if (argc != 3) return 2;
 *         generation.max_tokens = 40;
 *         generation.text = print;
 *         if ((rc = fm_engine_open(&engine, argv[1], &options, &err)) < 0) goto end;
 *         if ((rc = n = fm_engine_encode(engine, argv[2], strlen(argv[2]), false, &ids, &err)) < 0) goto end;
 *         fm_engine_sampling(engine, &sampling);
 *         if ((rc = fm_session_open(&session, engine, &err)) < 0) goto end;
 *         if ((rc = fm_sampler_open(&sampler, fm_engine_info(engine)->vocab, &sampling, &err)) < 0) goto end;
 *         rc = fm_session_generate(session, ids, n, sampler, &generation, &done, &err);
 *     end:
 *         printf("\n");
 *         if (rc < 0) fprintf(stderr, "%s.\n", err.message);
 *         fm_free(ids);
 *         fm_sampler_close(&sampler);
 *         fm_session_close(&session);
 *         fm_engine_close(&engine);
 *         return rc < 0;
 *     }
 *
 * Conventions. A function returns 0 or a count, or a negative FM_E… code; the last argument, which may be NULL, receives
 * one sentence that names the path, the tensor and the number. `open` makes, `close(T **)` frees and sets NULL; closing
 * NULL is fine. Pointers to const are borrowed for the call. Sizes end in _bytes, times in _seconds, counts begin with n_.
 * Structs of options begin with `size`, which the caller sets to sizeof (the FM_…_INIT macros do), so that they can grow.
 *
 * Threads. Threads may share an engine: each works on sessions, samplers and chats of its own, of which each belongs to one thread at a time; what computes takes
 * turns, in the order of asking (between the batches of a long prompt too), so nothing depends on who else is there. fm_engine_cancel and fm_engine_live may be called from
 * any thread at any time, the former from a signal handler too. Callbacks run in the thread that called, in its turn; they must not feed, generate or close. Closing an engine
 * comes after closing all that was opened with it. flash_moe_tools.h measures: there an engine is for one thread alone. The library starts threads that only
 * compute and read, and joins them when the engine is closed; an engine does not survive fork() in the child. It installs no signal handlers, prints nothing, never exits
 * and reads no environment variable.
 *
 * flash_moe_tools.h has what makes and measures models.
 */
#ifndef FLASH_MOE_H
#define FLASH_MOE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define FM_API __attribute__((visibility("default")))
#else
#define FM_API
#endif

#define FM_VERSION "0.1.0"

/* ---- errors ------------------------------------------------------------------------------------------------------- */

enum {
    FM_EINVAL = -1,       /* an argument is out of its range */
    FM_EFORMAT = -2,      /* a file's contents are wrong: missing, short, corrupt, mis-shaped */
    FM_EIO = -3,          /* the system refused to open or read something */
    FM_ENOMEM = -4,       /* it does not fit in the memory budget, or the system has no memory */
    FM_EUNSUPPORTED = -5, /* well formed, but not something this version runs */
    FM_ENAN = -6,         /* a weight, an activation or a logit is not a finite number */
    FM_ECANCELLED = -7,   /* fm_engine_cancel was called, or a callback asked to stop */
    FM_EFULL = -8,        /* the session's context is full */
};

typedef struct fm_error {
    int code;          /* 0, or one of FM_E… */
    char message[512]; /* one sentence, without a full stop or newline at its end */
} fm_error;

/* ---- options ------------------------------------------------------------------------------------------------------ */

enum { FM_ACTIVATIONS_INT8 = 0, FM_ACTIVATIONS_F32 = 1 };
enum { FM_PREFETCH_ON = 0, FM_PREFETCH_OFF = 1 };
/* Numbers of the KV cache: bfloat16; as computed; int8 with a scale for each 64, at little more than half of bfloat16's bytes. */
enum { FM_KV_BF16 = 0, FM_KV_F32 = 1, FM_KV_Q8 = 2 };
enum { FM_LOG_INFO = 0, FM_LOG_WARNING = 1 };
/* Experts that are not in memory while tokens are decoded: read; or left out, and the others' weights raised to the same sum: an approximation, for packed models. */
enum { FM_MISSING_READ = 0, FM_MISSING_DROP = 1 };

typedef struct fm_engine_options {
    size_t size;             /* sizeof(fm_engine_options) */
    const char *config_from; /* directory with config.json and tokenizer.json when MODEL has none; NULL: MODEL */
    uint64_t memory_bytes;   /* all memory the process may use; 0: what the machine has free less a reserve */
    int n_threads;           /* computing threads, the caller's included; 0: one per usable CPU */
    int context;             /* tokens a session can hold; 0: what 10 % of the budget holds, at most 32768 */
    int n_sessions;          /* sessions that may be open at once, for the budget; 0: 1 */
    int experts_per_token;   /* fewer routed experts than the model was trained with (an approximation); 0: the model's */
    int activations;         /* FM_ACTIVATIONS_… for quantised weights; F32 is the reference mode */
    int prefetch;            /* FM_PREFETCH_…: reading the next layer's likely experts while the disk is idle (packed models only) */
    const char *io;          /* "uring", "pread"; NULL: the best that works here */
    const char *policy;      /* "lru", "lfu"; NULL: the default */
    const char *
        heat; /* file with how often each expert was used: the most used fill the cache at the start, and it is written when the engine is closed; NULL: none */
    const char *mirror; /* directory with a copy of the packed model, on another disk: half of each expert is read from it; NULL: none */
    const char *cpu;    /* "scalar", "avx2", "avxvnni", "avx512", "amx", "neon", "i8mm"; NULL: the best this CPU has */
    /* One line for a person; NULL: dropped. */
    void (*log)(void *user, int level, const char *line);
    /* Called now and then while loading and while reading a prompt; what is "load" or "experts", in bytes, or "prompt", in tokens.
     * Return non-zero to cancel. NULL: none. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;                   /* handed to log and progress */
    int kv;                       /* FM_KV_…; F32 is the reference */
    const char *session_cache;    /* directory for snapshots of sessions; NULL: none */
    uint64_t session_cache_bytes; /* files there are kept under this, the least recently used go first; 0: 20 GiB */
    bool no_verify;               /* experts of packed models are not checked against their hashes when they are first read */
    const char *profile;          /* file of fm_profile_record, or an older program's: experts fill the cache in its order; NULL: none */
    float pin;                    /* share of the cache, 0 to 0.9, that the profile's most used experts keep for good */
    int missing;                  /* FM_MISSING_… */
    int cold_bits; /* while decoding, an expert that is not in memory and whose router weight is below cold_below comes as its copy of so many bits, which the */
    float cold_below; /* packed model has: an approximation. 0: never */
} fm_engine_options;

#define FM_ENGINE_OPTIONS_INIT                                                                                                                                 \
    { .size = sizeof(fm_engine_options) }

/* ---- what a model is, and what it would need (nothing is loaded) ---------------------------------------------------- */

typedef struct fm_part { /* one row of `info`: tensors of one kind and one number format */
    char what[32];       /* "embedding", "attention", "delta", "recurrent", "router", "shared expert", "experts", "norms", "head", "vision" … */
    char format[32];     /* "4-bit group 64", "bf16", … */
    int n_tensors;
    uint64_t bytes; /* on disk */
} fm_part;

#define FM_MAX_PARTS 48

typedef struct fm_model_info {
    char path[1024];
    char source[32];       /* "safetensors", "mlx", "packed_experts", "packed" */
    char architecture[96]; /* config.json's architectures[0] */
    char model_type[64];
    char family[32]; /* our name of the family */
    int hidden, vocab, n_layers, n_attention_layers, n_recurrent_layers, n_moe_layers;
    char recurrent[32]; /* what the recurrent layers are: "delta", "mamba", "lightning", "convolution", or "" */
    int n_experts, experts_per_token, expert_width, shared_width;
    int max_position; /* tokens the model was trained for */
    uint64_t n_parameters, n_active_parameters;
    uint64_t dense_bytes, expert_bytes, experts_bytes; /* on disk: dense part, one expert, all experts */
    int narrow_bits;                                   /* of the second copies of a packed model's experts, for cold_bits; 0: there are none */
    uint64_t narrow_expert_bytes, narrow_bytes;        /* on disk: one of them, all of them */
    int n_parts, n_left_out;
    fm_part parts[FM_MAX_PARTS];    /* what is run */
    fm_part left_out[FM_MAX_PARTS]; /* what is in the files and is not run: vision, mtp */
    int vocab_entries;              /* tokenizer entries, 0: no tokenizer found */
    char chat_template[64];         /* file it was found in, or "" */
    char tool_format[32];           /* "qwen3-coder xml", "hermes json", "none" … by the template's text */
} fm_model_info;

/* Reads MODEL's headers and config. options may be NULL (only config_from is used). */
FM_API int fm_model_info_read(fm_model_info *out, const char *model, const fm_engine_options *options, fm_error *err);

typedef struct fm_plan {
    uint64_t budget_bytes;    /* what was asked for, or found */
    uint64_t available_bytes; /* what the machine and its cgroups have free now */
    bool budget_given;
    uint64_t dense_bytes;    /* dense weights in memory */
    uint64_t session_bytes;  /* KV cache and states of n_sessions sessions */
    uint64_t snapshot_bytes; /* snapshots of sessions, at most */
    int kv;                  /* FM_KV_…: numbers of the KV cache */
    uint64_t buffer_bytes;   /* activations, staging, tables */
    uint64_t text_bytes;     /* tokenizer */
    uint64_t overhead_bytes; /* the program itself */
    uint64_t slot_bytes;     /* one expert in memory */
    uint64_t cache_bytes;    /* n_slots * slot_bytes */
    uint64_t floor_bytes;    /* the least budget that runs at this context */
    int n_slots, n_experts_total, min_slots;
    int context, batch;                                                /* tokens a session holds; tokens computed in one piece */
    int n_staging;                                                     /* experts being read at once, at most */
    int n_guesses;                                                     /* slots for experts that are read ahead of being asked for */
    uint64_t reserve_bytes;                                            /* left to the rest of the machine when no budget is given */
    bool resident;                                                     /* the whole model fits: nothing streams */
    uint64_t expert_disk_bytes, token_expert_bytes, token_dense_bytes; /* one expert on disk; read for one token at hit rate 0; dense in RAM */
    int narrow_bits;                                                   /* as in fm_model_info */
    uint64_t narrow_expert_bytes, narrow_bytes, token_narrow_bytes;    /* the last: token_expert_bytes if all of them came as narrow copies */
} fm_plan;

/* What fm_engine_open would do with these options. FM_ENOMEM, with *out filled, if the budget is below the floor. */
FM_API int fm_plan_make(fm_plan *out, const char *model, const fm_engine_options *options, fm_error *err);

typedef struct fm_machine_speed {
    double ram_bytes_per_second;  /* plain reads by n_threads threads */
    double disk_bytes_per_second; /* reads of read_bytes at random places of the model's files, page cache bypassed if possible */
    int n_threads;
    uint64_t read_bytes;
    bool direct; /* the disk figure is of direct I/O */
} fm_machine_speed;

/* Measures this machine's memory and the disk under the model's expert files for about `seconds`. */
FM_API int fm_machine_speed_measure(fm_machine_speed *out, const char *model, const fm_engine_options *options, double seconds, fm_error *err);

/* ---- engine ------------------------------------------------------------------------------------------------------- */

typedef struct fm_engine fm_engine;

/* Loads MODEL, a directory: a Hugging Face snapshot, an MLX snapshot, a packed_experts directory or a packed model. */
FM_API int fm_engine_open(fm_engine **out, const char *model, const fm_engine_options *options, fm_error *err);
FM_API void fm_engine_close(fm_engine **engine);

FM_API const fm_plan *fm_engine_plan(const fm_engine *engine);
FM_API const fm_model_info *fm_engine_info(const fm_engine *engine);
FM_API const char *fm_engine_cpu(const fm_engine *engine); /* name of the kernels in use */
FM_API const char *fm_engine_io(const fm_engine *engine);  /* name of the I/O back end in use, with "direct" or "buffered" */
FM_API int fm_engine_n_threads(const fm_engine *engine);

/* What is computed instead of the model, as a phrase for people, such as "4 experts a token instead of …"; NULL: nothing, it is the model. */
FM_API const char *fm_engine_approximation(const fm_engine *engine);
/* Whether what is computed depends on which experts are in memory, as some approximations do. */
FM_API bool fm_engine_cache_matters(const fm_engine *engine);

/* Makes the computation in progress, or the next one, return FM_ECANCELLED soon; false again allows new ones.
 * Async-signal-safe, callable from any thread. */
FM_API void fm_engine_cancel(fm_engine *engine, bool cancel);

typedef struct fm_stats {               /* sums since the engine was opened */
    uint64_t n_tokens;                  /* computed, prompts included */
    uint64_t n_requests, n_hits;        /* experts asked for, and found in memory */
    uint64_t disk_bytes;                /* read for experts */
    uint64_t n_guessed, n_guesses_used; /* experts read ahead, and those of them that were asked for */
    double stall_seconds;               /* computing thread waiting for the disk */
    double disk_seconds;                /* at least one expert read in flight */
    double phase_seconds[12];           /* by fm_phase */
    uint64_t slots_given_back;          /* under memory pressure */
    uint64_t n_left_out;                /* times that a token did without one of its experts (FM_MISSING_DROP) */
    uint64_t n_narrow;                  /* times that a token used an expert's narrow copy (cold_bits) */
} fm_stats;

enum fm_phase {
    FM_PHASE_EMBED,
    FM_PHASE_MIXER,
    FM_PHASE_ROUTER,
    FM_PHASE_SHARED,
    FM_PHASE_EXPERT_WAIT,
    FM_PHASE_EXPERT_COMPUTE,
    FM_PHASE_COMBINE,
    FM_PHASE_HEAD,
    FM_PHASE_SAMPLER,
    FM_N_PHASES
};

FM_API void fm_engine_stats(const fm_engine *engine, fm_stats *out);
FM_API const char *fm_phase_name(int phase);

enum { FM_EXPERT_ABSENT, FM_EXPERT_READING, FM_EXPERT_RESIDENT, FM_EXPERT_NONE }; /* NONE: its layer has no experts */

typedef struct fm_live_expert {
    uint32_t uses,
        reads; /* how often it was asked for, once for all tokens of a batch, and read from the disk, since the engine was opened; they wrap, reads at 2^30 */
    uint8_t state; /* FM_EXPERT_… */
} fm_live_expert;

typedef struct fm_live { /* sums as in fm_stats */
    uint64_t n_tokens, n_requests, n_hits, disk_bytes;
} fm_live;

/* What the experts are at. experts [n] gets those of layer 0, then of layer 1 …, n_experts of fm_model_info each; it may be NULL with n = 0. Returns how many there are.
 * Any thread may call it while the engine is open, also while it computes: each number is whole, though they are not of one moment. */
FM_API int fm_engine_live(const fm_engine *engine, fm_live *out, fm_live_expert *experts, int n);

/* ---- text --------------------------------------------------------------------------------------------------------- */

/* Text (UTF-8; invalid bytes become U+FFFD) to token ids. *ids is malloc'd, to be freed with fm_free. Returns their number.
 * special: strings of added tokens such as <|im_start|> in the text become those tokens (else they are plain text). */
FM_API int fm_engine_encode(const fm_engine *engine, const char *text, size_t text_bytes, bool special, int32_t **ids, fm_error *err);
/* One token's bytes, not necessarily whole characters. Returns their number; *bytes is borrowed from the engine.
 * An id without an entry gives 0 bytes. */
FM_API int fm_engine_token_bytes(const fm_engine *engine, int32_t id, const char **bytes);
FM_API bool fm_engine_token_is_eos(const fm_engine *engine, int32_t id);
FM_API void fm_free(void *p);

/* ---- session ------------------------------------------------------------------------------------------------------ */

typedef struct fm_session fm_session;

/* The KV cache for the engine's context is reserved here. */
FM_API int fm_session_open(fm_session **out, fm_engine *engine, fm_error *err);
FM_API void fm_session_close(fm_session **session);
FM_API int fm_session_position(const fm_session *session); /* tokens in it */
FM_API void fm_session_clear(fm_session *session);         /* back to zero tokens */

/* Which tokens' logits are wanted: of none, the last, or each. */
enum { FM_LOGITS_NONE = 0, FM_LOGITS_LAST = 1, FM_LOGITS_ALL = 2 };

/* Called for each wanted row, in order: position of the token in the session and logits [vocab], borrowed for the call.
 * Return non-zero to stop (FM_ECANCELLED). */
typedef int (*fm_logits_fn)(void *user, int position, const float *logits);

/* Adds tokens to the session: computes them after what it holds. Returns n, or FM_EFULL before computing anything when they
 * do not fit, FM_EINVAL for an id outside the vocabulary. After another error the session is cleared. */
FM_API int fm_session_feed(fm_session *session, const int32_t *ids, int n, int which, fm_logits_fn fn, void *user, fm_error *err);

/* The logits [vocab] of the last token fed with FM_LOGITS_LAST; NULL before. Borrowed until the next feed. */
FM_API const float *fm_session_logits(const fm_session *session);

/* One (session, tokens) piece of a batch: the answers are those that feeding each alone would give, bit for bit. */
typedef struct fm_piece {
    fm_session *session; /* each session at most once in a batch, all of one engine */
    const int32_t *ids;
    int n;
    int which; /* FM_LOGITS_… */
} fm_piece;

FM_API int fm_engine_feed(fm_engine *engine, const fm_piece *pieces, int n_pieces, fm_logits_fn fn, void *user, fm_error *err);

/* A hook that sees what is computed: name is "embed", "layer.N" (the residual stream after layer N); x is [n][hidden] of the
 * tokens from `position`. NULL removes it. */
typedef void (*fm_trace_fn)(void *user, const char *name, int position, int n, int hidden, const float *x);
FM_API void fm_session_trace(fm_session *session, fm_trace_fn fn, void *user);

/* Computes ids [n] in a session of its own and writes what was computed as a safetensors file: `ids` (i32 [n]), `embed` and `layer.N` (the residual stream, f32
 * [n][hidden]), `logits` (f32 [n][vocab]). FM_EIO if the file cannot be written. */
FM_API int fm_dump(fm_engine *engine, const int32_t *ids, int n, const char *path, fm_error *err);

/* ---- sampler ------------------------------------------------------------------------------------------------------ */

typedef struct fm_logit_bias {
    int32_t id;
    float bias;
} fm_logit_bias;

typedef struct fm_sampling { /* all off: greedy */
    size_t size;
    float temperature;                                         /* 0: greedy */
    int top_k;                                                 /* 0: off */
    float top_p;                                               /* 1: off */
    float min_p;                                               /* 0: off */
    float repeat_penalty, presence_penalty, frequency_penalty; /* 1, 0, 0: off; over the last repeat_last tokens fed to it */
    int repeat_last;                                           /* 64; 0: off; -1: all */
    uint64_t seed;
    const fm_logit_bias *bias; /* added to logits before anything else */
    int n_bias;
} fm_sampling;

#define FM_SAMPLING_INIT                                                                                                                                       \
    { .size = sizeof(fm_sampling), .top_p = 1, .repeat_penalty = 1, .repeat_last = 64 }

typedef struct fm_sampler fm_sampler;

/* What generation_config.json of the model says (do_sample, temperature, top_k, top_p, min_p, repetition_penalty);
 * greedy if it says nothing. */
FM_API void fm_engine_sampling(const fm_engine *engine, fm_sampling *out);
FM_API int fm_sampler_open(fm_sampler **out, int vocab, const fm_sampling *sampling, fm_error *err);
FM_API void fm_sampler_close(fm_sampler **sampler);
/* Tells it of a token of the text (prompt or chosen), for the penalties. */
FM_API void fm_sampler_feed(fm_sampler *sampler, int32_t id);
/* Chooses from logits [vocab] (not changed); does not feed it. FM_ENAN if a logit is not a number. */
FM_API int32_t fm_sampler_choose(fm_sampler *sampler, const float *logits, fm_error *err);

/* ---- generation --------------------------------------------------------------------------------------------------- */

enum { FM_STOP_EOS = 1, FM_STOP_LENGTH = 2, FM_STOP_STRING = 3, FM_STOP_CANCELLED = 4, FM_STOP_CALLS = 5 };

typedef struct fm_generation {
    size_t size;
    int max_tokens;           /* -1: until the context is full */
    const char *const *stops; /* strings that end the text and are not shown */
    int n_stops;
    bool ignore_eos;
    /* Whole characters of text as they come; return non-zero to stop. */
    int (*text)(void *user, const char *text, size_t bytes);
    void *user;
} fm_generation;

#define FM_GENERATION_INIT                                                                                                                                     \
    { .size = sizeof(fm_generation), .max_tokens = -1 }

typedef struct fm_generated {
    int stop; /* FM_STOP_…; the context's end is LENGTH */
    int n_prompt, n_tokens;
    double prompt_seconds, first_token_seconds, decode_seconds; /* reading the prompt; from start to the first token; of the tokens after the first */
    int n_kept;                                                 /* of n_prompt, tokens that were not computed: a snapshot had them */
} fm_generated;

/* Feeds the prompt's ids (by fm_session_sync, if there is a session cache and the session is empty), then samples until something ends it. On FM_ECANCELLED by
 * fm_engine_cancel, out is filled with what was done and stop is FM_STOP_CANCELLED, and 0 is returned. */
FM_API int fm_session_generate(fm_session *session, const int32_t *ids, int n, fm_sampler *sampler, const fm_generation *options, fm_generated *out,
                               fm_error *err);

/* ---- sessions that do not forget ----------------------------------------------------------------------------------- */

/* A session knows the tokens it holds. States of recurrent layers cannot be rewound, so snapshots are kept: in memory within the engine's budget, and, if
 * options.session_cache is given, as files there, where a later process finds them. A snapshot belongs to exactly these weights, number formats and tokens. */

/* The tokens the session holds [fm_session_position]; borrowed until the next call that changes it. */
FM_API const int32_t *fm_session_tokens(const fm_session *session);

/* Makes the session hold the longest prefix of ids [n] that costs no computation, at most n - 1 tokens (the last one has to be computed for its logits): what it
 * holds now, a snapshot in memory, or one of the session cache. Returns how many it holds. A snapshot that cannot be used is a warning, not an error. */
FM_API int fm_session_rewind(fm_session *session, const int32_t *ids, int n, fm_error *err);
/* Keeps a snapshot of the session as it is, in memory; it reaches the session cache when the engine is idle (fm_engine_idle) or closed. */
FM_API int fm_session_keep(fm_session *session, fm_error *err);
/* Writes kept snapshots to the session cache, for at most `seconds` and within the cache's limit of writing, which all processes share: 4 GiB at once and 2 GiB an hour
 * (so at most 52 GiB a day), and the snapshot that crosses it; then reads experts that a profile wants in memory. Returns how many of both are left. */
FM_API int fm_engine_idle(fm_engine *engine, double seconds, fm_error *err);

typedef struct fm_synced {
    int n_kept;     /* tokens that the session held, or a snapshot in memory */
    int n_restored; /* tokens that came from the session cache; then n_kept is 0 */
    int n_computed; /* the rest */
    double restore_seconds, compute_seconds;
} fm_synced;

/* fm_session_rewind, then computes what is missing, so that the session holds ids [n] and fm_session_logits is the last one's. borders [n_borders], ascending: positions
 * where a snapshot is kept when computing comes by (before each message that a template may render otherwise next time); in long stretches there are more. out may
 * be NULL. Errors as of fm_session_feed. */
FM_API int fm_session_sync(fm_session *session, const int32_t *ids, int n, const int *borders, int n_borders, fm_synced *out, fm_error *err);

/* One session as a file of its own: written whole or not at all. load: FM_EFORMAT for a file that is damaged, FM_EINVAL for one of another model, other settings
 * or too long for the context, FM_EUNSUPPORTED for one of another version; the session is then as it was. */
FM_API int fm_session_save(const fm_session *session, const char *path, fm_error *err);
FM_API int fm_session_load(fm_session *session, const char *path, fm_error *err);

/* ---- chat: messages to tokens, tokens to events ---------------------------------------------------------------------- */

/* A model's way of conversation: its chat template and how it writes tool calls. It remembers what the model wrote, token by token, so that the next prompt has
 * the same tokens where the template keeps them. One engine, one thread; several conversations may share it. */
typedef struct fm_chat fm_chat;

typedef struct fm_chat_options {
    size_t size;
    const char *template_file; /* a Jinja template; NULL: the model's own */
} fm_chat_options;

#define FM_CHAT_OPTIONS_INIT                                                                                                                                   \
    { .size = sizeof(fm_chat_options) }

/* FM_EUNSUPPORTED if the model has no chat template and none is given. */
FM_API int fm_chat_open(fm_chat **out, fm_engine *engine, const fm_chat_options *options, fm_error *err);
FM_API void fm_chat_close(fm_chat **chat);
FM_API const char *fm_chat_tool_format(const fm_chat *chat); /* as fm_model_info.tool_format */
/* Whether the template mentions a variable of this name, such as enable_thinking: what it does not mention has no effect in chat_template_kwargs. */
FM_API bool fm_chat_template_uses(const fm_chat *chat, const char *name);

typedef struct fm_prompt {
    char *text; /* what the template made, 0-terminated */
    size_t text_bytes;
    int32_t *ids;
    int n_ids;
    int *borders; /* positions for fm_session_sync: where each assistant message begins, and the end of the system prompt */
    int n_borders;
    int n_replayed;    /* of ids, taken as the model wrote them */
    bool in_reasoning; /* the answer begins inside of reasoning: the template opened it */
} fm_prompt;

/* request is JSON in OpenAI's form: {"messages": [...], "tools": [...], "chat_template_kwargs": {...}, "add_generation_prompt": true}; only messages is needed. Content may
 * be text, null, or a list of parts of text; arguments of calls are text or objects. Text of messages and tools never becomes a special token such as <|im_start|>.
 * FM_EFORMAT: no JSON, or a message that is none; FM_EINVAL: the template refused it (its sentence); FM_EUNSUPPORTED: the template uses something unknown.
 * out is to be cleared with fm_prompt_clear. */
FM_API int fm_chat_prompt(fm_chat *chat, const char *request, fm_prompt *out, fm_error *err);
FM_API void fm_prompt_clear(fm_prompt *prompt);

enum {
    FM_EVENT_TEXT,      /* text: a piece of the answer, whole characters */
    FM_EVENT_REASONING, /* text: a piece of the reasoning */
    FM_EVENT_CALL,      /* a tool call begins: call, id, name. Calls are held back until they are whole: what is malformed or unfinished is text */
    FM_EVENT_ARGUMENTS, /* text: a piece of the call's arguments; all pieces together are one JSON object */
    FM_EVENT_CALL_END,
    FM_EVENT_STOP, /* stop: FM_STOP_…; FM_STOP_CALLS when the answer ended with tool calls. text: of FM_STOP_STRING, the string */
};

typedef struct fm_event {
    int type;
    const char *text; /* 0-terminated, borrowed for the call */
    size_t bytes;
    int call; /* 0, 1 … */
    const char *id, *name;
    int stop;
} fm_event;

/* Return non-zero to stop. */
typedef int (*fm_event_fn)(void *user, const fm_event *event);

/* One answer being made: tokens in, events out. */
typedef struct fm_answer fm_answer;

typedef struct fm_answer_options {
    size_t size;
    int max_tokens;           /* -1: until the context is full */
    int think_budget;         /* tokens of reasoning, then its end is forced (behind a whole character); -1: any */
    const char *const *stops; /* strings that end the text and are not shown; not looked for in reasoning and calls */
    int n_stops;
    const char *force_call; /* the answer has to be a tool call: of this name, or "" of the likeliest of the request's; NULL: as the model likes */
    fm_event_fn event;
    void *user;
} fm_answer_options;

#define FM_ANSWER_OPTIONS_INIT                                                                                                                                 \
    { .size = sizeof(fm_answer_options), .max_tokens = -1, .think_budget = -1 }

/* request is that of prompt: its tools say which type an argument has; without tools nothing is a call. Both are borrowed for the call only.
 * FM_EINVAL, FM_EUNSUPPORTED: a call that cannot be forced. */
FM_API int fm_answer_open(fm_answer **out, fm_chat *chat, const char *request, const fm_prompt *prompt, const fm_answer_options *options, fm_error *err);
/* Chooses the next token: one that has to come, or the sampler's of logits [vocab]; tells the sampler, and gives events. 0: *id is to be fed to the session and it goes
 * on; 1: the answer has ended, *id is not to be fed. */
FM_API int fm_answer_next(fm_answer *answer, fm_sampler *sampler, const float *logits, int32_t *id, fm_error *err);
/* Ends an answer from outside (FM_STOP_CANCELLED, FM_STOP_LENGTH): what was held back is given as events, then the stop. Nothing if it has ended. */
FM_API int fm_answer_end(fm_answer *answer, int stop, fm_error *err);
FM_API int fm_answer_n_tokens(const fm_answer *answer); /* made so far, of which in reasoning, the forced end aside: */
FM_API int fm_answer_n_reasoning(const fm_answer *answer);
/* The assistant's message so far, JSON in OpenAI's form: {"role", "content", "reasoning_content", "tool_calls"}. Owned by the answer. */
FM_API const char *fm_answer_message(fm_answer *answer);
FM_API void fm_answer_close(fm_answer **answer); /* the chat remembers its tokens */

typedef struct fm_answered {
    int stop, n_prompt, n_tokens, n_reasoning;
    fm_synced synced;
    double first_token_seconds, decode_seconds; /* from start to the first token; of the tokens after the first */
    char *message;                              /* fm_answer_message, to be freed with fm_free */
} fm_answered;

/* One turn: fm_chat_prompt, fm_session_sync, then tokens until the answer ends. Cancelling (fm_engine_cancel, or the event function) is no error. */
FM_API int fm_chat_answer(fm_chat *chat, fm_session *session, const char *request, const fm_sampling *sampling, const fm_answer_options *options,
                          fm_answered *out, fm_error *err);

#ifdef __cplusplus
}
#endif
#endif
