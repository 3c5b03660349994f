/* measure/routes.h: where the bench's experts come from: the model's own routers, a recorded trace, or a modelled distribution. Random weights route without
 * locality, so a streamed model of random weights is timed with routes that are said. */
#ifndef FM_MEASURE_ROUTES_H
#define FM_MEASURE_ROUTES_H

#include "engine/engine.h"

typedef struct fm_routes fm_routes;

/* name: NULL or "model" (the model's own routing), a preset's name, or the path of a trace or of a small JSON file (exponent, reuse, by layer or for all). Unknown names list
 * the presets. FM_EINVAL: a trace of another model. */
int fm_routes_open(fm_routes **routes, const char *name, const fm_engine *engine, fm_error *err);
void fm_routes_close(fm_routes **routes);
/* What it is, in a few words, for people and JSON: "the model's own (random weights: no locality)", "zipf 1.0, reuse 0.38 (preset …)". */
const char *fm_routes_name(const fm_routes *routes);
/* Begins a new text: what is drawn next does not depend on what was drawn before. */
void fm_routes_restart(fm_routes *routes, uint64_t seed);
/* The engine's fm_route_hook. */
void fm_routes_draw(void *user, const fm_route_event *event);

#endif
