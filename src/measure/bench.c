/* measure/bench.c: timing a model, and the share of the limit. */
#include "base/error.h"
