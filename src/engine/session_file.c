/* engine/session_file.c: one session as a file of its own. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"

static int save(const fm_session *s, const char *path, fm_error *err) {
    const fm_engine *e = s->engine;
    fm_identity identity;
    char part[1100];
    uint64_t bytes;
    fm_state_view view = {.snapshots = e->snapshots, .timeline = &s->line, .fixed = e->ops->fixed(s->line.state), .n = s->line.position};
    if (fm_approximation_wanders(e)) return fm_fail(err, FM_EUNSUPPORTED, "%s: a state that depends on what was in memory is not saved", path);
    if (snprintf(part, sizeof part, "%s.%ld.part", path, (long)getpid()) >= (int)sizeof part) return fm_fail(err, FM_EINVAL, "%s: the path is too long", path);
    int rc = fm_identity_of(&identity, e->model, &e->snapshots->config.device, false, err);
    if (rc < 0) return rc;
    fm_snapshots_tidy(e->snapshots);
    rc = fm_state_write(part, &view, &identity, s->line.ids, 0, &bytes, err);
    if (rc == 0 && rename(part, path)) rc = fm_fail_errno(err, FM_EIO, errno, "%s: it cannot be written", path);
    if (rc < 0) (void)unlink(part);
    return rc;
}

int fm_session_save(const fm_session *s, const char *path, fm_error *err) {
    fm_turn_take(&s->engine->turn);
    int rc = save(s, path, err);
    fm_turn_give(&s->engine->turn);
    return rc;
}

typedef struct loading {
    const fm_file *file;
    fm_state_meta *meta;
    const fm_state_view *view;
    bool check;
    atomic_int rc;
    fm_error error;
} loading;

static void failed(loading *l, int rc, const fm_error *err) {
    int none = 0;
    if (rc < 0 && atomic_compare_exchange_strong(&l->rc, &none, rc)) l->error = *err;
}

static void load_task(void *arg, int unit, fm_window *window) {
    loading *l = arg;
    fm_error err = {0};
    if (atomic_load(&l->rc) < 0) return;
    fm_window_begin(window, l->file);
    failed(l, fm_state_read_unit(window, l->meta, l->view, unit, l->check, &err), &err);
}

static int run(const fm_session *s, loading *l, int n, void (*task)(void *arg, int i, fm_window *window), fm_error *err) {
    const fm_snapshots *x = s->engine->snapshots;
    int rc = fm_readers_run(x->n_readers, fm_state_window_bytes(x), n, task, l, err);
    if (rc == 0 && (rc = atomic_load(&l->rc)) < 0 && err) *err = l->error;
    return rc;
}

static int read_units(const fm_session *s, loading *l, bool check, fm_error *err) {
    l->check = check;
    return run(s, l, fm_state_n_units(l->view), load_task, err);
}

static void meta_task(void *arg, int i, fm_window *window) {
    loading *l = arg;
    fm_error err = {0};
    (void)i;
    fm_window_begin(window, l->file);
    failed(l, fm_state_read_meta(l->meta, window, &err), &err);
}

static int check_load(const fm_session *s, const fm_state_meta *meta, const char *path, fm_error *err) {
    const fm_engine *e = s->engine;
    static const char *const kinds[] = {"bf16", "f32", "q8"};
    fm_identity identity;
    int rc = fm_identity_of(&identity, e->model, &e->snapshots->config.device, false, err), kv = e->snapshots->config.device.kv;
    if (rc < 0) return rc;
    if (meta->h.kv > FM_KV_Q8) return fm_fail(err, FM_EFORMAT, "%s: there is no kind %u of KV cache", path, (unsigned)meta->h.kv);
    if ((int)meta->h.kv != kv) return fm_fail(err, FM_EINVAL, "%s: its KV cache is %s, this engine's %s", path, kinds[meta->h.kv], kinds[kv]);
    if (memcmp(&identity, &meta->h.identity, sizeof identity) != 0)
        return fm_fail(err, FM_EINVAL, "%s: it is of another model than %s, or of other settings", path, e->model->path);
    if (meta->h.first_token || meta->h.first_row) return fm_fail(err, FM_EINVAL, "%s: it is a part of a session, not a whole one", path);
    if ((int)meta->h.n > e->plan.context)
        return fm_fail(err, FM_EINVAL, "%s: its %u tokens do not fit in a context of %d tokens", path, (unsigned)meta->h.n, e->plan.context);
    return fm_session_check(s, meta->ids, (int)meta->h.n, err);
}

/* All is checked before anything is touched. */
static int load_meta(fm_session *s, const fm_file *file, fm_state_meta *meta, fm_error *err) {
    fm_engine *e = s->engine;
    fm_timeline *t = &s->line;
    int n = (int)meta->h.n;
    fm_state_view view = {.snapshots = e->snapshots, .timeline = t, .fixed = e->ops->fixed(t->state), .n = n};
    loading l = {.file = file, .meta = meta, .view = &view};
    int rc = check_load(s, meta, file->path, err);
    if (rc < 0 || (rc = fm_state_check(meta, &view, file->path, err)) < 0 || (rc = read_units(s, &l, true, err)) < 0) return rc;
    fm_snapshots_overwrite(e->snapshots, t, 0);
    if ((rc = read_units(s, &l, false, err)) < 0) { /* it was changed meanwhile */
        fm_session_clear(s);
        return rc;
    }
    memcpy(t->ids, meta->ids, (size_t)n * sizeof *t->ids);
    t->position = t->n_rows = n;
    s->has_logits = false;
    return 0;
}

int fm_session_load(fm_session *s, const char *path, fm_error *err) {
    fm_file file = {0};
    fm_state_meta meta = {0};
    fm_turn_take(&s->engine->turn);
    int rc = fm_file_open(&file, path, false, err);
    if (rc == 0) rc = run(s, &(loading){.file = &file, .meta = &meta}, 1, meta_task, err);
    if (rc == 0) rc = load_meta(s, &file, &meta, err);
    fm_state_meta_close(&meta);
    fm_file_close(&file);
    fm_turn_give(&s->engine->turn);
    return rc;
}
