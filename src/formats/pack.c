/* formats/pack.c: see pack.h: reading. */
#include "formats/pack.h"
