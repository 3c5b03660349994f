/* tests/fuzz/fuzz_pack.c: any bytes as model.json of a packed model, beside a dense part and one layer's experts that are right: what is accepted says what lies in the files. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/pack.h"

#define N_EXPERTS 2
#define EXPERT_BYTES 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[] = "/tmp/fuzz-pack-XXXXXX";

static void write_file(const char *name, const void *data, size_t bytes) {
    char path[64];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "wb");
    if (!f || fwrite(data, 1, bytes, f) != bytes || fclose(f)) abort();
}

static void remove_all(void) {
    static const char *const names[] = {"model.json", "dense.safetensors", "experts/layer_00.bin", "experts", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        remove(path);
    }
}

static void make_files(void) {
    static uint8_t layer[N_EXPERTS * EXPERT_BYTES + (N_EXPERTS + 1) * 8];
    static const char dense[] = "\x02\0\0\0\0\0\0\0{}";
    char path[64];
    if (!mkdtemp(directory)) abort();
    atexit(remove_all);
    snprintf(path, sizeof path, "%s/experts", directory);
    if (mkdir(path, 0700)) abort();
    for (size_t i = 0; i < N_EXPERTS; i++) {
        uint64_t hash = fm_pack_hash(layer + i * EXPERT_BYTES, EXPERT_BYTES);
        memcpy(layer + N_EXPERTS * EXPERT_BYTES + i * 8, &hash, 8);
    }
    uint64_t hash = fm_pack_hash(layer + N_EXPERTS * EXPERT_BYTES, N_EXPERTS * 8);
    memcpy(layer + N_EXPERTS * EXPERT_BYTES + N_EXPERTS * 8, &hash, 8);
    write_file("experts/layer_00.bin", layer, sizeof layer);
    write_file("dense.safetensors", dense, sizeof dense - 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static bool made;
    fm_pack *pack;
    fm_tensors tensors = {0};
    fm_error err = {0};
    if (!made) make_files();
    made = true;
    write_file("model.json", data, size);
    int rc = fm_pack_open(&pack, &tensors, directory, N_EXPERTS, &err);
    if (rc < 0) {
        assert(!pack && err.code == rc && err.message[0]);
    } else {
        assert(pack->n_copies == 1 || pack->n_copies == 2);
        for (int i = 0; i < pack->n_copies * pack->n_layers; i++) {
            const fm_pack_layer *l = &pack->layers[i];
            if (l->file < 0) continue;
            assert(l->bytes == EXPERT_BYTES && fm_pack_expert_bytes(l->types, NULL) == EXPERT_BYTES && tensors.files[l->file].size > N_EXPERTS * l->bytes);
            for (int which = 0; which < 3; which++) assert(fm_matrix_bytes(&l->types[which]) > 0 && l->types[which].rows > 0);
        }
        fm_pack_close(&pack);
    }
    fm_tensors_close(&tensors);
    return 0;
}
