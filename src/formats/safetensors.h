/* formats/safetensors.h: tables of tensors from safetensors files: u64 little-endian header length, JSON header, data. */
#ifndef FM_FORMATS_SAFETENSORS_H
#define FM_FORMATS_SAFETENSORS_H

#include "formats/tensors.h"

/* Adds one file's tensors. FM_EFORMAT, with path and numbers: shorter than its header says, a Git LFS pointer, bad JSON, offsets out of range,
 * overlapping or not matching shape and type; holes are allowed, bytes after the last tensor are not. FM_EUNSUPPORTED: a type that is not known. */
int fm_safetensors_add(fm_tensors *tensors, const char *path, fm_error *err);

/* Adds a snapshot directory: model.safetensors.index.json and the shards it names (each name must be found in the shard it
 * is mapped to), or else the only *.safetensors file, or else all model*.safetensors. FM_EFORMAT when there is none. */
int fm_safetensors_add_snapshot(fm_tensors *tensors, const char *directory, fm_error *err);

/* The header's JSON of header_bytes bytes, of a file of file_bytes bytes at `file`. On its own for the parser's fuzzer and tests. */
int fm_safetensors_parse_header(fm_tensors *tensors, int file, const char *json, size_t header_bytes, uint64_t file_bytes, fm_error *err);

/* Writes f32 and i32 tensors as a safetensors file, for `dump`: as path.part first, renamed when it is whole. FM_EIO; FM_EINVAL for a name that is there
 * twice or is not UTF-8. */
typedef struct fm_safetensors_entry {
    const char *name;
    fm_dtype dtype; /* FM_F32 or FM_I32 */
    int n_dims;
    uint64_t shape[FM_MAX_DIMS];
    const void *data;
} fm_safetensors_entry;
/* The header's JSON, of any types (data is not looked at), padded with spaces so that the data begins at a multiple of 8, and malloc'd. path is for messages. */
int fm_safetensors_header(char **header, const char *path, const fm_safetensors_entry *entries, int n, fm_error *err);
int fm_safetensors_write(const char *path, const fm_safetensors_entry *entries, int n, fm_error *err);

#endif
