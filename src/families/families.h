/* families/families.h: the list of families. */
#ifndef FM_FAMILIES_FAMILIES_H
#define FM_FAMILIES_FAMILIES_H

#include "model/family.h"

/* All of them, NULL-terminated. */
extern const fm_family *const fm_families[];

#endif
