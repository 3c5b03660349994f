/* flash_moe_tools.h: the public interface's second part: making models (packed ones, and of random weights), and measuring: quality, speed and its limits, recorded
 * routing. Conventions are flash_moe.h's. */
#ifndef FLASH_MOE_TOOLS_H
#define FLASH_MOE_TOOLS_H

#include "flash_moe.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- synth: a model of random weights ------------------------------------------------------------------------------ */

typedef struct fm_synth_options {
    size_t size;           /* sizeof(fm_synth_options) */
    int n_layers;          /* 0: the config's */
    int bits;              /* of experts and dense part: 2, 3, 4, 5, 6 or 8; 0: 4. Routers and shared experts' gates have 8, as in MLX snapshots */
    int group;             /* 32, 64 or 128; 0: 64 */
    int share_layers;      /* files of experts that are written; layers with experts take them in turn; 0: one for each */
    uint64_t seed;         /* the same seed and options give the same bytes, whatever the threads and the CPU */
    int n_threads;         /* 0: one per usable CPU and one more, as they wait for the disk */
    const char *tokenizer; /* directory whose tokenizer and chat template files are copied; NULL: the model has none */
    /* what is "writing the dense part" or "writing experts", in bytes. Return non-zero to cancel. NULL: none. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user; /* handed to progress */
} fm_synth_options;

#define FM_SYNTH_OPTIONS_INIT                                                                                                                                  \
    { .size = sizeof(fm_synth_options) }

/* The shapes of published models that are known by name: the name of the i-th and in *summary (may be NULL) a line about it; NULL after the last. */
FM_API const char *fm_synth_shape(int i, const char **summary);

typedef struct fm_synth_plan {
    char architecture[96];
    int n_layers, n_moe_layers, n_experts;
    int n_files;           /* of experts that are written */
    uint64_t dense_bytes;  /* dense.safetensors */
    uint64_t expert_bytes; /* one expert */
    uint64_t file_bytes;   /* the experts of one layer */
    uint64_t bank_bytes;   /* the experts of all layers, as the model sees them */
    uint64_t disk_bytes;   /* what is written: dense_bytes and n_files * file_bytes */
    uint64_t free_bytes;   /* on the file system where directory is to be; 0 without directory */
} fm_synth_plan;

/* What fm_synth would write. config: a known name, in any case of letters, or the path of a config.json or of a directory with one. directory may be NULL. */
FM_API int fm_synth_plan_make(fm_synth_plan *out, const char *config, const char *directory, const fm_synth_options *options, fm_error *err);

typedef struct fm_synth_result {
    int n_threads;
    uint64_t written_bytes;
    double seconds;                         /* from begin to end */
    double random_seconds, writing_seconds; /* of all threads together: making numbers; checksums and the disk */
} fm_synth_result;

/* Writes a packed model of random weights that runs like a real one of this shape and says nothing sensible. It appears as directory when it is whole, which must
 * not be there before; an error leaves nothing. FM_EIO before anything is written when it does not fit the disk. result may be NULL. */
FM_API int fm_synth(const char *config, const char *directory, const fm_synth_options *options, fm_synth_result *result, fm_error *err);

/* ---- pack: a packed model of any that the engine reads --------------------------------------------------------------- */

enum { FM_BITS_KEEP = 0, FM_BITS_BF16 = 16 }; /* what matrices become, where it is no number of bits */

typedef struct fm_pack_options {
    size_t size;             /* sizeof(fm_pack_options) */
    const char *config_from; /* as in fm_engine_options */
    int experts;             /* FM_BITS_KEEP, FM_BITS_BF16, or bits: 2, 3, 4, 5, 6 or 8 */
    int dense;               /* the same of all other matrices, but that routers and shared experts' gates get 8 bits instead of fewer */
    int group;               /* weights that share a scale in what is quantised: 32, 64 or 128; 0: as the source has, else 64 */
    bool search;             /* quantise by a search for the least squared error instead of by MLX's rule */
    bool delete_consumed;    /* gives the source's weights back to the disk: a file of which all is packed is in .consumed beside its place from then on, and
                                gone at the end. Of one that has another name, or is a link that another snapshot of huggingface_hub's cache has too or that
                                leads elsewhere, only this name goes */
    const char
        *rules; /* JSON file: [{"tensors": GLOB, "layers": "0-3", "bits": 6 | "bf16" | "keep", "group": 32, "search": true}, …], of which only tensors must
                                be there; names are the packed model's without .weight; later rules win over earlier ones, and all over the above. NULL: none */
    const char *profile;   /* file of fm_profile_record, whose mean squares of columns the search weighs errors by; NULL: the norms' weights */
    int experts_too;       /* bits of a second copy of each expert, for cold_bits: 2, 3, 4, 5, 6 or 8; 0: none */
    uint64_t memory_bytes; /* 0: half of what is free, at most 2 GiB */
    int n_threads;         /* 0: one per usable CPU and six more, as they wait for the disk; fewer if memory_bytes asks for it */
    /* what is "writing the dense part" or "writing experts", in bytes. Return non-zero to cancel. NULL: none. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user;
} fm_pack_options;

#define FM_PACK_OPTIONS_INIT                                                                                                                                   \
    { .size = sizeof(fm_pack_options) }

typedef struct fm_pack_plan {
    char source[32], architecture[96]; /* as in fm_model_info */
    int n_layers, n_moe_layers, n_experts, n_threads;
    bool dense_done; /* by the run that this one goes on with */
    int n_layers_done;
    uint64_t source_bytes; /* to be read */
    uint64_t dense_bytes;  /* dense.safetensors */
    uint64_t expert_bytes; /* one expert, of the largest layer */
    uint64_t model_bytes;  /* dense part and experts, when all is done */
    uint64_t write_bytes;  /* of it, still to be written */
    uint64_t disk_bytes;   /* that have to be free: write_bytes, less what is given back meanwhile */
    uint64_t free_bytes;   /* where directory is to be */
    uint64_t memory_bytes; /* that packing takes */
} fm_pack_plan;

/* What fm_pack_model would do. FM_EIO: directory is there already; FM_EINVAL: options or rules; FM_ENOMEM: it needs more than memory_bytes. */
FM_API int fm_pack_plan_make(fm_pack_plan *out, const char *model, const char *directory, const fm_pack_options *options, fm_error *err);

typedef struct fm_pack_figure { /* what was lost in matrices that were not kept as they were */
    char what[96];              /* "experts down", "attention" …, or a matrix by name */
    char from[32], to[32];      /* of the first of them: "bf16", "4-bit group 64" */
    uint64_t n_weights;
    double rmse;     /* root mean square of what was lost */
    double relative; /* rmse over the root mean square of the weights */
    double cosine;   /* between the weights before and after */
} fm_pack_figure;

enum { FM_PACK_KINDS = 16, FM_PACK_WORST = 8 };

typedef struct fm_pack_result {
    fm_pack_plan plan;
    fm_pack_figure kinds[FM_PACK_KINDS], worst[FM_PACK_WORST];
    int n_kinds, n_worst;
    int n_unfit; /* dense matrices that were kept because their columns are no whole number of groups */
    uint64_t read_bytes, written_bytes;
    double seconds; /* of reading, converting and writing these */
    double disk_read_per_second,
        disk_write_per_second; /* bytes: measured just before, in pieces of 1 MiB with as many threads; 0: not measured, as there is little */
    bool direct;               /* the source is read past the page cache */
    uint64_t kept_bytes;       /* of the source's files that delete_consumed has not given back, as others share them */
} fm_pack_result;

/* Writes model as a packed one, which appears as directory when it is whole. Until then there are DIR.part and the journal DIR.part.json: whatever ends the run, the same
 * call goes on after the last whole layer, and comes to the same bytes. FM_EIO if it does not fit the disk, or if the source has changed since it began. FM_ENAN for weights
 * that are not finite. result may be NULL. */
FM_API int fm_pack_model(const char *model, const char *directory, const fm_pack_options *options, fm_pack_result *result, fm_error *err);

enum { FM_VERIFY_WRONG = 8 };

typedef struct fm_verify_result {
    int n_files, n_tensors, n_experts; /* that were checked */
    uint64_t bytes;
    double seconds, disk_per_second; /* bytes the disk gives in the same way when nothing is done with them; 0: not measured, as there is little */
    int n_wrong;
    char wrong[FM_VERIFY_WRONG][300]; /* the first of them, a sentence each */
} fm_verify_result;

/* Reads all of a packed model and checks every hash. Returns how many are wrong; what cannot be read at all is an error. progress as in fm_pack_options, of what "verifying". */
FM_API int fm_verify_model(const char *directory, int n_threads, int (*progress)(void *user, const char *what, uint64_t done, uint64_t total), void *user,
                           fm_verify_result *out, fm_error *err);

/* ---- pull: a model from the Hugging Face hub -------------------------------------------------------------------------- */

typedef struct fm_pull_options {
    size_t size;          /* sizeof(fm_pull_options) */
    const char *cache;    /* the directory of huggingface_hub's cache, which is shared with it: ~/.cache/huggingface/hub. Must be given */
    const char *endpoint; /* NULL: https://huggingface.co */
    const char *token;    /* sent to endpoint only. NULL: none */
    int n_connections;    /* 0: 8; at most 64 */
    int n_retries;        /* failures in a row, without a byte between them, after which a file is given up; 0: 10 */
    bool any_model;       /* models too that this version does not run */
    const char *pack;     /* directory: packs the model into it, each shard as it arrives, as fm_pack_model does. NULL: only pulls */
    /* of pack. NULL: everything is kept. With delete_consumed shards do not go into the cache, but into PACK.pull, from which they are removed as they are packed; config_from is
     * not for here, and progress is this one's. */
    const fm_pack_options *pack_options;
    /* Each file that is needed, and how many of its bytes are here. NULL: none. */
    void (*file)(void *user, const char *name, uint64_t bytes, uint64_t here);
    /* what is "asking the hub", "pulling" or what fm_pack_options says, in bytes. Return non-zero to cancel. NULL: none. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user; /* handed to both */
} fm_pull_options;

#define FM_PULL_OPTIONS_INIT                                                                                                                                   \
    { .size = sizeof(fm_pull_options) }

typedef struct fm_pull_plan {
    char name[200], revision[200], commit[41], architecture[96];
    char path[2304]; /* of the snapshot, where the model is when all is there */
    int n_files;
    uint64_t bytes, here_bytes; /* of all files that are needed, and of them those that are here */
    uint64_t free_bytes;        /* on the cache's disk */
} fm_pull_plan;

/* What fm_pull would do: asks the hub, writes nothing. name: "ORG/NAME" or "ORG/NAME@REVISION", a branch, a tag or a commit. FM_EINVAL: it is no name of a model; FM_EIO: the
 * hub does not have it, does not give it, or cannot be reached; FM_EFORMAT: its answer is wrong, or it has no weights that could be run; FM_EUNSUPPORTED: a model that this
 * version does not run. */
FM_API int fm_pull_plan_make(fm_pull_plan *out, const char *name, const fm_pull_options *options, fm_error *err);

typedef struct fm_pull_result {
    fm_pull_plan plan; /* as it was before */
    double seconds;
    fm_pack_result pack;
} fm_pull_result;

/* Fetches what the engine needs of a model: weights as safetensors, or a packed model, configs, tokenizer and templates. Each file's hash is checked. Whatever ends it, the same
 * call goes on where it was. FM_EIO before anything is written when it does not fit the disk. result may be NULL. */
FM_API int fm_pull(const char *name, const fm_pull_options *options, fm_pull_result *result, fm_error *err);

/* Where a model that was pulled before is: the path of its snapshot into path [size]. The hub is not asked. FM_EINVAL: name is no name of a model; FM_EIO: it is not in the cache,
 * or not all of it; one of which fm_pack_model has given files back is found until all of it is packed, so that that can go on. */
FM_API int fm_pull_find(char *path, size_t size, const char *name, const char *cache, fm_error *err);

/* ---- quality: how well a model predicts a text, and how far two models are from each other -------------------------- */

typedef struct fm_quality_options {
    size_t size;
    int window; /* tokens that are predicted from each other; 0: 512 */
    int stride; /* tokens from one window to the next; of an overlap only what is new is counted; 0: window */
    int decode; /* fm_compare: tokens of the text that each model is also given one at a time, to compare speeds; 0: none */
    /* Each predicted token: its place in the text and the negative logarithm of its probability; nll_b is the second model's. Non-zero stops. NULL: none. */
    int (*token)(void *user, int place, int32_t id, double nll, double nll_b);
    /* what is "tokens". Non-zero cancels. NULL: none. */
    int (*progress)(void *user, const char *what, uint64_t done, uint64_t total);
    void *user; /* handed to both */
} fm_quality_options;

#define FM_QUALITY_OPTIONS_INIT                                                                                                                                \
    { .size = sizeof(fm_quality_options) }

typedef struct fm_perplexity_result {
    int n_tokens; /* predicted */
    double mean_nll, perplexity, seconds;
} fm_perplexity_result;

/* Cuts ids [n] into windows, each in an empty session, and predicts each of their tokens but the first from those before it; where fm_engine_cache_matters, tokens are given one
 * at a time, as in decoding. FM_EINVAL if there is nothing to predict or a
 * window does not fit the context; FM_ENAN naming the token whose likelihood is not a number. */
FM_API int fm_perplexity(fm_engine *engine, const int32_t *ids, int n, const fm_quality_options *options, fm_perplexity_result *out, fm_error *err);

typedef struct fm_compare_result {
    fm_perplexity_result a, b;
    double kl_mean, kl_median, kl_p90, kl_p99, kl_most; /* KL divergence of b from a, over the predicted tokens, in nats */
    double same_top;                                    /* share of them with the same likeliest token */
    double decode_a, decode_b;                          /* tokens a second, one at a time; 0: not measured */
} fm_compare_result;

/* The same for two engines with one vocabulary, whose predictions are compared at every token; b's window must fit as well. */
FM_API int fm_compare(fm_engine *a, fm_engine *b, const int32_t *ids, int n, const fm_quality_options *options, fm_compare_result *out, fm_error *err);

/* ---- bench: this machine, this model, and which share of the limit was reached ------------------------------------- */

#define FM_BENCH_PREFILLS 8
#define FM_BENCH_RATES 12
#define FM_BENCH_WARNINGS 8
#define FM_BENCH_MAX_RUNS 100

typedef struct fm_bench_options {
    size_t size;
    int n_runs;                     /* of each case; 0: 5 */
    int n_tokens;                   /* decoded in a run; 0: 64 */
    int n_prefill;                  /* 0: 128, 512 and 2048 tokens, as far as they fit in the context */
    int prefill[FM_BENCH_PREFILLS]; /* lengths of prompts */
    const char *routing; /* NULL or "model": the model's own; a preset ("uniform", "128x8" …), or the path of a trace or of a JSON file {"exponent", "reuse"} */
} fm_bench_options;

#define FM_BENCH_OPTIONS_INIT                                                                                                                                  \
    { .size = sizeof(fm_bench_options) }

typedef struct fm_spread { /* of several samples */
    double median, least, most;
} fm_spread;

typedef struct fm_bench_rate {
    int level; /* threads that read memory; disk reads in flight */
    fm_spread bytes_per_second;
} fm_bench_rate;

typedef struct fm_bench_case { /* medians of its runs; sums are of one run */
    char name[16];             /* "warm", "cold", "rotating", "prefill" */
    int n_runs, n_tokens;
    fm_spread tokens_per_second;
    double hit_rate;             /* of the experts asked for; 1 if there are none */
    double disk_bytes_per_token; /* that the disk delivered */
    double ram_bytes_per_token;  /* weights, states and experts read, and missed experts written */
    double stall_seconds;        /* computing thread waiting for the disk */
    double compute_seconds;      /* computing thread at work */
    fm_spread share_of_limit;    /* decode: the floor without prediction; prefill: max(disk, products, memory); over the time taken */
    fm_spread share_of_ideal;    /* max(memory, disk) of all bytes, as if everything could overlap; over the time taken. Prefill: 0 */
} fm_bench_case;

typedef struct fm_bench {
    int n_threads;
    fm_bench_rate ram[FM_BENCH_RATES], disk[FM_BENCH_RATES]; /* plain reads by threads; reads of expert_bytes by how many are in flight */
    int n_ram, n_disk;
    fm_spread ram_bytes_per_second, disk_bytes_per_second; /* what the limits use: all threads; the best number in flight, between the runs. 0: no experts */
    fm_spread operations_per_second; /* of the kernel that multiplies experts, 32 tokens at once, operands in the caches; 2 for a product */
    uint64_t expert_bytes;           /* of one disk read */
    bool direct;                     /* experts are read past the page cache */
    char routing[256];               /* where the choice of experts came from */
    fm_bench_case decode[3];         /* warm, cold, rotating */
    fm_bench_case prefill[FM_BENCH_PREFILLS];
    int n_prefill, n_warnings;
    char warnings[FM_BENCH_WARNINGS][200]; /* why the numbers may not be this machine's best: sentences */
} fm_bench;

/* Measures the machine and this engine's model, in turns, with random tokens; takes a minute or more. One session is opened and closed; the cache ends up
 * as the last run left it. Measuring takes up to a 64th of the budget (two experts at least) for disk reads, and 256 MiB or four caches of what is free if
 * the dense weights are smaller.
 *   warm      one text goes on, the cache as its beginning left it
 *   rotating  another text each run, the cache kept
 *   prefill   another prompt each run (at most 3 of a length), the cache kept
 *   cold      the cache is emptied before each run, and the page cache too where experts are read through it
 * FM_EINVAL: options out of range, a routing that is not there or is of another model, a context that is too small. FM_ECANCELLED. */
FM_API int fm_bench_run(fm_bench *out, fm_engine *engine, const fm_bench_options *options, fm_error *err);

/* ---- trace: recording routing, and replaying it --------------------------------------------------------------------- */

typedef struct fm_trace_options {
    size_t size;
    int max_tokens;              /* decoded after each prompt; 0: none; -1: until the model ends or the context is full */
    bool ignore_eos;             /* go on after the model's end-of-text token */
    const fm_sampling *sampling; /* each prompt's seed is the one before plus 1; NULL: the model's own, seed 0 */
    const char *name;            /* of the prompts, for the file's header; NULL: none */
    const char *states;          /* file for what the routers see: a NumPy array of float32 [tokens][layers with experts][hidden]; NULL: none */
} fm_trace_options;

#define FM_TRACE_OPTIONS_INIT                                                                                                                                  \
    { .size = sizeof(fm_trace_options), .max_tokens = 128 }

typedef struct fm_traced {
    int n_sequences, n_prompt, n_decoded; /* prompts; tokens computed of prompts, and after them (the last one chosen is not computed any more) */
    bool predicted;                       /* predictions were recorded */
    uint64_t file_bytes;
} fm_traced;

/* Reads each prompt into an empty session, decodes, and writes to path which experts each token was routed to. The file is the same for any budget, threads and
 * policy, and appears under its name when it is whole. out may be NULL. */
FM_API int fm_trace_record(fm_engine *engine, const char *const *prompts, int n_prompts, const char *path, const fm_trace_options *options, fm_traced *out,
                           fm_error *err);

/* The tokens whose hits are counted apart. */
enum { FM_REPLAY_PROMPT, FM_REPLAY_DECODED, FM_REPLAY_LATER /* decoded, in the second half of the trace */, FM_REPLAY_PARTS };
enum { FM_REPLAY_LAGS = 5, FM_REPLAY_UNIONS = 3 };

typedef struct fm_replay_options {
    size_t size;
    const int *slots; /* budgets in experts */
    int n_slots;
    const double *shares; /* and as shares of all experts, above 0 to 1; neither slots nor shares: 0.05, 0.08, 0.1, 0.15, 0.2, 0.25, 0.33, 0.5, 0.75 */
    int n_shares;
    int batch; /* tokens of a prompt that are computed together; 0: 4096 */
} fm_replay_options;

#define FM_REPLAY_OPTIONS_INIT                                                                                                                                 \
    { .size = sizeof(fm_replay_options) }

typedef struct fm_replay_row {       /* one policy under one budget */
    const char *policy;              /* "belady" (the optimum of each part by itself, knowing the future) or one that engines have */
    uint64_t hits[FM_REPLAY_PARTS];  /* experts asked for and found */
    const uint64_t *hits_by_layer;   /* [n_layers], of decoded tokens */
    uint64_t n_predicted_misses;     /* misses of decoded tokens that were predicted, of those with a prediction: */
    uint64_t n_misses_with_forecast; /* 0: nothing was predicted */
} fm_replay_row;

typedef struct fm_replay_budget {
    int n_slots;
    double share;         /* of all experts */
    uint64_t static_hits; /* of FM_REPLAY_LATER if the experts used most in the first half stayed for good, less room for one layer's others */
    const fm_replay_row *rows;
} fm_replay_budget;

/* What a recorded routing says about caching. Every cache begins empty and stays as it is from one sequence to the next. */
typedef struct fm_replay {
    char model_type[64], architecture[96];
    const char *how; /* it was made: JSON */
    int n_layers, n_moe_layers, n_experts, top_k, n_experts_total;
    int n_sequences, n_prompt, n_decoded; /* tokens */
    uint64_t n_requests[FM_REPLAY_PARTS]; /* experts asked for; once for all tokens of a batch */
    const uint64_t *n_requests_by_layer;  /* [n_layers], of decoded tokens */
    int n_budgets, n_rows;                /* rows of each budget: belady, then the policies, the default first */
    const fm_replay_budget *budgets;      /* ascending */
    int lags[FM_REPLAY_LAGS];             /* 1, 2, 4, 8, 16 */
    double overlaps[FM_REPLAY_LAGS];      /* share of a decoded token's experts that the token so many before had too; NAN: there is none */
    int windows[FM_REPLAY_UNIONS];        /* 2, 4, 8 */
    double unions[FM_REPLAY_UNIONS];      /* distinct experts of so many tokens in sequence, relative to one token's; NAN: there are none */
    double recall;                        /* share of the experts of decoded tokens that were predicted, where there is a prediction; NAN: nowhere */
    double recall_previous;               /* the same if the token before were the prediction: overlaps[0] over the same places; NAN: nowhere */
} fm_replay;

/* Replays the trace at path through the cache policies, as the expert store would use them. */
FM_API int fm_replay_open(fm_replay **out, const char *path, const fm_replay_options *options, fm_error *err);
FM_API void fm_replay_close(fm_replay **replay);

/* ---- profile: which experts a model's tokens use, and what its matrices see ------------------------------------------ */

typedef struct fm_profile_prompt {
    const int32_t *ids;
    int n;
    const char *kind; /* of prompt, such as "code": 1 to 63 bytes */
} fm_profile_prompt;

typedef struct fm_profile_options {
    size_t size;
    int max_tokens;              /* decoded after each prompt; 0: none; -1: until the model ends or the context is full */
    const fm_sampling *sampling; /* each prompt's seed is the one before plus 1; NULL: the model's own, seed 0 */
    const char *name;            /* of the prompts, for the file; NULL: none */
} fm_profile_options;

#define FM_PROFILE_OPTIONS_INIT                                                                                                                                \
    { .size = sizeof(fm_profile_options), .max_tokens = 64 }

/* Reads each prompt into an empty session, decodes, and writes to path how often and with what weight each token used which expert, by kind of prompt, and the mean
 * square of each column of what the matrices were multiplied with. The file appears under its name when it is whole. FM_EINVAL: no prompt, or one without tokens. */
FM_API int fm_profile_record(fm_engine *engine, const fm_profile_prompt *prompts, int n_prompts, const char *path, const fm_profile_options *options,
                             fm_error *err);

typedef struct fm_profile_kind {
    char name[64];
    int n_prompts;
    uint64_t n_tokens;     /* 0: not known (older files) */
    const double *uses;    /* [n_layers][n_experts]: tokens that went through it */
    const double *weights; /* the same: sum of the router's weights; 0 in older files */
} fm_profile_kind;

typedef struct fm_profile {
    char model_type[64], architecture[96]; /* "": not known (older files) */
    bool older;                            /* JSON with universal and activation_counts, of other flash-moe programs */
    int n_layers, n_experts, top_k;        /* top_k 0: not known */
    int n_kinds;
    const fm_profile_kind *kinds;
    struct fm_profile_columns *columns; /* what fm_pack_model weighs by; NULL: none */
} fm_profile;

enum { FM_PROFILE_ALL = -1 }; /* kinds, or layers */

/* FM_EFORMAT naming path and place for anything that is no profile. */
FM_API int fm_profile_open(fm_profile **out, const char *path, fm_error *err);
FM_API void fm_profile_close(fm_profile **profile);
/* The fewest experts that have `share` of the uses; 0 if there are none. */
FM_API int fm_profile_needed(const fm_profile *profile, int kind, int layer, double share);
/* How alike two kinds of prompts are: the share of uses, by layer, that they have in common: 0 to 1. */
FM_API double fm_profile_overlap(const fm_profile *profile, int a, int b);

#ifdef __cplusplus
}
#endif
#endif
