/* measure/replay.c: cache policies over a recorded routing. */
#include "base/error.h"
