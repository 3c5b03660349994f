/* snapshots/state_file.c: see state_file.h. */
#include "snapshots/state_file.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/write.h"

#define MIN_WINDOW ((size_t)64 << 10)

static const char magic[8] = "fm-state";
_Static_assert(sizeof(fm_state_header) == FM_STATE_HEADER, "the header is written as it lies in memory");

static uint64_t align_up(uint64_t n) { return (n + FM_STATE_ALIGNMENT - 1) / FM_STATE_ALIGNMENT * FM_STATE_ALIGNMENT; }

/* ---- prefixes ---- */

struct fm_prefix_hash {
    XXH3_state_t *state;
    const int32_t *ids;
    int n;
};

int fm_prefix_hash_open(fm_prefix_hash **out, const fm_identity *identity, const int32_t *ids, fm_error *err) {
    fm_prefix_hash *h = *out = calloc(1, sizeof *h);
    if (!h || !(h->state = XXH3_createState())) {
        fm_prefix_hash_close(out);
        return fm_fail(err, FM_ENOMEM, "no memory for a hash");
    }
    h->ids = ids;
    XXH3_128bits_reset(h->state);
    XXH3_128bits_update(h->state, identity, sizeof *identity);
    return 0;
}

void fm_prefix_hash_close(fm_prefix_hash **hash) {
    if (*hash) XXH3_freeState((*hash)->state);
    free(*hash);
    *hash = NULL;
}

fm_identity fm_prefix_hash_at(fm_prefix_hash *h, int n) {
    fm_identity out;
    XXH128_canonical_t canonical;
    assert(n >= h->n);
    if (n > h->n) XXH3_128bits_update(h->state, h->ids + h->n, (size_t)(n - h->n) * sizeof *h->ids);
    h->n = n;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(h->state));
    memcpy(out.bytes, canonical.digest, sizeof out.bytes);
    return out;
}

/* ---- meta ---- */

static uint64_t meta_bytes(uint64_t n_tokens, uint64_t n_units) {
    uint64_t tokens = (n_tokens * sizeof(int32_t) + 7) / 8 * 8;
    return align_up(FM_STATE_HEADER + tokens + n_units * sizeof(fm_state_unit));
}

static uint64_t hash_meta(uint8_t *memory, uint64_t bytes) {
    uint64_t hash, zero = 0;
    uint8_t *at = memory + offsetof(fm_state_header, meta_hash);
    memcpy(&hash, at, sizeof hash);
    memcpy(at, &zero, sizeof zero);
    uint64_t found = XXH3_64bits(memory, (size_t)bytes);
    memcpy(at, &hash, sizeof hash);
    return found;
}

static int check_header(const fm_state_header *h, const char *path, uint64_t file_bytes, fm_error *err) {
    if (memcmp(h->magic, magic, sizeof magic) != 0) return fm_fail(err, FM_EFORMAT, "%s: it does not begin as a file of a session's state", path);
    if (h->version != FM_STATE_VERSION)
        return fm_fail(err, FM_EUNSUPPORTED, "%s: its format is version %" PRIu32 ", not %d", path, h->version, FM_STATE_VERSION);
    if (h->file_bytes != file_bytes) return fm_fail(err, FM_EFORMAT, "%s: it has %" PRIu64 " bytes, but should have %" PRIu64, path, file_bytes, h->file_bytes);
    if (h->n > FM_STATE_MAX_TOKENS || h->first_token > h->n || h->first_row > h->n || h->first_row % FM_PAGE_TOKENS || h->n_units > FM_STATE_MAX_TOKENS ||
        h->meta_bytes != meta_bytes(h->n - h->first_token, h->n_units))
        return fm_fail(err, FM_EFORMAT, "%s: tokens %" PRIu32 " to %" PRIu32 " in %" PRIu32 " units and %" PRIu64 " bytes of header are not possible", path,
                       h->first_token, h->n, h->n_units, h->meta_bytes);
    return 0;
}

int fm_state_decode(fm_state_meta *out, const char *path, const void *data, size_t bytes, uint64_t file_bytes, fm_error *err) {
    fm_state_header h;
    int rc;
    *out = (fm_state_meta){0};
    if (bytes < sizeof h) return fm_fail(err, FM_EFORMAT, "%s: %zu bytes are no file of a session's state", path, bytes);
    memcpy(&h, data, sizeof h);
    if ((rc = check_header(&h, path, file_bytes, err)) < 0) return rc;
    if (h.meta_bytes > bytes) return fm_fail(err, FM_EFORMAT, "%s: its first %" PRIu64 " bytes are not there", path, h.meta_bytes);
    if (!(out->memory = malloc((size_t)h.meta_bytes))) return fm_fail(err, FM_ENOMEM, "%s: no memory for its header", path);
    memcpy(out->memory, data, (size_t)h.meta_bytes);
    out->h = h;
    out->ids = (const int32_t *)(const void *)(out->memory + FM_STATE_HEADER);
    out->units = (const fm_state_unit *)(const void *)(out->memory + FM_STATE_HEADER + ((uint64_t)(h.n - h.first_token) * sizeof(int32_t) + 7) / 8 * 8);
    if (hash_meta(out->memory, h.meta_bytes) != h.meta_hash) rc = fm_fail(err, FM_EFORMAT, "%s: its header's hash is wrong", path);
    uint64_t end = h.meta_bytes;
    for (uint32_t i = 0; i < h.n_units && rc == 0; i++) {
        if (out->units[i].bytes > file_bytes)
            rc = fm_fail(err, FM_EFORMAT, "%s: unit %" PRIu32 " of %" PRIu64 " bytes is larger than the file", path, i, out->units[i].bytes);
        else
            end = align_up(end) + out->units[i].bytes;
    }
    if (rc == 0 && end != file_bytes) rc = fm_fail(err, FM_EFORMAT, "%s: its units end at %" PRIu64 ", the file at %" PRIu64, path, end, file_bytes);
    if (rc < 0) fm_state_meta_close(out);
    return rc;
}

int fm_state_read_meta(fm_state_meta *out, fm_window *w, fm_error *err) {
    const fm_file *file = w->file;
    const uint8_t *data;
    fm_state_header h;
    int rc;
    *out = (fm_state_meta){0};
    if (file->size < sizeof h) return fm_fail(err, FM_EFORMAT, "%s: %" PRIu64 " bytes are no file of a session's state", file->path, file->size);
    if ((rc = fm_window_need(w, 0, sizeof h, file->size, &data, err)) < 0) return rc;
    memcpy(&h, data, sizeof h);
    if ((rc = check_header(&h, file->path, file->size, err)) < 0) return rc;
    if (h.meta_bytes > file->size) return fm_fail(err, FM_EFORMAT, "%s: it ends within its header", file->path);
    if (h.meta_bytes <= w->bytes) {
        if ((rc = fm_window_need(w, 0, (size_t)h.meta_bytes, file->size, &data, err)) < 0) return rc;
        return fm_state_decode(out, file->path, data, (size_t)h.meta_bytes, file->size, err);
    }
    uint8_t *own = malloc((size_t)h.meta_bytes);
    if (!own) return fm_fail(err, FM_ENOMEM, "%s: no memory for its header", file->path);
    rc = fm_file_read(file, own, (size_t)h.meta_bytes, 0, err);
    if (rc == 0) rc = fm_state_decode(out, file->path, own, (size_t)h.meta_bytes, file->size, err);
    free(own);
    return rc;
}

void fm_state_meta_close(fm_state_meta *meta) {
    free(meta->memory);
    *meta = (fm_state_meta){0};
}

/* ---- units ---- */

int fm_state_fixed_units(const fm_state_view *v) { return v->fixed ? (int)((v->snapshots->fixed_bytes + FM_UNIT_BYTES - 1) / FM_UNIT_BYTES) : 0; }

int fm_state_n_units(const fm_state_view *v) { return fm_state_fixed_units(v) + fm_page_count(v->n) - v->first_row / FM_PAGE_TOKENS; }

/* The parts of a unit, at most 1 + n_parts of the snapshots; returns how many, or -1 if its rows are nowhere. */
static int parts_of(const fm_state_view *v, int unit, fm_bytes *parts) {
    const fm_snapshots *s = v->snapshots;
    if (unit < fm_state_fixed_units(v)) {
        uint64_t at = (uint64_t)unit * FM_UNIT_BYTES, left = s->fixed_bytes - at;
        parts[0] = (fm_bytes){v->fixed + at, (size_t)(left < FM_UNIT_BYTES ? left : FM_UNIT_BYTES)};
        return 1;
    }
    int page = unit - fm_state_fixed_units(v) + v->first_row / FM_PAGE_TOKENS;
    if (v->snapshot) return fm_snapshots_rows(s, v->snapshot, page, parts) ? s->n_parts : -1;
    s->config.ops->rows(v->timeline->state, page * FM_PAGE_TOKENS, fm_page_end(v->n, page), parts);
    return s->n_parts;
}

static uint64_t unit_bytes(const fm_state_view *v, int unit) {
    const fm_snapshots *s = v->snapshots;
    if (unit < fm_state_fixed_units(v)) {
        uint64_t left = s->fixed_bytes - (uint64_t)unit * FM_UNIT_BYTES;
        return left < FM_UNIT_BYTES ? left : FM_UNIT_BYTES;
    }
    int page = unit - fm_state_fixed_units(v) + v->first_row / FM_PAGE_TOKENS;
    return s->config.ops->row_sizes(&s->config.device, fm_page_end(v->n, page) - page * FM_PAGE_TOKENS, NULL);
}

uint64_t fm_state_file_bytes(const fm_state_view *v, int first_token) {
    int n = fm_state_n_units(v);
    uint64_t end = meta_bytes((uint64_t)(v->n - first_token), (uint64_t)n);
    for (int i = 0; i < n; i++) end = align_up(end) + unit_bytes(v, i);
    return end;
}

int fm_state_check(const fm_state_meta *meta, const fm_state_view *v, const char *path, fm_error *err) {
    const fm_state_header *h = &meta->h;
    uint64_t fixed = v->fixed ? v->snapshots->fixed_bytes : 0;
    if ((int)h->n != v->n || (int)h->first_row != v->first_row || h->fixed_bytes != fixed || (int)h->n_units != fm_state_n_units(v))
        return fm_fail(err, FM_EFORMAT, "%s: rows %" PRIu32 " to %" PRIu32 " and %" PRIu64 " bytes of states are not what was looked for", path, h->first_row,
                       h->n, h->fixed_bytes);
    for (uint32_t i = 0; i < h->n_units; i++) {
        uint64_t want = unit_bytes(v, (int)i);
        if (meta->units[i].bytes != want)
            return fm_fail(err, FM_EFORMAT, "%s: unit %" PRIu32 " has %" PRIu64 " bytes, not %" PRIu64, path, i, meta->units[i].bytes, want);
    }
    return 0;
}

static uint64_t unit_offset(const fm_state_meta *meta, int unit) {
    uint64_t at = meta->h.meta_bytes;
    for (int i = 0; i < unit; i++) at = align_up(at + meta->units[i].bytes);
    return at;
}

size_t fm_state_window_bytes(const fm_snapshots *s) {
    size_t most = s->fixed_bytes < FM_UNIT_BYTES ? (size_t)s->fixed_bytes : (size_t)FM_UNIT_BYTES;
    s->config.ops->row_sizes(&s->config.device, FM_PAGE_TOKENS, s->parts);
    for (int i = 0; i < s->n_parts; i++) most = s->parts[i].bytes > most ? s->parts[i].bytes : most;
    return (most > MIN_WINDOW ? most : MIN_WINDOW) + 2 * FM_WINDOW_ALIGNMENT;
}

/* Zeros from the end of a unit to the next: every bit of a file is checked. */
static int check_gap(fm_window *w, uint64_t from, fm_error *err) {
    const uint8_t *bytes;
    uint8_t any = 0;
    uint64_t to = align_up(from) < w->file->size ? align_up(from) : w->file->size;
    int rc = from < to ? fm_window_need(w, from, (size_t)(to - from), to, &bytes, err) : 0;
    for (uint64_t i = from; i < to && rc == 0; i++) any |= bytes[i - from];
    return any ? fm_fail(err, FM_EFORMAT, "%s: bytes %" PRIu64 " to %" PRIu64 " lie between its parts and are not zero", w->file->path, from, to) : rc;
}

int fm_state_read_unit(fm_window *w, const fm_state_meta *meta, const fm_state_view *v, int unit, bool check, fm_error *err) {
    fm_bytes *parts = malloc(((size_t)v->snapshots->n_parts + 1) * sizeof *parts);
    uint64_t at = unit_offset(meta, unit), hash = 0, end = at + meta->units[unit].bytes;
    const uint8_t *from;
    int n = parts ? parts_of(v, unit, parts) : 0, rc = parts ? 0 : fm_fail(err, FM_ENOMEM, "%s: no memory to read it", w->file->path);
    for (int i = 0; i < n && rc == 0; at += parts[i++].bytes) {
        if ((rc = fm_window_need(w, at, parts[i].bytes, end, &from, err)) < 0) break;
        hash = XXH3_64bits_withSeed(from, parts[i].bytes, hash);
        if (!check) memcpy(parts[i].data, from, parts[i].bytes);
    }
    if (rc == 0 && hash != meta->units[unit].hash)
        rc = fm_fail(err, FM_EFORMAT, "%s: the hash of unit %d of %" PRIu32 " is wrong", w->file->path, unit, meta->h.n_units);
    if (rc == 0) rc = check_gap(w, at, err);
    free(parts);
    return rc;
}

/* ---- writing ---- */

typedef struct writing {
    const fm_state_view *view;
    uint8_t *memory; /* meta */
    fm_state_header h;
    fm_state_unit *units; /* in memory */
    fm_bytes *parts;
} writing;

static int write_units(fm_writer *writer, writing *w, fm_error *err) {
    uint64_t at = w->h.meta_bytes;
    for (uint32_t i = 0; i < w->h.n_units; i++) {
        int n = parts_of(w->view, (int)i, w->parts), rc;
        if (n < 0) return fm_fail(err, FM_EINVAL, "%s: unit %" PRIu32 " is not in memory any more", writer->path, i);
        at = align_up(at);
        for (int j = 0; j < n; j++) {
            const fm_bytes *p = &w->parts[j];
            if ((rc = fm_writer_put(writer, p->data, p->bytes, at, err)) < 0) return rc;
            w->units[i].hash = XXH3_64bits_withSeed(p->data, p->bytes, w->units[i].hash);
            w->units[i].bytes += p->bytes;
            at += p->bytes;
        }
    }
    w->h.meta_hash = 0;
    memcpy(w->memory, &w->h, sizeof w->h);
    w->h.meta_hash = XXH3_64bits(w->memory, (size_t)w->h.meta_bytes);
    memcpy(w->memory, &w->h, sizeof w->h);
    return fm_writer_put(writer, w->memory, (size_t)w->h.meta_bytes, 0, err);
}

int fm_state_write(const char *path, const fm_state_view *v, const fm_identity *identity, const int32_t *ids, int first_token, uint64_t *bytes, fm_error *err) {
    int n = fm_state_n_units(v), stored = v->n - first_token, rc;
    writing w = {.view = v, .h = {.version = FM_STATE_VERSION, .kv = (uint32_t)v->snapshots->config.device.kv, .identity = *identity}};
    memcpy(w.h.magic, magic, sizeof magic);
    w.h.first_token = (uint32_t)first_token;
    w.h.n = (uint32_t)v->n;
    w.h.first_row = (uint32_t)v->first_row;
    w.h.n_units = (uint32_t)n;
    w.h.fixed_bytes = v->fixed ? v->snapshots->fixed_bytes : 0;
    w.h.file_bytes = *bytes = fm_state_file_bytes(v, first_token);
    w.h.meta_bytes = meta_bytes((uint64_t)stored, (uint64_t)n);
    fm_prefix_hash *prefix;
    if ((rc = fm_prefix_hash_open(&prefix, identity, ids, err)) < 0) return rc;
    w.h.prefix = fm_prefix_hash_at(prefix, v->n);
    fm_prefix_hash_close(&prefix);
    w.memory = calloc(1, (size_t)w.h.meta_bytes);
    w.parts = malloc(((size_t)v->snapshots->n_parts + 1) * sizeof *w.parts);
    fm_writer writer = {0};
    if (!w.memory || !w.parts) {
        rc = fm_fail(err, FM_ENOMEM, "%s: no memory to write it", path);
    } else {
        memcpy(w.memory + FM_STATE_HEADER, ids + first_token, (size_t)stored * sizeof *ids);
        w.units = (fm_state_unit *)(void *)(w.memory + FM_STATE_HEADER + ((size_t)stored * sizeof *ids + 7) / 8 * 8);
        rc = fm_writer_open(&writer, path, *bytes, err);
    }
    if (rc == 0) rc = write_units(&writer, &w, err);
    if (rc == 0)
        rc = fm_writer_finish(&writer, err);
    else
        fm_writer_close(&writer);
    free(w.memory);
    free(w.parts);
    return rc;
}
