/* measure/machine.c: measuring this machine: plain reads of memory, and expert-sized reads of the disk under the model. */
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

#define MOST_BYTES ((uint64_t)256 << 20) /* far above the caches, where there is room */
#define LEAST_BYTES ((uint64_t)16 << 20)
#define TASK_BYTES ((size_t)1 << 20)

typedef struct read_work {
    const uint8_t *data;
    uint64_t sums[64]; /* by thread, so that the reads are not optimised away */
} read_work;

static void read_task(void *arg, int task, int thread) {
    read_work *w = arg;
    const uint64_t *p = (const uint64_t *)(const void *)(w->data + (size_t)task * TASK_BYTES);
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < TASK_BYTES / sizeof *p; i += 8) {
        __builtin_prefetch(p + i + 256);
        for (int j = 0; j < 8; j++) sum[j] ^= p[i + (size_t)j];
    }
    for (int j = 0; j < 8; j++) w->sums[thread % 64] ^= sum[j];
}

static int measure_memory(fm_pool *pool, double seconds, double *rate, fm_error *err) {
    fm_region region;
    uint64_t room = fm_memory_available() / 4;
    size_t n = (size_t)(room > MOST_BYTES ? MOST_BYTES : room < LEAST_BYTES ? LEAST_BYTES : room) / TASK_BYTES;
    int rc = fm_region_open(&region, n * TASK_BYTES, "measuring memory", err);
    if (rc < 0) return rc;
    memset(region.data, 1, region.bytes);
    read_work w = {.data = region.data};
    double start = fm_now(), best = 0;
    do {
        double t = fm_now();
        fm_pool_run(pool, (int)n, read_task, &w);
        double r = (double)(n * TASK_BYTES) / (fm_now() - t);
        if (r > best) best = r;
    } while (fm_now() - start < seconds);
    *rate = best;
    fm_region_close(&region);
    return 0;
}

/* Asks a small store of this model's experts for random ones that it does not have. */
static int measure_disk(const fm_model *model, const fm_engine_options *o, double seconds, fm_machine_speed *out, fm_error *err) {
    fm_plan plan = {.n_slots = 32, .n_staging = 8};
    fm_store_config config = fm_plan_store(&plan, model, o);
    config.policy = fm_policy_find("lru", err);
    fm_store *store = NULL;
    int rc = fm_store_open(&store, &config, err), n = model->description.n_experts, moe[FM_MAX_LAYERS], n_moe = 0;
    if (rc < 0) return rc;
    for (int i = 0; i < model->description.n_layers; i++) {
        if (model->description.layers[i].moe) moe[n_moe++] = i;
    }
    uint64_t random = 0x9e3779b97f4a7c15u, bytes = 0;
    double start = fm_now();
    do {
        int keys[8], count = 0;
        for (int i = 0; i < 8; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            int key = moe[(random >> 33) % (uint64_t)n_moe] * n + (int)((random >> 17) % (uint64_t)n);
            bool twice = false;
            for (int j = 0; j < count; j++) twice |= keys[j] == key;
            if (!twice) keys[count++] = key;
        }
        fm_lease lease;
        if ((rc = fm_store_request(store, keys, count, err)) < 0) break;
        while ((rc = fm_store_next(store, FM_ANY_KEY, &lease, err)) > 0) fm_store_release(store, &lease);
    } while (rc >= 0 && fm_now() - start < seconds);
    fm_store_stats stats;
    fm_store_stats_read(store, &stats);
    bytes = stats.disk_bytes;
    out->disk_bytes_per_second = stats.disk_seconds > 0 ? (double)bytes / stats.disk_seconds : 0;
    out->direct = strstr(fm_store_io_name(store), "direct") != NULL;
    fm_store_close(&store);
    return rc < 0 ? rc : 0;
}

int fm_machine_speed_measure(fm_machine_speed *out, const char *directory, const fm_engine_options *options, double seconds, fm_error *err) {
    fm_engine_options o;
    fm_model *model = NULL;
    fm_pool *pool = NULL;
    memset(out, 0, sizeof *out);
    int rc = fm_options_read(&o, options, err);
    if (rc < 0 || (rc = fm_model_open(&model, directory, o.config_from, fm_families, err)) < 0) return rc;
    if ((rc = fm_pool_open(&pool, o.n_threads, err)) < 0) goto done;
    out->n_threads = o.n_threads;
    for (int i = 0; i < model->description.n_layers; i++) {
        if (model->experts && model->experts[i].disk_bytes > out->read_bytes) out->read_bytes = model->experts[i].disk_bytes;
    }
    if ((rc = measure_memory(pool, seconds / 2, &out->ram_bytes_per_second, err)) < 0) goto done;
    if (out->read_bytes) rc = measure_disk(model, &o, seconds / 2, out, err);
done:
    fm_pool_close(&pool);
    fm_model_close(&model);
    return rc;
}
