/* model/model.h: a checkpoint opened and understood: its description, and for every role the tensors it comes from, checked in type and shape. No weights
 * are read; `info` and `plan` stop here. */
#ifndef FM_MODEL_MODEL_H
#define FM_MODEL_MODEL_H

#include "base/pool.h"
#include "experts/store.h"
#include "formats/pack.h"
#include "model/family.h"

/* Where one matrix or vector comes from, and what it will be in memory. */
typedef struct fm_source {
    const fm_tensor *weight;          /* NULL: this model does not have it */
    const fm_tensor *scales, *biases; /* quantised only; fp8 has scales alone */
    fm_shape shape;
    fm_matrix_type type;    /* matrices only */
    const int32_t *row_map; /* [rows] source row of each row; NULL: the same */
    int first;              /* vectors: their first value in the tensor */
    /* 0, or rows of a head in the tensor, of type `from`: the first shape.cols of them are turned into columns here, head after head. */
    int turned;
    fm_matrix_type from;
} fm_source;

/* Tensors that a matrix or vector comes from. */
static inline int fm_source_parts(const fm_source *s) { return s->biases ? 3 : s->scales ? 2 : 1; }

enum { FM_GATE, FM_UP, FM_DOWN, FM_GATE_BIAS, FM_UP_BIAS, FM_DOWN_BIAS }; /* an expert's matrices, biases as of one column */

/* How one layer's experts lie in a slot, and where their bytes come from. */
typedef struct fm_expert_matrix {
    fm_matrix_type type;
    size_t slot_offset; /* of its first byte, a multiple of 64 */
    int extent[3];      /* of weight, scales, biases; -1: none; of a packed matrix the first is all of it */
    uint32_t skip[3];   /* bytes into the extent */
    int step;           /* its rows are so many apart there; 0: 1 */
    bool transposed;    /* floats: column by column, the rows of one `step` apart */
    int n_tensors;      /* on disk, of all experts; up has 0 where it shares gate's */
} fm_expert_matrix;

typedef struct fm_expert_layout {
    fm_expert_matrix matrix[FM_EXPERT_MATRICES]; /* type.rows 0: it has none */
    size_t slot_bytes;                           /* of this layer's experts in memory */
    uint64_t disk_bytes;                         /* of one expert on disk */
} fm_expert_layout;

typedef struct fm_model {
    char path[1024];
    const char *source; /* "safetensors", "mlx", "packed_experts", "packed" */
    const fm_family *family;
    fm_description description;
    fm_tensors tensors;
    bool mlx; /* norms are stored plain, conv as [channels][taps][1] */
    const char *prefix;
    fm_source (*sources)[FM_N_ROLES]; /* [1 + n_layers]: the model's, then each layer's */
    int32_t *row_maps;                /* memory of the sources' row maps */
    int n_copies; /* of each expert: 1; 2: a packed model has narrow ones too, as if they were layers n_layers and on: of key + n_layers * n_experts */
    fm_expert_layout *experts; /* [n_copies * n_layers] */
    fm_extent *extents;        /* [n_copies * n_layers * n_experts][n_extents] */
    int n_extents;
    size_t slot_bytes; /* the largest layer's */
    fm_pack *pack;     /* NULL: not a packed model */
    fm_file *mirrors;  /* [tensors.n_files] copies of the experts' files, NULL: none */
    bool in_place;     /* packed, and a slot's bytes are those on disk: experts are read into their slots */
    uint8_t *used;     /* [n_tensors]: FM_USED_… */
    int32_t eos[16];   /* ids that end a text, from generation_config.json, else config.json */
    int n_eos;
} fm_model;

enum { FM_USED_NOT, FM_USED_RUN, FM_USED_LEFT_OUT, FM_USED_IGNORED };

/* Opens directory as one of families. Errors name path, tensor or key, and number: a missing tensor, a wrong shape or type, a tensor that the family does not
 * have, an architecture or quantisation that is not supported. */
int fm_model_open(fm_model **model, const char *directory, const char *config_from, const fm_family *const *families, fm_error *err);
void fm_model_close(fm_model **model);

/* Opens the copies of the experts' files below directory. FM_EUNSUPPORTED: the model is not packed; FM_EFORMAT: a copy of another size. What is in them is checked by each
 * expert's hash, as it is read. */
int fm_model_mirror(fm_model *model, const char *directory, fm_error *err);
/* The one of families that config.json's architecture and model_type belong to; fills these two of the description. FM_EUNSUPPORTED naming both. */
int fm_model_find_family(const fm_family **family, fm_description *d, const fm_config *config, const fm_family *const *families, fm_error *err);

/* The path of a file of the snapshot that may lie in config_from (may be NULL) instead; false: it is in neither. */
bool fm_model_find_file(char *out, size_t size, const char *directory, const char *config_from, const char *name);

/* Why tensor is left out ("vision", "mtp"), or NULL. */
const char *fm_model_left_out(const fm_model *model, const char *name);

/* An expert whose extents' bytes are at parts (of any alignment) and are to be put into its slot; parts NULL: it is there already. */
typedef struct fm_arrival {
    int key;
    uint8_t *slot;
    const uint8_t *const *parts;
} fm_arrival;

#define FM_MAX_ARRIVALS 16

/* Fills the slots of n arrivals (at most FM_MAX_ARRIVALS) with the pool's threads, permuting quantised matrices. FM_ENAN, naming file, tensor, expert and value, for
 * one that is not finite; FM_EFORMAT for an expert of a packed model whose hash is wrong (looked at once); *bad is then its arrival. */
int fm_experts_fill(const fm_model *model, fm_pool *pool, const fm_arrival *arrivals, int n, int *bad, fm_error *err);

/* Rows [first, last) of part 0..2 of a matrix, whose bytes as on disk are at from, one after the other at to. */
void fm_expert_gather(const fm_expert_matrix *matrix, int part, const uint8_t *from, int first, int last, uint8_t *to);

/* FM_EFORMAT if the bytes of a packed expert do not have its hash. */
int fm_expert_verify(const fm_model *model, int key, const uint8_t *data, fm_error *err);
/* FM_ENAN: value, number `at` of part 0..2 (weight, scales, biases) of a matrix, counted by rows, is not finite. */
int fm_expert_nonfinite(const fm_model *model, int key, int which, int part, uint64_t at, const void *value, fm_error *err);

/* What to add to a key for its narrow copy. */
static inline int fm_model_narrow(const fm_model *m) { return m->description.n_layers * m->description.n_experts; }

/* The matrix as it lies in a slot, data NULL: it has none. */
static inline fm_matrix fm_expert_matrix_in(const fm_expert_layout *layout, int which, const uint8_t *slot) {
    return (fm_matrix){layout->matrix[which].type, layout->matrix[which].type.rows ? slot + layout->matrix[which].slot_offset : NULL};
}

/* Names `tensor`'s value i as "row, column" with its number in an FM_ENAN error. */
int fm_model_nonfinite(const fm_model *model, const fm_tensor *tensor, uint64_t i, float value, fm_error *err);

#endif
