/* measure/trace.c: see trace.h. */
#include "measure/trace.h"
