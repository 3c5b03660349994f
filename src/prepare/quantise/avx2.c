/* prepare/quantise/avx2.c: strips with AVX2. */
#define FM_STRIP_NAME fm_strip_avx2
#define FM_LANES 8
#include "prepare/quantise/body.h"
