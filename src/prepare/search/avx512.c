/* prepare/search/avx512.c: the search with AVX512. */
#define FM_SEARCH_NAME fm_search_avx512
#include "prepare/search/body.h"
