/* engine/engine.h: the inside of an engine and of a session, private to this folder. */
#ifndef FM_ENGINE_ENGINE_H
#define FM_ENGINE_ENGINE_H

#include <stdatomic.h>

#include "base/system.h"
#include "base/turn.h"
#include "families/families.h"
#include "model/device.h"
#include "snapshots/directory.h"
#include "text/tokenizer.h"

/* One layer's chosen experts, ascending, and who goes through each. */
typedef struct fm_uses {
    int n;      /* distinct experts */
    int *keys;  /* [n] */
    int *start; /* [n + 1] into tokens and choices */
    int32_t *tokens, *choices;
    int *count; /* [n_experts] */
} fm_uses;

/* What the router chose for the batch's tokens in one layer. */
typedef struct fm_route_event {
    int layer, n, top_k;
    int *experts;         /* [n][top_k], ascending in each row, distinct: may be replaced by others */
    const float *weights; /* [n][top_k] */
    const int *predicted; /* [n][top_k]: this layer's router on the state one layer before; NULL: none */
} fm_route_event;
typedef void (*fm_route_hook)(void *user, const fm_route_event *event);

#define FM_MAX_CAPTURES 64 /* in one batch */

struct fm_engine {
    fm_turn turn; /* every public call that computes, or looks at what computing changes, takes it */
    fm_engine_options options;
    fm_model *model;
    fm_model_info info;
    fm_plan plan;
    fm_tokenizer *tokenizer;
    fm_sampling sampling;
    fm_pool *pool;
    fm_weights weights;
    fm_device *device;
    const fm_device_ops *ops;
    fm_store *store;
    char *heat_path;     /* NULL: none */
    int window;          /* experts that this disk wants to be read at once; 0: not measured */
    bool opened;         /* completely */
    const fm_io_ops *io; /* NULL: by options.io */
    fm_pressure *pressure;
    int n_sessions;
    int top_k;
    atomic_bool cancelled;

    fm_arena tables;
    fm_uses uses;
    int32_t *ids; /* [batch] */
    fm_span spans[FM_MAX_SPANS];
    fm_session *sessions[FM_MAX_SPANS]; /* of the spans */
    fm_capture captures[FM_MAX_CAPTURES];
    int n_captures;
    fm_snapshots *snapshots;
    fm_directory *directory;  /* NULL: no session cache */
    fm_route_hook route_hook; /* NULL: none */
    bool routes_drawn;        /* the hook replaces what the routers choose, so guessing by them is no use */
    void *route_user;
    int predicted_layer;       /* -1: none */
    fm_routing predicted;      /* of predicted_layer, the device's */
    int *advice;               /* [fm_plan_advice()] keys */
    bool predict_always;       /* predict for the hook even when nothing is read ahead */
    int *fill_keys;            /* in the order of the profile; NULL: none */
    char approximation[240];   /* "": none */
    uint8_t *cold;             /* [n_experts]: of uses.keys, that their narrow copies will do */
    int *dropped;              /* [FM_GUESS_TOKENS * top_k] keys that are left out */
    _Atomic uint64_t n_tokens; /* read by fm_engine_live */
    uint64_t slots_given_back, n_left_out, n_narrow;
    double phase_seconds[FM_N_PHASES];
};

#define FM_MAX_PENDING 32

struct fm_session {
    fm_engine *engine;
    fm_timeline line;
    fm_snapshot *pending[FM_MAX_PENDING]; /* ascending: what is kept when computing comes by */
    int n_pending;
    bool has_logits;
    float *logits; /* [vocab] */
    fm_trace_fn trace;
    void *trace_user;
};

/* engine.c: fm_engine_open with a given I/O back end, for tests. */
int fm_engine_open_io(fm_engine **out, const char *directory, const fm_engine_options *options, const fm_io_ops *io, fm_error *err);

/* plan.c: everything that fm_engine_open will allocate, as it will allocate it. model and tokenizer (may be NULL) are open. */
int fm_plan_compute(fm_plan *plan, const fm_model *model, const fm_tokenizer *tokenizer, const fm_engine_options *options, fm_error *err);
/* The device's and the store's configuration under a plan. */
fm_device_config fm_plan_device(const fm_plan *plan, const fm_model *model, const fm_engine_options *options);
fm_store_config fm_plan_store(const fm_plan *plan, const fm_model *model, const fm_engine_options *options);
/* Bytes that each thread reads at a time while the dense weights are loaded: their buffers, which are gone before slots are filled, stay a small part of the budget. */
size_t fm_plan_piece_bytes(const fm_plan *plan, const fm_engine_options *options);
/* The most keys that the engine advises the store to read ahead. */
size_t fm_plan_advice(const fm_model *model, int top_k);
size_t fm_plan_table_bytes(const fm_model *model, int batch, int top_k);
/* Copies options of any known size over the defaults; checks their ranges. */
int fm_options_read(fm_engine_options *out, const fm_engine_options *in, fm_error *err);

/* info.c */
/* Bits of the narrow copies of experts (0: there are none), and the bytes on disk of one and of all. */
int fm_info_narrow(const fm_model *model, uint64_t *expert, uint64_t *all);
int fm_info_fill(fm_model_info *info, const fm_model *model, const fm_tokenizer *tokenizer, const char *config_from, fm_error *err);
/* The tokenizer of a model; *tokenizer NULL and 0 if there is no tokenizer.json. */
int fm_info_tokenizer(fm_tokenizer **tokenizer, const char *directory, const char *config_from, fm_error *err);
/* The error of a model without a tokenizer that can be read: FM_EFORMAT, or FM_EUNSUPPORTED saying of what one can be made. */
int fm_info_no_tokenizer(const char *directory, const char *config_from, fm_error *err);

typedef struct fm_template_source { /* a model's chat template */
    char file[64];                  /* it was found in; "": there is none */
    char *text, *tool_text;         /* malloc'd; tool_text: another one for requests with tools, or NULL */
} fm_template_source;

/* Looks in chat_template.jinja, chat_template.json and tokenizer_config.json. FM_EFORMAT for a file that is damaged. */
int fm_info_template(fm_template_source *out, const char *directory, const char *config_from, fm_error *err);
void fm_template_source_close(fm_template_source *source);

/* forward.c: computes the tokens of e->spans (n in all, ids in e->ids) through all layers; the residual stream stays on the device. */
int fm_forward(fm_engine *engine, int n_spans, int n, fm_error *err);
/* preload.c: fills the cache before the first token: with every expert of a model that fits, else for about two seconds with those that options.heat says were used most
 * (a file that cannot be used is a warning). save: writes that file. */
int fm_preload(fm_engine *engine, fm_error *err);
void fm_preload_save(fm_engine *engine);

/* approximate.c: takes experts out of a routing, if the user asked for it, and divides their weight among the rest: returns how many, in e->dropped. */
int fm_approximate(fm_engine *engine, int layer, fm_routing *routing, int n);
/* Marks in e->cold which of uses' keys may come as narrow copies; NULL: none. */
const uint8_t *fm_cold_keys(fm_engine *engine, const fm_routing *routing, int n);
int fm_approximation_check(const fm_engine_options *options, fm_error *err);
/* Says what is approximated; FM_EUNSUPPORTED if this model cannot be. */
int fm_approximation_open(fm_engine *engine, fm_error *err);
/* Whether results depend on what is in memory: such states are not written to the session cache. */
bool fm_approximation_wanders(const fm_engine *engine);

/* session.c: FM_EINVAL unless ids [n] are in the vocabulary. */
int fm_session_check(const fm_session *session, const int32_t *ids, int n, fm_error *err);
/* keep.c: the pending snapshots that the session's position has passed become ready; the rest of them is dropped, if so wanted. */
void fm_session_settle(fm_session *session, bool all);
/* The session cache of options; one that cannot be used is a warning. store: writes what is only in memory there. */
void fm_engine_open_cache(fm_engine *engine);
void fm_engine_store(fm_engine *engine);
void fm_session_give_up(fm_session *session, int i); /* drops a pending one */

void fm_engine_spent(fm_engine *engine, int phase, double seconds); /* in the engine's turn or not */
void fm_engine_log(const fm_engine *engine, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
