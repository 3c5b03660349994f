/* measure/machine.c: see machine.h. */
#include "measure/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cgroup.h"

#define ENOUGH_BYTES ((uint64_t)256 << 20) /* to read, where the caches are much smaller */
#define CACHES 4                           /* times the largest cache otherwise */
#define LEAST_BYTES ((uint64_t)16 << 20)
#define TASK_BYTES ((size_t)1 << 20)
#define PAGE 4096u
#define MOST_IN_FLIGHT 64
#define LEAST_ROUNDS 3
#define MATRIX_ROWS 256

typedef struct products { /* a matrix of the experts' kind that stays in the caches, and tokens to multiply it with */
    const fm_kernels *k;
    fm_matrix matrix;
    fm_act8 act;
    bool int8;
    float *x, *y; /* [FM_MACHINE_BATCH][cols], [n_threads][FM_MACHINE_BATCH][rows] */
    void *data;
} products;

struct fm_machine {
    fm_machine_config config;
    fm_machine_rate *ram, *disk;
    int n_ram, n_disk;
    fm_pool *pools[FM_MAX_RATES];
    fm_region own;
    const uint8_t *memory;
    size_t memory_bytes, pass_bytes; /* pass: that the caches hold a small part of */
    fm_io *io;
    fm_region far;
    uint8_t *buffers; /* [n_buffers][read_bytes] that reads go to in turn: far's, or own's */
    size_t n_buffers, next_buffer;
    fm_read reads[MOST_IN_FLIGHT], *done[MOST_IN_FLIGHT];
    uint64_t read_bytes, random;
    bool *expert_files; /* [n_files] */
    products products;
    fm_samples operations;
    uint64_t sink;
};

/* ---- samples ---- */

void fm_samples_add(fm_samples *samples, double value) {
    if (samples->n < FM_MAX_SAMPLES) samples->values[samples->n++] = value;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

fm_spread fm_samples_spread(const fm_samples *samples) {
    double sorted[FM_MAX_SAMPLES];
    int n = samples->n;
    if (!n) return (fm_spread){0, 0, 0};
    memcpy(sorted, samples->values, (size_t)n * sizeof *sorted);
    qsort(sorted, (size_t)n, sizeof *sorted, compare);
    return (fm_spread){.median = (sorted[(n - 1) / 2] + sorted[n / 2]) / 2, .least = sorted[0], .most = sorted[n - 1]};
}

/* ---- memory ---- */

static void read_task(void *arg, int task, int thread) {
    fm_machine *m = arg;
    const uint64_t *p = (const uint64_t *)(const void *)(m->memory + (size_t)task * TASK_BYTES);
    uint64_t sum[8] = {0}, all = 0;
    (void)thread;
    for (size_t i = 0; i < TASK_BYTES / sizeof *p; i += 8) {
        __builtin_prefetch(p + i + 256);
        for (int j = 0; j < 8; j++) sum[j] ^= p[i + (size_t)j];
    }
    for (int j = 0; j < 8; j++) all ^= sum[j];
    __atomic_fetch_xor(&m->sink, all, __ATOMIC_RELAXED); /* so that the reads are not optimised away */
}

/* The best pass of a burst: what others do meanwhile is not this machine's doing. */
static void sample_memory(fm_machine *m, fm_pool *pool, fm_machine_rate *rate, double seconds) {
    size_t n = m->memory_bytes / TASK_BYTES, most = m->pass_bytes / TASK_BYTES;
    const uint8_t *first = m->memory;
    double start = fm_now(), best = 0;
    if (n > most) { /* somewhere else each time */
        m->memory += (m->random = m->random * 6364136223846793005u + 1442695040888963407u) % (n - most) * TASK_BYTES;
        n = most;
    }
    do {
        double t = fm_now();
        fm_pool_run(pool, (int)n, read_task, m);
        double r = (double)(n * TASK_BYTES) / (fm_now() - t);
        if (r > best) best = r;
    } while (fm_now() - start < seconds);
    m->memory = first;
    fm_samples_add(&rate->per_second, best);
}

/* Bytes far above the caches, where there is room. */
static uint64_t far_bytes(const fm_machine *m) {
    uint64_t room = fm_memory_available() / 4;
    return (room > m->pass_bytes ? m->pass_bytes : room < LEAST_BYTES ? LEAST_BYTES : room) / TASK_BYTES * TASK_BYTES;
}

static int open_memory(fm_machine *m, fm_error *err) {
    const fm_machine_config *c = &m->config;
    int rc = 0;
    m->memory = c->memory;
    m->memory_bytes = c->memory_bytes;
    m->pass_bytes = CACHES * fm_cache_bytes();
    if (m->pass_bytes < ENOUGH_BYTES) m->pass_bytes = ENOUGH_BYTES;
    if (c->memory_bytes < m->pass_bytes) {
        m->memory_bytes = (size_t)far_bytes(m);
        if ((rc = fm_region_open(&m->own, m->memory_bytes, "measuring memory", err)) < 0) return rc;
        memset(m->own.data, 1, m->own.bytes);
        m->memory = m->own.data;
    }
    m->ram = calloc(FM_MAX_RATES, sizeof *m->ram);
    if (!m->ram) return fm_fail(err, FM_ENOMEM, "no memory for the samples of the memory's speed");
    for (int threads = 1; rc >= 0; threads = threads * 2 < c->n_threads ? threads * 2 : c->n_threads) {
        rc = fm_pool_open(&m->pools[m->n_ram], threads, err);
        m->ram[m->n_ram++].level = threads;
        if (threads == c->n_threads) break;
    }
    return rc;
}

/* ---- disk ---- */

/* A model's experts all lie in direct files, or some are read through the page cache. */
static bool reads_direct(const fm_file *file) { return file->direct_fd >= 0 && file->alignment <= PAGE; }

static int open_disk(fm_machine *m, fm_error *err) {
    const fm_model *model = m->config.model;
    const fm_description *d = &model->description;
    uint64_t most = 0;
    m->expert_files = calloc((size_t)model->tensors.n_files + 1, sizeof *m->expert_files);
    m->disk = calloc(FM_MAX_RATES, sizeof *m->disk);
    if (!m->expert_files || !m->disk) return fm_fail(err, FM_ENOMEM, "no memory for the samples of the disk's speed");
    for (int i = 0; i < d->n_layers; i++) {
        if (d->layers[i].moe && model->experts[i].disk_bytes > most) most = model->experts[i].disk_bytes;
    }
    for (size_t i = 0; most && i < (size_t)d->n_layers * (size_t)d->n_experts * (size_t)model->n_extents; i++) {
        if (model->extents[i].bytes) m->expert_files[model->extents[i].file] = true;
    }
    if (!most) return 0;
    m->read_bytes = (most + PAGE - 1) / PAGE * PAGE;
    uint64_t room = m->config.buffer_bytes / m->read_bytes;
    for (int depth = 1; depth <= MOST_IN_FLIGHT && (depth == 1 || (uint64_t)depth <= room); depth *= 2) m->disk[m->n_disk++].level = depth;
    int depth = m->disk[m->n_disk - 1].level;
    /* Where memory is read, or as large: into buffers that stay in a cache a disk may deliver faster than into an expert cache. */
    size_t least = (size_t)m->read_bytes * (size_t)depth, bytes = (size_t)far_bytes(m);
    int rc = 0;
    m->buffers = m->own.data;
    if (m->own.bytes < least) {
        if (bytes < least) bytes = least;
        if ((rc = fm_region_open(&m->far, bytes, "measuring the disk", err)) >= 0) m->buffers = m->far.data;
    }
    m->n_buffers = (m->buffers == m->own.data ? m->own.bytes : bytes) / m->read_bytes;
    return rc < 0 ? rc : fm_io_open(&m->io, m->config.io, depth, &(const char *){NULL}, err);
}

/* Prepares a read of an expert's size where a random one begins. */
static void next_read(fm_machine *m, fm_read *read) {
    const fm_model *model = m->config.model;
    uint64_t n = (uint64_t)model->description.n_layers * (uint64_t)model->description.n_experts;
    const fm_extent *x;
    do {
        m->random = m->random * 6364136223846793005u + 1442695040888963407u;
        x = &model->extents[(m->random >> 32) % n * (uint64_t)model->n_extents];
    } while (!x->bytes);
    const fm_file *file = &model->tensors.files[x->file];
    uint64_t offset = x->offset / PAGE * PAGE, last = file->size > m->read_bytes ? (file->size - m->read_bytes) / PAGE * PAGE : 0;
    if (offset > last) offset = last;
    *read = (fm_read){.fd = reads_direct(file) ? file->direct_fd : file->fd,
                      .data = m->buffers + m->next_buffer++ % m->n_buffers * (size_t)m->read_bytes,
                      .offset = offset,
                      .bytes = (uint32_t)m->read_bytes,
                      .user = (void *)file};
}

static int sample_disk(fm_machine *m, fm_machine_rate *rate, double seconds, fm_error *err) {
    uint64_t bytes = 0;
    int rc = 0, n, left = LEAST_ROUNDS * rate->level; /* however large an expert is, beginning and end are to be a small part */
    double start = fm_now();
    for (int i = 0; i < rate->level && rc >= 0; i++) {
        next_read(m, &m->reads[i]);
        rc = m->io->ops->submit(m->io, (fm_read *[]){&m->reads[i]}, 1, err);
    }
    while (rc >= 0 && m->io->n_in_flight) {
        if ((rc = n = m->io->ops->reap(m->io, m->done, MOST_IN_FLIGHT, true, err)) < 0) break;
        for (int i = 0; i < n; i++) {
            fm_read *read = m->done[i];
            const fm_file *file = read->user;
            if (read->result <= 0) {
                rc = fm_fail_errno(err, FM_EIO, read->result ? -read->result : EIO, "%s: reading %" PRIu32 " bytes at %" PRIu64 " failed", file->path,
                                   read->bytes, read->offset);
                continue;
            }
            bytes += (uint64_t)read->result;
            if (rc < 0 || (--left <= 0 && fm_now() - start > seconds)) continue;
            next_read(m, read);
            rc = m->io->ops->submit(m->io, &m->done[i], 1, err);
        }
    }
    while (rc < 0 && m->io->n_in_flight && m->io->ops->reap(m->io, m->done, MOST_IN_FLIGHT, true, NULL) > 0) continue;
    if (rc >= 0) fm_samples_add(&rate->per_second, (double)bytes / (fm_now() - start));
    return rc < 0 ? rc : 0;
}

/* ---- the page cache ---- */

/* Bytes of file in the page cache; UINT64_MAX: unknown. */
static uint64_t cached_bytes(const fm_file *file) {
    enum { PIECE = 64 << 20 };
    unsigned char pages[PIECE / PAGE];
    uint64_t cached = 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (uint64_t at = 0; at < file->size; at += PIECE) {
        size_t bytes = (size_t)(file->size - at < PIECE ? file->size - at : PIECE), n = (bytes + page - 1) / page;
        void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, file->fd, (off_t)at);
        if (map == MAP_FAILED) return UINT64_MAX;
        int rc = mincore(map, bytes, (void *)pages);
        munmap(map, bytes);
        if (rc != 0) return UINT64_MAX;
        for (size_t i = 0; i < n; i++) cached += (uint64_t)(pages[i] & 1) * page;
    }
    return cached;
}

uint64_t fm_machine_drop_cache(const fm_machine *m) {
    const fm_tensors *tensors = &m->config.model->tensors;
    uint64_t left = 0;
    for (int i = 0; i < tensors->n_files; i++) {
        const fm_file *file = &tensors->files[i];
        if (!m->expert_files[i] || reads_direct(file)) continue;
#ifdef POSIX_FADV_DONTNEED
        fsync(file->fd); /* what is not on the disk yet stays */
        posix_fadvise(file->fd, 0, 0, POSIX_FADV_DONTNEED);
#endif
        uint64_t cached = cached_bytes(file);
        left = cached == UINT64_MAX || left == UINT64_MAX ? UINT64_MAX : left + cached;
    }
    return left;
}

bool fm_machine_direct(const fm_machine *m) {
    const fm_tensors *tensors = &m->config.model->tensors;
    for (int i = 0; i < tensors->n_files; i++) {
        if (m->expert_files[i] && !reads_direct(&tensors->files[i])) return false;
    }
    return true;
}

/* ---- products ---- */

static void multiply_task(void *arg, int task, int thread) {
    const products *p = arg;
    const fm_matrix *m = &p->matrix;
    int n = fm_matrix_n_strips(&m->type);
    size_t rows = (size_t)m->type.rows, cols = (size_t)m->type.cols;
    float *y = p->y + (size_t)thread * FM_MACHINE_BATCH * rows;
    (void)task;
    if (m->type.format != FM_FORMAT_R16)
        p->k->mul_float(m, 0, n, p->x, cols, NULL, FM_MACHINE_BATCH, y, rows);
    else if (p->int8)
        p->k->mul_r16_i8(m, 0, n, &p->act, NULL, FM_MACHINE_BATCH, y, rows);
    else
        p->k->mul_r16_f32(m, 0, n, p->x, cols, NULL, FM_MACHINE_BATCH, y, rows);
}

static void sample_products(fm_machine *m, double seconds) {
    products *p = &m->products;
    const fm_matrix_type *type = &p->matrix.type;
    int n_tasks = 8 * m->config.n_threads;
    double start = fm_now(), best = 0, each = 2.0 * type->rows * type->cols * FM_MACHINE_BATCH;
    unsigned long mode = fm_pool_enter();
    do {
        double t = fm_now();
        fm_pool_run(m->pools[m->n_ram - 1], n_tasks, multiply_task, p);
        double r = each * n_tasks / (fm_now() - t);
        if (r > best) best = r;
    } while (fm_now() - start < seconds);
    fm_pool_leave(mode);
    fm_samples_add(&m->operations, best);
}

/* Of the kind of the first layer with experts, else of the head. */
static fm_matrix_type matrix_type(const fm_model *model) {
    fm_matrix_type type = model->sources[0][model->description.tied_head ? FM_EMBED : FM_HEAD].type;
    for (int i = model->description.n_layers - 1; i >= 0; i--) {
        if (model->description.layers[i].moe) type = model->experts[i].matrix[FM_GATE].type;
    }
    type.rows = MATRIX_ROWS;
    return type;
}

static int open_products(fm_machine *m, fm_error *err) {
    products *p = &m->products;
    p->matrix.type = matrix_type(m->config.model);
    p->k = fm_kernels_find(m->config.cpu, err);
    if (!p->k) return FM_EINVAL;
    size_t cols = (size_t)p->matrix.type.cols, bytes = (fm_matrix_bytes(&p->matrix.type) + 63) & ~(size_t)63;
    p->int8 = m->config.int8 && p->matrix.type.format == FM_FORMAT_R16;
    p->data = aligned_alloc(64, bytes);
    p->x = malloc(FM_MACHINE_BATCH * cols * sizeof *p->x);
    p->y = malloc((size_t)m->config.n_threads * FM_MACHINE_BATCH * MATRIX_ROWS * sizeof *p->y);
    if (!p->data || !p->x || !p->y) return fm_fail(err, FM_ENOMEM, "no memory for measuring the kernels");
    /* Every 16 bits are a small number, as weights and as scales. */
    for (size_t i = 0; i < bytes / 2; i++) ((uint16_t *)p->data)[i] = (uint16_t)(0x3c00 + (i * 2654435761u >> 22));
    p->matrix.data = p->data;
    for (size_t i = 0; i < FM_MACHINE_BATCH * cols; i++) p->x[i] = (float)(int)(i * 2654435761u >> 24 & 255) / 128 - 1;
    if (!p->int8) return 0;
    p->act = (fm_act8){.cols = (int)cols, .group = p->matrix.type.group < 64 ? p->matrix.type.group : 64, .width = p->matrix.type.width};
    size_t groups = cols / (size_t)p->act.group;
    p->act.q = malloc(FM_MACHINE_BATCH * cols);
    p->act.scale = malloc(FM_MACHINE_BATCH * groups * sizeof(float));
    p->act.sum = malloc(FM_MACHINE_BATCH * groups * sizeof(float));
    if (!p->act.q || !p->act.scale || !p->act.sum) return fm_fail(err, FM_ENOMEM, "no memory for measuring the kernels");
    for (size_t i = 0; i < FM_MACHINE_BATCH; i++) {
        p->k->quantize(p->x + i * cols, (int)cols, p->act.group, p->act.width, p->act.q + i * cols, p->act.scale + i * groups, p->act.sum + i * groups);
    }
    return 0;
}

/* ---- all of it ---- */

int fm_machine_open(fm_machine **machine, const fm_machine_config *config, fm_error *err) {
    fm_machine *m = *machine = calloc(1, sizeof *m);
    if (!m) return fm_fail(err, FM_ENOMEM, "no memory for measuring the machine");
    m->config = *config;
    m->random = 0x9e3779b97f4a7c15u;
    int rc = open_memory(m, err);
    if (rc >= 0) rc = open_disk(m, err);
    if (rc >= 0) rc = open_products(m, err);
    if (rc < 0) fm_machine_close(machine);
    return rc < 0 ? rc : 0;
}

void fm_machine_close(fm_machine **machine) {
    fm_machine *m = *machine;
    if (!m) return;
    if (m->io) m->io->ops->close(&m->io);
    for (int i = 0; i < m->n_ram; i++) fm_pool_close(&m->pools[i]);
    fm_region_close(&m->own);
    fm_region_close(&m->far);
    free(m->products.data);
    free(m->products.x);
    free(m->products.y);
    free(m->products.act.q);
    free(m->products.act.scale);
    free(m->products.act.sum);
    free(m->expert_files);
    free(m->ram);
    free(m->disk);
    free(m);
    *machine = NULL;
}

int fm_machine_sample(fm_machine *m, double seconds, fm_error *err) {
    for (int i = 0; i < m->n_ram; i++) sample_memory(m, m->pools[i], &m->ram[i], seconds);
    for (int i = 0; i < m->n_disk; i++) {
        fm_machine_drop_cache(m);
        int rc = sample_disk(m, &m->disk[i], seconds, err);
        if (rc < 0) return rc;
    }
    sample_products(m, seconds);
    return 0;
}

int fm_machine_ram(const fm_machine *m, const fm_machine_rate **rates) {
    *rates = m->ram;
    return m->n_ram;
}

int fm_machine_disk(const fm_machine *m, const fm_machine_rate **rates) {
    *rates = m->disk;
    return m->n_disk;
}

const fm_machine_rate *fm_machine_best_disk(const fm_machine *m) {
    const fm_machine_rate *best = NULL;
    double most = 0;
    for (int i = 0; i < m->n_disk; i++) {
        double median = fm_samples_spread(&m->disk[i].per_second).median;
        if (!best || median > most) {
            best = &m->disk[i];
            most = median;
        }
    }
    return best;
}

const fm_samples *fm_machine_operations(const fm_machine *m) { return &m->operations; }
uint64_t fm_machine_read_bytes(const fm_machine *m) { return m->read_bytes; }

double fm_machine_idle(double seconds) {
    unsigned long long t[2][8] = {{0}}, all = 0, idle = 0;
    for (int look = 0; look < 2; look++) {
        char text[4096];
        unsigned long long *x = t[look];
        if (!fm_cgroup_text(text, sizeof text, "/proc/stat") ||
            sscanf(text, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &x[0], &x[1], &x[2], &x[3], &x[4], &x[5], &x[6], &x[7]) != 8)
            return -1;
        if (look == 0) nanosleep(&(struct timespec){(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)}, NULL);
    }
    for (int i = 0; i < 8; i++) all += t[1][i] - t[0][i];
    idle = t[1][3] - t[0][3] + t[1][4] - t[0][4];
    return all ? (double)idle / (double)all : -1;
}

int fm_machine_speed_measure(fm_machine_speed *out, const char *directory, const fm_engine_options *options, double seconds, fm_error *err) {
    fm_engine_options o;
    fm_model *model = NULL;
    fm_machine *machine = NULL;
    memset(out, 0, sizeof *out);
    int rc = fm_options_read(&o, options, err);
    if (rc < 0 || (rc = fm_model_open(&model, directory, o.config_from, fm_families, err)) < 0) return rc;
    fm_machine_config config = {
        .model = model, .cpu = o.cpu, .io = o.io, .n_threads = o.n_threads, .int8 = o.activations == FM_ACTIVATIONS_INT8, .buffer_bytes = 32 << 20};
    double start = fm_now();
    if ((rc = fm_machine_open(&machine, &config, err)) < 0) goto done;
    do rc = fm_machine_sample(machine, 0.04, err);
    while (rc >= 0 && fm_now() - start < seconds);
    if (rc < 0) goto done;
    const fm_machine_rate *best = fm_machine_best_disk(machine);
    *out = (fm_machine_speed){.ram_bytes_per_second = fm_samples_spread(&machine->ram[machine->n_ram - 1].per_second).median,
                              .disk_bytes_per_second = best ? fm_samples_spread(&best->per_second).median : 0,
                              .n_threads = o.n_threads,
                              .read_bytes = machine->read_bytes,
                              .direct = fm_machine_direct(machine)};
done:
    fm_machine_close(&machine);
    fm_model_close(&model);
    return rc < 0 ? rc : 0;
}
