/* template/filters/filters.h: the tables that fm_filter looks into. */
#ifndef FM_TEMPLATE_FILTERS_FILTERS_H
#define FM_TEMPLATE_FILTERS_FILTERS_H

#include "template/library/inner.h"

fm_table fm_list_filters(void);
fm_table fm_text_filters(void);
fm_table fm_number_filters(void);
fm_table fm_word_filters(void);
/* The filter pprint. */
fm_value fm_pretty(fm_run *run, fm_value value);

#endif
