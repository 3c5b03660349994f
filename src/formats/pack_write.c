/* formats/pack_write.c: see pack.h: writing. */
#include "formats/pack.h"
