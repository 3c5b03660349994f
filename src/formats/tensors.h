/* formats/tensors.h: the tensors of a model on disk, by name: where they lie and of what type and shape they are.
 *
 * A table is filled by a source (safetensors shards, a packed_experts directory) and read by model/. It owns its files and
 * its strings. Nothing is read but headers. */
#ifndef FM_FORMATS_TENSORS_H
#define FM_FORMATS_TENSORS_H

#include "base/file.h"

typedef enum fm_dtype { FM_F32, FM_F16, FM_BF16, FM_U32, FM_U8, FM_I8, FM_F8_E4M3, FM_I32, FM_I64, FM_U16, FM_I16, FM_F64, FM_BOOL, FM_N_DTYPES } fm_dtype;

size_t fm_dtype_bytes(fm_dtype dtype);
const char *fm_dtype_name(fm_dtype dtype); /* "BF16" … as safetensors writes it */

#define FM_MAX_DIMS 5

typedef struct fm_tensor {
    char *name;
    int file; /* index into the table's files */
    fm_dtype dtype;
    int n_dims;
    uint64_t shape[FM_MAX_DIMS];
    uint64_t offset; /* of its first byte in the file */
    uint64_t bytes;  /* n elements * size; for a strided tensor, of all its experts together */
    uint64_t stride; /* 0: contiguous; else bytes between consecutive indexes of the first dimension (packed_experts) */
} fm_tensor;

typedef struct fm_tensors {
    fm_file *files;
    int n_files;
    fm_tensor *tensors;
    int n_tensors;
    uint32_t *index; /* hash index, built by fm_tensors_finish */
    uint32_t index_mask;
} fm_tensors;

void fm_tensors_close(fm_tensors *tensors);
/* Opens path (direct I/O tried) and adds it. Returns its index. FM_EFORMAT for a Git LFS pointer. */
int fm_tensors_add_file(fm_tensors *tensors, const char *path, fm_error *err);
/* FM_EFORMAT if a file's first bytes say that it is a Git LFS pointer. */
int fm_tensors_check_lfs(const char *path, const void *head, size_t bytes, fm_error *err);
/* Adds a tensor (name is copied). Checks that shape and type give its bytes and that it lies inside its file: FM_EFORMAT. */
int fm_tensors_add(fm_tensors *tensors, const char *name, const fm_tensor *tensor, fm_error *err);
/* FM_EFORMAT if two of the tensors from index `first` on, contiguous and all of one file, overlap. last (NULL: not wanted) becomes the one that ends
 * last, NULL if all are empty. */
int fm_tensors_check_places(const fm_tensors *tensors, int first, const fm_tensor **last, fm_error *err);
/* Builds the index. FM_EFORMAT for a name that is there twice, naming both files. */
int fm_tensors_finish(fm_tensors *tensors, fm_error *err);
/* NULL if there is none. */
const fm_tensor *fm_tensors_find(const fm_tensors *tensors, const char *name);

#endif
