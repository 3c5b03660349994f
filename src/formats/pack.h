/* formats/pack.h: a packed model: the form in which one expert is one read that ends where the kernels use it.
 *
 *   DIR/model.json           what follows; its "format" is "flash-moe" and its "version" FM_PACK_VERSION
 *   DIR/dense.safetensors    every tensor but the experts', under the names and in the forms of an MLX snapshot
 *   DIR/experts/layer_NN.bin one file a layer that has experts
 *   DIR/config.json …        and generation_config.json, tokenizer and template files as in the snapshot
 *
 * model.json: {"format": "flash-moe", "version": 1, "made_by": "…", "dense": {"file": "dense.safetensors", "tensors": {NAME: HASH}},
 *   "layers": [null, or {"file": "experts/layer_00.bin", "expert_bytes": B, "gate": M, "up": M, "down": M}, one for each of the model's layers]}.
 *   M is {"rows": R, "cols": C, "format": "affine", "bits": 4, "group": 64, "scales": "BF16"} or {…, "format": "mxfp4" | "BF16" | "F16" | "F32" | "F8_E4M3"}. Two layers may name
 *   the same file. Experts with biases have "gate_bias", "up_bias" and "down_bias" too, of one column, and after the matrices.
 *   "narrow": as layers, and null for the same of them: second copies of all experts, of fewer bits, in experts/narrow_NN.bin. It may be missing; whoever does not know it runs
 *   the model all the same, so the version is that without it. (What older programs would read wrongly needs another version.)
 *
 * A layer file: expert E lies at E * B, B a multiple of 4096: gate, up, down, each from a multiple of 64 bytes on, zeros between and after. A quantised matrix is r16
 * (quant.h, mxfp4 too) at its native width: with 3, 5 and 6 bits a group has group * bits / 32 words a row, an LSB-first stream of its values, and is widened on
 * arrival; with 2, 4 and 8 bits, and bf16, f16, f32 and fp8, the bytes are those of a slot and are read into one. After the last expert stand n_experts hashes, one
 * of each expert's B bytes, and one of these hashes' bytes; nothing else. A hash is XXH3 of 64 bits, seed 0; in files little-endian, in JSON 16 hex digits. */
#ifndef FM_FORMATS_PACK_H
#define FM_FORMATS_PACK_H

#include <jansson.h>

#include "formats/quant.h"

#define FM_PACK_VERSION 1

/* An expert's matrices, as every list of them has them: gate, up, down, then their biases as matrices of one column; rows 0: not there. */
#define FM_EXPERT_MATRICES 6

typedef struct fm_pack_layer {
    int file;       /* index into the tensors' files; -1: the layer has no experts */
    uint64_t bytes; /* of one expert */
    fm_matrix_type types[FM_EXPERT_MATRICES];
    uint64_t *hashes; /* [n_experts] */
} fm_pack_layer;

typedef struct fm_pack {
    int n_layers;
    int n_copies;          /* of each expert: 1, or 2 */
    fm_pack_layer *layers; /* [n_copies * n_layers]: the narrow copies of layer i are layer n_layers + i */
    uint8_t *verified;     /* [n_copies * n_layers * n_experts]: whoever reads an expert first checks its hash and sets this, atomically */
} fm_pack;

#define FM_PACK_LAYERS 4096

/* Bytes of one matrix on disk. */
size_t fm_pack_matrix_bytes(const fm_matrix_type *type);
/* Bytes of an expert of these types on disk, and where each matrix begins (offsets may be NULL). */
uint64_t fm_pack_expert_bytes(const fm_matrix_type types[FM_EXPERT_MATRICES], uint64_t offsets[FM_EXPERT_MATRICES]);
/* XXH3 of 64 bits. */
uint64_t fm_pack_hash(const void *data, size_t bytes);
/* The same of what comes in pieces. NULL: no memory. */
typedef struct fm_pack_hasher fm_pack_hasher;
fm_pack_hasher *fm_pack_hasher_open(void);
void fm_pack_hasher_feed(fm_pack_hasher *hasher, const void *data, size_t bytes);
uint64_t fm_pack_hasher_value(const fm_pack_hasher *hasher);
void fm_pack_hasher_close(fm_pack_hasher *hasher);

/* ---- reading: pack.c ---- */

/* Whether directory is a packed model: it has model.json. */
bool fm_pack_here(const char *directory);
/* Adds dense.safetensors and the layers' files to tensors, and reads what model.json says. n_experts is config.json's. FM_EFORMAT with path and number: another version,
 * a file of the wrong size, a table of hashes that is not whole, matrices that are not what their numbers say. */
int fm_pack_open(fm_pack **pack, fm_tensors *tensors, const char *directory, int n_experts, fm_error *err);
void fm_pack_close(fm_pack **pack);

/* ---- writing: pack_write.c ---- */

/* Beside the files of a source that is given back while it is packed: those of which all is packed; and in the source's own a link to the journal of that packing. */
#define FM_PACK_CONSUMED ".consumed"
#define FM_PACK_CONSUMED_JOURNAL ".consumed/journal"

/* Everything is written into DIR.part, which finish renames to DIR. */
typedef struct fm_packer fm_packer;

typedef struct fm_pack_tensor { /* of the dense part */
    const char *name;
    fm_dtype dtype;
    int n_dims;
    uint64_t shape[FM_MAX_DIMS];
} fm_pack_tensor;

/* FM_EIO: DIR is there already, or cannot be made. n_layers and n_experts are the model's. */
int fm_packer_open(fm_packer **packer, const char *directory, int n_layers, int n_experts, fm_error *err);
/* The same of a DIR.part that may have been begun before: state (NULL: nothing is said of it) is what fm_packer_state gave last. What the state names is there already;
 * everything else in DIR.part is removed. Closing without finish leaves DIR.part. FM_EIO also if another program has it open. shape: n_layers, n_experts, n_copies of each
 * expert: layers n_layers and on are the second ones. */
int fm_packer_open_copies(fm_packer **packer, const char *directory, const int shape[3], const json_t *state, fm_error *err);
/* What is written and on the disk, to be gone on with: {"dense_bytes": N, "tensors": {NAME: HASH}, "layers": […]}; NULL without memory. */
json_t *fm_packer_state(const fm_packer *packer);
bool fm_packer_has_dense(const fm_packer *packer);
bool fm_packer_has_layer(const fm_packer *packer, int layer);
/* Without finish before: removes what was written. */
void fm_packer_close(fm_packer **packer);
/* A file beside the model: of bytes, or copied from path. */
int fm_packer_file(fm_packer *packer, const char *name, const void *data, size_t bytes, fm_error *err);
int fm_packer_copy(fm_packer *packer, const char *name, const char *path, fm_error *err);
/* dense.safetensors: first what is in it, in order, then the tensors' bytes in that order, in pieces of any size; end checks that all are there. */
int fm_packer_dense(fm_packer *packer, const fm_pack_tensor *tensors, int n, fm_error *err);
int fm_packer_dense_write(fm_packer *packer, const void *data, size_t bytes, fm_error *err);
int fm_packer_dense_end(fm_packer *packer, fm_error *err);
/* One layer's experts: begin, each expert once in any order and from any thread (data: fm_pack_expert_bytes, 4096-aligned; written past the page cache where that
 * works), end. Or: the same file as an earlier layer, of the same types, under a name of its own where a file can have two (a hard link). */
int fm_packer_layer(fm_packer *packer, int layer, const fm_matrix_type types[FM_EXPERT_MATRICES], fm_error *err);
int fm_packer_expert(fm_packer *packer, int expert, const void *data, fm_error *err);
int fm_packer_layer_end(fm_packer *packer, fm_error *err);
int fm_packer_layer_like(fm_packer *packer, int layer, int earlier, fm_error *err);
/* Writes model.json, makes sure that everything is on the disk, and renames. */
int fm_packer_finish(fm_packer *packer, const char *made_by, fm_error *err);

#endif
