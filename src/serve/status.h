/* serve/status.h: what the server says of itself: handlers of routes. */
#ifndef FM_SERVE_STATUS_H
#define FM_SERVE_STATUS_H

#include "serve/api.h"

int fm_status_models(fm_exchange *x, fm_refusal *why);
int fm_status_model(fm_exchange *x, fm_refusal *why);
int fm_status_health(fm_exchange *x, fm_refusal *why);
int fm_status_metrics(fm_exchange *x, fm_refusal *why);
int fm_status_props(fm_exchange *x, fm_refusal *why);

#endif
