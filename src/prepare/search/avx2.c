/* prepare/search/avx2.c: the search with AVX2. */
#define FM_SEARCH_NAME fm_search_avx2
#include "prepare/search/body.h"
