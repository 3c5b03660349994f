/* template/template.h: Jinja as chat templates use it: a template is parsed once and rendered with variables. Written for text that comes from outside: steps, memory, depth and
 * output are limited. Semantics are those of Python's jinja2 3.1 with the settings that transformers uses: trim_blocks, lstrip_blocks, loop controls, `generation`,
 * ImmutableSandboxedEnvironment, `tojson` as json.dumps, `raise_exception`, `strftime_now`.
 *
 * Left out, and refused by name and line (FM_EUNSUPPORTED): the tags include, import, from, extends, block and autoescape (there is one template and no loader), trans and debug; the
 * variable `self`; \N{NAME} and halves of surrogate pairs in strings; slices among several subscripts (a[1:2, 3]); filters and methods that library/ and filters/ name so (random, urlize,
 * encode, …); whole numbers beyond 64 bits, complex numbers; the text of a value whose Python text has an address in it.
 * Different: a variable of a loop that a macro reads after the loop has ended is undefined (jinja2 prints "missing", by an oversight); a namespace takes no member that begins with an
 * underscore, for none could be read; a block set of a mapping's member is refused, as the plain set is; generators are lists that are made at once, so what is wrong in one is refused
 * even where nothing reads it. */
#ifndef FM_TEMPLATE_TEMPLATE_H
#define FM_TEMPLATE_TEMPLATE_H

#include <jansson.h>

#include "base/error.h"

typedef struct fm_template fm_template;

/* What a parse or a rendering may take: so much that a conversation of 8 MB renders. Beyond it: FM_EFULL. */
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION /* a fuzzer's inputs are small */
#define FM_TEMPLATE_STEPS ((int64_t)4000000)
#define FM_TEMPLATE_MEMORY ((size_t)128 << 20)
#define FM_TEMPLATE_OUTPUT ((size_t)16 << 20)
#else
#define FM_TEMPLATE_STEPS ((int64_t)1000000000) /* operations, and bytes moved / 32: some ten seconds */
#define FM_TEMPLATE_MEMORY ((size_t)1 << 30)    /* bytes of all values together */
#define FM_TEMPLATE_OUTPUT ((size_t)256 << 20)  /* bytes of text */
#endif
#define FM_TEMPLATE_DEPTH 4000 /* parts of the template, and values, within each other: through macros too */

/* source is UTF-8 and copied. name stands before messages ("chat_template.jinja"). FM_EFORMAT: a mistake in it, with its line; FM_EUNSUPPORTED: something that this interpreter does not know,
 * by name, with its line. */
int fm_template_open(fm_template **out, const char *source, size_t bytes, const char *name, fm_error *err);
void fm_template_close(fm_template **t);

/* Renders with variables (a JSON object; its members are the names a template sees; the order of members is kept) at the time `now` (for strftime_now, seconds since 1970). *text is malloc'd and 0-terminated.
 * FM_EINVAL: raise_exception, with its text; FM_EFORMAT: what jinja2 would refuse while rendering (an undefined value used, a wrong type), with the line; FM_EUNSUPPORTED: an unknown filter, test or
 * method; FM_EFULL: a limit was reached. */
int fm_template_render(const fm_template *t, const json_t *variables, int64_t now, char **text, size_t *bytes, fm_error *err);

#endif
