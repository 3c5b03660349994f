/* measure/routes.c: see routes.h. */
#include "measure/routes.h"
