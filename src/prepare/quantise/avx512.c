/* prepare/quantise/avx512.c: strips with AVX512. */
#define FM_STRIP_NAME fm_strip_avx512
#define FM_LANES 16
#include "prepare/quantise/body.h"
