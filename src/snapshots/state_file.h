/* snapshots/state_file.h: a session's state as a file: tokens, the fixed part of the state, and rows. Three uses of one format: a saved session has all its rows; a
 * snapshot has those behind its last whole page; a page has FM_PAGE_TOKENS rows and no fixed part.
 *
 *   header     FM_STATE_HEADER bytes: see fm_state_header
 *   tokens     i32 [n - first_token]
 *   units      {u64 bytes, u64 hash} [n_units]: the fixed part in pieces of FM_UNIT_BYTES, then each page's rows
 *   contents   each unit from a multiple of FM_STATE_ALIGNMENT on, zeros between
 *
 * Numbers are little-endian. A unit's hash is XXH3 of 64 bits over each of its parts, the hash so far being the seed. */
#ifndef FM_SNAPSHOTS_STATE_FILE_H
#define FM_SNAPSHOTS_STATE_FILE_H

#include "model/model.h"
#include "snapshots/readers.h"
#include "snapshots/snapshots.h"

#define FM_STATE_VERSION 1
#define FM_STATE_HEADER 128
#define FM_STATE_ALIGNMENT 4096u
#define FM_UNIT_BYTES ((uint64_t)1 << 20)
#define FM_STATE_MAX_TOKENS (1 << 24)

typedef struct fm_identity {
    uint8_t bytes[16];
} fm_identity;

/* What makes results: the model's numbers, the names and shapes of its tensors, hashes of experts where a packed model has them, samples of each tensor's bytes; and activations,
 * experts a token, and the kind of KV cache. files: also when its files were written, so that a file that was changed in place makes another. FM_EIO. */
int fm_identity_of(fm_identity *out, const fm_model *model, const fm_device_config *config, bool files, fm_error *err);

typedef struct fm_state_header {
    char magic[8]; /* "fm-state" */
    uint32_t version, kv, first_token, n, first_row, n_units;
    uint64_t fixed_bytes, file_bytes, meta_bytes; /* meta: all before the contents */
    fm_identity identity, prefix;                 /* of the model; XXH3 of 128 bits over the identity and all tokens before n */
    uint64_t reserved[4];
    uint64_t meta_hash; /* XXH3 of 64 bits over meta, this being 0 */
} fm_state_header;

typedef struct fm_state_unit {
    uint64_t bytes, hash;
} fm_state_unit;

typedef struct fm_state_meta {
    fm_state_header h;
    uint8_t *memory;            /* meta */
    const int32_t *ids;         /* [h.n - h.first_token] */
    const fm_state_unit *units; /* [h.n_units] */
} fm_state_meta;

/* Decodes data, the first bytes of a file of file_bytes. FM_EFORMAT: damaged; FM_EUNSUPPORTED: another version's. out->memory is a copy. path is for messages. */
int fm_state_decode(fm_state_meta *out, const char *path, const void *data, size_t bytes, uint64_t file_bytes, fm_error *err);
/* The same of an open file, through a window that has begun it. */
int fm_state_read_meta(fm_state_meta *out, fm_window *window, fm_error *err);
void fm_state_meta_close(fm_state_meta *meta);

/* What of a state a file has: rows from first_row (a multiple of FM_PAGE_TOKENS) to n, of a timeline's, or a snapshot's. */
typedef struct fm_state_view {
    const fm_snapshots *snapshots;
    const fm_snapshot *snapshot; /* NULL: timeline's */
    const fm_timeline *timeline;
    uint8_t *fixed; /* NULL: not in it */
    int first_row, n;
} fm_state_view;

int fm_state_n_units(const fm_state_view *view);
int fm_state_fixed_units(const fm_state_view *view); /* of them, the first ones */
/* FM_EFORMAT unless the file's units are of the sizes that view has. */
int fm_state_check(const fm_state_meta *meta, const fm_state_view *view, const char *path, fm_error *err);

/* Writes path, which must not be there, and makes sure that it is on the disk. ids [n]: all tokens. Returns 0; *bytes is its size. What an error left is to be removed. */
int fm_state_write(const char *path, const fm_state_view *view, const fm_identity *identity, const int32_t *ids, int first_token, uint64_t *bytes,
                   fm_error *err);
/* Room that the window of fm_state_read_unit has to have. */
size_t fm_state_window_bytes(const fm_snapshots *snapshots);
/* Reads a unit of the window's file into its place and checks it: FM_EFORMAT. check: only checks. From any thread. */
int fm_state_read_unit(fm_window *window, const fm_state_meta *meta, const fm_state_view *view, int unit, bool check, fm_error *err);
/* Size of the file that fm_state_write would write. */
uint64_t fm_state_file_bytes(const fm_state_view *view, int first_token);

/* Prefixes of ids, one longer than the other. */
typedef struct fm_prefix_hash fm_prefix_hash;
int fm_prefix_hash_open(fm_prefix_hash **hash, const fm_identity *identity, const int32_t *ids, fm_error *err);
void fm_prefix_hash_close(fm_prefix_hash **hash);
fm_identity fm_prefix_hash_at(fm_prefix_hash *hash, int n); /* n: no smaller than before */

#endif
