/* prepare/shapes.c: the shapes of published models, as their config.json says them. */
#include "base/error.h"
