/* tests/template/render.c: renders jobs for the tests in Python. A line of stdin is {"template": source, "name": …, "variables": {…}, "now": seconds}, where a template that is
 * left out is the one before; a line of stdout answers {"text": …} or {"error": "FM_E…", "message": …}. */
#include "template/template.h"
#include "test.h"

static const char *code_name(int code) {
    switch (code) {
    case FM_EINVAL: return "FM_EINVAL";
    case FM_EFORMAT: return "FM_EFORMAT";
    case FM_EUNSUPPORTED: return "FM_EUNSUPPORTED";
    case FM_EFULL: return "FM_EFULL";
    case FM_ENOMEM: return "FM_ENOMEM";
    default: return "another";
    }
}

/* The template of the job: opened if the job brings one. */
static int take_template(fm_template **t, const json_t *job, fm_error *err) {
    const json_t *source = json_object_get(job, "template"), *name = json_object_get(job, "name");
    if (!source) return *t ? 0 : fm_fail(err, FM_EINVAL, "the first job has no template");
    fm_template_close(t);
    return fm_template_open(t, json_string_value(source), json_string_length(source), name ? json_string_value(name) : "template", err);
}

static json_t *answer(fm_template **t, const json_t *job) {
    fm_error err = {0};
    char *text = NULL;
    size_t bytes = 0;
    int rc = take_template(t, job, &err);
    if (rc >= 0) rc = fm_template_render(*t, json_object_get(job, "variables"), json_integer_value(json_object_get(job, "now")), &text, &bytes, &err);
    if (rc < 0) return json_pack("{s:s, s:s}", "error", code_name(rc), "message", err.message);
    json_t *out = text[bytes] ? NULL : json_pack("{s:o?}", "text", json_stringn(text, bytes)); /* NULL, too, for what is no UTF-8 */
    free(text);
    return out;
}

int main(void) {
    char *line = NULL;
    size_t cap = 0;
    fm_template *t = NULL;
    setvbuf(stdout, NULL, _IOLBF, 1 << 16); /* so that what was answered before a crash is seen */
    for (long n = 1; getline(&line, &cap, stdin) > 0; n++) {
        json_error_t error;
        json_t *job = json_loads(line, JSON_ALLOW_NUL, &error), *out = json_is_object(job) ? answer(&t, job) : NULL;
        if (!out) {
            fprintf(stderr, "job %ld: %s\n", n, job ? "the text is no UTF-8 or does not end in a zero" : error.text);
            return 1;
        }
        json_dumpf(out, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(out);
        json_decref(job);
    }
    fm_template_close(&t);
    free(line);
    return 0;
}
