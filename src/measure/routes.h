/* measure/routes.h: where the bench's experts come from: the model's own routers, a recorded trace, or a modelled distribution. Random weights route without
 * locality, so a streamed model of random weights is timed with routes that are said.
 *
 * The model of a layer: its experts, in an order of its own that never changes, have Zipf weights 1 / rank^exponent. Each of a token's picks is, with
 * probability `reuse`, one of the experts of the token before that this one has not picked yet, else a draw from the weights without replacement. */
#ifndef FM_MEASURE_ROUTES_H
#define FM_MEASURE_ROUTES_H

#include "engine/engine.h"

typedef struct fm_routes fm_routes;

/* name: NULL or "model" (the model's own routing), a preset's name, the path of a trace, or that of a JSON file, *.json, {"exponent": 1.1, "reuse": 0.2}, each
 * a number or a list with one for each layer. Unknown names list the presets (FM_EINVAL). FM_EINVAL: a trace, or lists, of another model. */
int fm_routes_open(fm_routes **routes, const char *name, const fm_engine *engine, fm_error *err);
void fm_routes_close(fm_routes **routes);
/* What it is, in a few words, for people and JSON: "the model's own", with "(random weights: no locality)" if `synth` made it, "zipf 1.40, reuse 0.05
 * (preset 128x8)" … */
const char *fm_routes_name(const fm_routes *routes);
/* Whether experts are drawn, so that the model's own routers say nothing of them. */
bool fm_routes_drawn(const fm_routes *routes);
/* Begins a new text: what is drawn next depends on the seed, not on what was drawn before. */
void fm_routes_restart(fm_routes *routes, uint64_t seed);
/* The engine's fm_route_hook. */
void fm_routes_draw(void *user, const fm_route_event *event);

#endif
