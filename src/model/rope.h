/* model/rope.h: the frequencies of rotary embeddings, in the variants that config.json can ask for. */
#ifndef FM_MODEL_ROPE_H
#define FM_MODEL_ROPE_H

#include "model/description.h"

/* Frequencies [rotary_dim / 2] and what cosines and sines are multiplied with, in transformers' roundings: powers are f32. Where a variant depends on the length of
 * the text (FM_ROPE_DYNAMIC, FM_ROPE_LONG), the context takes its place: so keys that are cached stay right as a text grows, and what is computed does not depend on how
 * it was divided into batches. */
void fm_rope_frequencies(const fm_description *d, int context, float *frequency, float *attention);

#endif
