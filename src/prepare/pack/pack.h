/* prepare/pack/pack.h: the inside of packing a model: what becomes of each matrix (choose.c), the dense part (dense.c), experts (experts.c), what was lost (figures.c), and
 * what has to be remembered to go on after a stop (journal.c). pack.c puts them together. */
#ifndef FM_PREPARE_PACK_PACK_H
#define FM_PREPARE_PACK_PACK_H

#include <stdatomic.h>

#include "base/memory.h"
#include "flash_moe_tools.h"
#include "formats/profile.h"
#include "model/model.h"
#include "prepare/pack/convert.h"

#define FM_PATH_BYTES 1300

/* ---- choose.c: what becomes of each matrix ---- */

/* A matrix or vector of the dense part, as a tensor of the packed model, or three. */
typedef struct fm_dense_item {
    char *name;       /* of matrices without .weight */
    fm_source source; /* of all rows of its tensor, without a row map */
    fm_role role;
    int layer;             /* -1: the model's */
    bool matrix, plus_one; /* plus_one: a norm that is stored less 1 and becomes f32 */
    fm_target target;      /* matrices */
    uint8_t *side[2];      /* scales and biases, between being made and being written */
} fm_dense_item;

typedef struct fm_choice {
    fm_dense_item *items;
    int n_items, room;
    int n_copies;                             /* of each expert: 1 or 2 */
    fm_target (*experts)[FM_EXPERT_MATRICES]; /* [n_copies * n_layers]: those of the narrow copies of layer i are at n_layers + i */
    bool searched;                            /* something is quantised by the search */
    float *importance;                        /* [1 + 2 * n_layers][hidden]: of the final norm, and of each layer's two; NULL: none */
    fm_profile *profile;                      /* whose columns' mean squares, about 1 on the average, go before that; NULL: none */
    int n_unfit;
    bool requantised; /* config.json has to say something new of the dense part */
} fm_choice;

int fm_choice_make(fm_choice *choice, const fm_model *model, const fm_pack_options *options, fm_error *err);
void fm_choice_close(fm_choice *choice);
/* If something is searched: reads what a layer's experts are weighed by, of its second norm; layer -1: all norms'. */
int fm_choice_weigh(fm_choice *choice, const fm_model *model, int layer, fm_error *err);
/* The importance of the n columns of a dense item, or of an expert's matrix; NULL: all the same. */
const float *fm_choice_importance(const fm_choice *choice, const fm_model *model, int layer, int role, int n);
enum { FM_ROLE_EXPERT_IN = FM_N_ROLES, FM_ROLE_EXPERT_DOWN };

/* rules.c */
typedef struct fm_rule {
    char *tensors;
    int first, last; /* layers; 0 to INT_MAX: all, the model's too */
    int bits, group; /* -1: not said */
    int search;      /* -1: not said */
    int n_used;
} fm_rule;
typedef struct fm_rules {
    char path[FM_PATH_BYTES];
    fm_rule *rules;
    int n;
} fm_rules;
int fm_rules_open(fm_rules *rules, const char *path, fm_error *err);
/* From the text, on its own for the fuzzer. */
int fm_rules_parse(fm_rules *rules, const char *path, const char *text, size_t bytes, fm_error *err);
void fm_rules_close(fm_rules *rules);

/* ---- figures.c: what was lost ---- */

typedef struct fm_figure {
    char what[96], from[32], to[32];
    fm_deviation sum;
} fm_figure;

typedef struct fm_figures {
    fm_figure kinds[FM_PACK_KINDS], worst[FM_PACK_WORST];
    int n_kinds, n_worst;
} fm_figures;

/* Adds a matrix called name, of a kind; figures do not depend on the order of matrices within a kind but for rounding, so the caller keeps one. */
void fm_figures_add(fm_figures *f, const char *kind, const char *name, const fm_matrix_type *from, const fm_matrix_type *to, const fm_deviation *sum);
json_t *fm_figures_json(const fm_figures *f);
void fm_figures_read(fm_figures *f, const json_t *json);
void fm_figures_result(const fm_figures *f, fm_pack_result *out);

/* ---- a source that arrives while it is packed ---- */

/* Shards of the model that fm_pack_model_fed is given may be missing: then a file of the right size is in their place of which only the header has been written. Such a one
 * may be replaced while it is waited for. All functions are called from the thread that called fm_pack_model_fed. */
typedef struct fm_pack_feed {
    /* Before anything is waited for: the shards' names [n] in the order in which they will be needed, and the bytes that will be written. */
    int (*begin)(void *user, const char *const *names, int n, uint64_t write_bytes, fm_error *err);
    /* Returns when a shard is whole and in its place, with its progress said meanwhile. */
    int (*wait)(void *user, const char *name, fm_error *err);
    const char *(*hash)(void *user, const char *name); /* says what is in it, wherever it comes from */
    uint64_t (*missing)(void *user, const char *name); /* bytes that are not on this disk yet; 0 if they will be on another one */
    bool (*may_consume)(void *user, const char *name); /* it is nobody else's */
    int n_ahead;                                       /* shards that may be there before they are needed */
    void *user;
} fm_pack_feed;

/* fm_pack_model, but that the layers are packed in the order in which they become whole, and the dense part last: the bytes are the same. The source's files are left to the
 * caller. delete_consumed only gives experts back. */
int fm_pack_model_fed(const char *model, const char *directory, const fm_pack_options *options, const fm_pack_feed *feed, fm_pack_result *result,
                      fm_error *err);

/* ---- journal.c: DIR.part.json ---- */

typedef struct fm_journal {
    char path[FM_PATH_BYTES];
    json_t *job;              /* what is being done, of what */
    json_t *state;            /* the packer's, of the run before; NULL: none */
    json_t *consumed;         /* names of source files that are given back */
    json_t *removing;         /* {"model": its directory, "files": in it}: the model is packed, and these are being removed. NULL: not yet */
    const fm_pack_feed *feed; /* NULL: all is there */
} fm_journal;

/* job: owned from now on. Reads the journal if there is one; FM_EIO if it is of another job, or a source file has changed. */
int fm_journal_open(fm_journal *j, const char *directory, json_t *job, fm_figures *figures, const fm_pack_feed *feed, fm_error *err);
int fm_journal_save(const fm_journal *j, const json_t *state, const fm_figures *figures, fm_error *err);
/* Whether there is one that says so of any file. */
bool fm_journal_has_consumed(const char *directory);
/* The files whose removal a run before had begun, of a model that was packed as directory; NULL: none had. The rest of the journal goes to *j. */
const json_t *fm_journal_removing(fm_journal *j, const char *model, const char *directory, fm_figures *figures);
void fm_journal_remove(const fm_journal *j);
void fm_journal_close(fm_journal *j);
/* Name, bytes and time, or hash if it is fed, of each of the source's files; NULL without memory. */
json_t *fm_journal_sources(const fm_model *model, const fm_pack_feed *feed);
/* FM_EIO if a file is not what the job says. */
int fm_journal_check(const fm_journal *j, const fm_model *model, fm_error *err);
bool fm_journal_is_consumed(const fm_journal *j, const fm_model *model, int file);

/* ---- consume.c: the source's files, from when they are needed to when they are not ---- */

typedef struct fm_uses {
    int *order; /* [n] layers with experts, as they are packed */
    int n;
    uint8_t *uses; /* [n_layers][n_files]: whether a layer's experts lie in a file, at all or in part, or what they are weighed by */
    int *files;    /* [n_files] in the order in which they are needed */
    bool *here;    /* [n_files] */
} fm_uses;

/* ---- pack.c ---- */

typedef struct fm_pack_job {
    fm_pack_options options;
    const fm_pack_feed *feed; /* NULL: all of the source is there */
    fm_model *model;
    fm_uses uses;
    fm_config config; /* the source's config.json */
    fm_choice choice;
    fm_figures figures;
    fm_journal journal;
    fm_packer *packer;
    fm_pool *pool;
    fm_error *errors; /* [n_threads] */
    atomic_int failed;
    fm_region buffers; /* [n_threads][thread_bytes], then what the dense part takes besides */
    size_t thread_bytes;
    int n_threads;
    bool direct;
    _Atomic uint64_t read_bytes;
    uint64_t done, total, written_bytes;
} fm_pack_job;

/* Notes what a thread met; the others stop. */
void fm_pack_stop(fm_pack_job *job, int thread, int rc);
int fm_pack_first_error(const fm_pack_job *job, fm_error *err);
bool fm_pack_cancelled(const fm_pack_job *job, const char *what, uint64_t done, uint64_t total);
/* FM_ENAN if one of n values of a tensor, from `first` on, is not finite. */
int fm_pack_finite(const fm_model *model, const fm_tensor *t, const uint8_t *data, uint64_t first, uint64_t n, fm_error *err);

/* dense.c: bytes of dense.safetensors; what it takes in memory, a thread and besides; and writing it. */
int fm_dense_bytes(const fm_choice *choice, uint64_t *bytes, fm_error *err);
uint64_t fm_dense_source_bytes(const fm_choice *choice);
size_t fm_dense_thread_bytes(const fm_choice *choice);
size_t fm_dense_shared_bytes(const fm_choice *choice);
size_t fm_dense_side_bytes(const fm_choice *choice);
int fm_dense_write(fm_pack_job *job, fm_error *err);

/* experts.c: the i-th layer to be written: of each its narrow copies, if there are such, and then itself; what it takes in memory a thread, and writing all layers that are not
 * written. */
int fm_experts_layer(const fm_pack_job *job, int i);
size_t fm_experts_thread_bytes(const fm_pack_job *job);
int fm_experts_write(fm_pack_job *job, fm_error *err);
void fm_target_types(const fm_target targets[FM_EXPERT_MATRICES], fm_matrix_type types[FM_EXPERT_MATRICES]);

/* disk.c: bytes a second that the pool's threads read from files, in pieces of 1 MiB past the page cache (0: that does not work here); and that they write to a new file
 * at path, which is removed. buffers: [n_threads][FM_DISK_PIECE], page-aligned. */
#define FM_DISK_PIECE ((size_t)1 << 20)
double fm_disk_read_rate(fm_pool *pool, const fm_file *files, int n_files, uint8_t *buffers, double seconds);
double fm_disk_write_rate(fm_pool *pool, const char *path, uint8_t *buffers, double seconds);

/* consume.c: the order of layers and files; bytes that have to be free for a source that arrives meanwhile, with the layers of state done. */
int fm_uses_make(fm_pack_job *job, fm_error *err);
void fm_uses_close(fm_uses *uses);
uint64_t fm_uses_peak(const fm_pack_job *job, const json_t *state, uint64_t dense_bytes, uint64_t (*layer_bytes)(const fm_pack_job *job, int layer));
int fm_feed_begin(fm_pack_job *job, uint64_t write_bytes, fm_error *err);
/* Waits for the files of a layer's experts and reads what these are weighed by; layer -1: for all. */
int fm_feed_wait(fm_pack_job *job, int layer, fm_error *err);
/* Bytes that a layer's end gives back; gives the bytes of source files back whose experts are all written; and at the end the files. */
uint64_t fm_consume_bytes(const fm_pack_job *job, int layer);
int fm_consume_layer(fm_pack_job *job, int layer, fm_error *err);
int fm_consume_files(fm_pack_job *job, uint64_t *kept_bytes, fm_error *err);
/* fm_model_open, of a source of which a run before may have consumed some. */
int fm_consumed_open(fm_model **model, const char *path, const char *directory, const char *config_from, fm_error *err);
/* FM_EIO if they cannot be removed then. */
int fm_consume_check(const fm_pack_job *job, fm_error *err);
/* Goes on with that where a run before was stopped. */
int fm_consume_rest(const fm_journal *journal, const char *model, const json_t *files, uint64_t *kept_bytes, fm_error *err);

#endif
