/* serve/api/fields.h: the fields of a request: which there may be, and reading them strictly. A field that is null counts as not there. */
#ifndef FM_SERVE_API_FIELDS_H
#define FM_SERVE_API_FIELDS_H

#include "serve/api.h"

enum {
    FM_FIELD_USED,     /* parse reads it */
    FM_FIELD_ADVISORY, /* does not change the answer: any value */
    FM_FIELD_ONLY,     /* only with one of the values of `only` */
    FM_FIELD_REFUSED,
};

typedef struct fm_field {
    const char *name;
    int rule;
    const char *only; /* JSON of the values, each in a line of its own */
} fm_field;

/* 0, or a refusal that names the first field that is unknown or not supported. */
int fm_fields_check(const json_t *object, const fm_field *fields, int n, fm_refusal *why);

/* Each leaves *out as it is if the field is not there. 0, or a refusal: it is of another type, or out of range. */
int fm_field_number(const json_t *object, const char *name, double least, double most, float *out, fm_refusal *why);
int fm_field_int(const json_t *object, const char *name, int least, int most, int *out, fm_refusal *why);
int fm_field_bool(const json_t *object, const char *name, bool *out, fm_refusal *why);
int fm_field_text(const json_t *object, const char *name, const char **out, fm_refusal *why);
/* A text or a list of texts, none empty, as borrowed strings. */
int fm_field_stops(fm_exchange *x, const char *name, const char *const **out, int *n, fm_refusal *why);
/* The model's name, which is checked with --strict-model. */
int fm_field_model(const fm_exchange *x, fm_refusal *why);

/* temperature, top_p, top_k, min_p, the penalties, logit_bias and seed under OpenAI's names, into all jobs, with seeds that follow. */
int fm_fields_sampling(fm_exchange *x, fm_refusal *why);

/* If rc is a refusal, it is about something inside of `where`: its field's name and its sentence say so. Returns rc. */
int fm_denied_inside(const char *where, int rc, fm_refusal *why);
int fm_no_memory(fm_refusal *why); /* status 500 */
/* Whether these tools, in OpenAI's form, have one of this name; "": any at all. */
bool fm_has_tool(const json_t *tools, const char *name);
/* The string that a member of an object is, or NULL. */
const char *fm_member_text(const json_t *object, const char *member);
bool fm_is_given(const json_t *value); /* neither missing nor null */

#define FM_COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

#endif
