/* prepare/shapes.h: the shapes of published models, by name. */
#ifndef FM_PREPARE_SHAPES_H
#define FM_PREPARE_SHAPES_H

typedef struct fm_named_shape {
    const char *name, *summary;
    const char *config; /* what config.json says of the text model, as JSON */
} fm_named_shape;

/* NULL-terminated by name. */
extern const fm_named_shape fm_named_shapes[];

#endif
