/* prepare/synth.c: a model of random weights at real shapes. */
#include "base/error.h"
