/* template/template.c: opens templates and renders them. See template.h. */
#include "template/template.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "template/interpreter.h"

struct fm_template {
    fm_run run; /* of the parse: its arena holds the tree. Renderings have runs of their own and change nothing here */
    fm_tree tree;
    char *name;
};

static int check_utf8(const char *source, size_t bytes, const char *name, fm_error *err) {
    size_t line = 1;
    for (size_t at = 0; at < bytes;) {
        utf8proc_int32_t point;
        utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)source + at, (utf8proc_ssize_t)(bytes - at), &point);
        if (n <= 0) return fm_fail(err, FM_EFORMAT, "%s line %zu: byte %zu is not UTF-8", name, line, at);
        line += point == '\n';
        at += (size_t)n;
    }
    return 0;
}

/* Between setjmp and a refusal nothing is owned but by the run. */
static int parse(fm_template *t, const char *source, size_t bytes) {
    if (setjmp(t->run.refused)) return t->run.code;
    fm_parse(&t->run, &t->tree, source, bytes);
    fm_resolve(&t->run, &t->tree);
    return 0;
}

int fm_template_open(fm_template **out, const char *source, size_t bytes, const char *name, fm_error *err) {
    *out = NULL;
    int rc = check_utf8(source, bytes, name, err);
    if (rc < 0) return rc;
    fm_template *t = calloc(1, sizeof *t);
    if (t) t->name = strdup(name);
    if (!t || !t->name) {
        free(t);
        return fm_fail(err, FM_ENOMEM, "no memory for template %s", name);
    }
    t->run = (fm_run){.err = err,
                      .name = t->name,
                      .line = 1,
                      .left = {.steps = FM_TEMPLATE_STEPS, .memory = FM_TEMPLATE_MEMORY, .output = FM_TEMPLATE_OUTPUT, .depth = FM_TEMPLATE_DEPTH}};
    rc = parse(t, source, bytes);
    t->run.err = NULL;
    if (rc < 0) {
        fm_template_close(&t);
        return rc;
    }
    *out = t;
    return 0;
}

void fm_template_close(fm_template **t) {
    if (!*t) return;
    fm_run_close(&(*t)->run);
    free((*t)->name);
    free(*t);
    *t = NULL;
}

static void look_up_globals(fm_run *run, const fm_tree *tree, const json_t *variables, fm_value *globals) {
    for (size_t i = 0; i < tree->n_globals; i++) {
        const json_t *json = json_object_get(variables, tree->globals[i]->data);
        globals[i] = (fm_value){0};
        if (json) {
            globals[i] = fm_of_json(run, json);
        } else {
            fm_global(tree->globals[i], &globals[i]);
        }
    }
}

static int render(fm_run *run, const fm_tree *tree, const json_t *variables, fm_writer *writer) {
    if (setjmp(run->refused)) return run->code;
    fm_interpreter *interpreter = fm_take_zeroed(run, sizeof *interpreter);
    *interpreter = (fm_interpreter){.tree = tree, .globals = fm_take(run, tree->n_globals * sizeof(fm_value)), .out = writer, .block = fm_none()};
    run->interpreter = interpreter;
    look_up_globals(run, tree, variables, interpreter->globals);
    fm_frame *frame = fm_frame_new(run, tree->body->scope, NULL, writer);
    fm_scope_enter(run, frame, tree->body->scope);
    fm_execute(run, frame, tree->body);
    return 0;
}

int fm_template_render(const fm_template *t, const json_t *variables, int64_t now, char **text, size_t *bytes, fm_error *err) {
    *text = NULL;
    *bytes = 0;
    if (!json_is_object(variables)) return fm_fail(err, FM_EINVAL, "%s: the variables are not a JSON object", t->name);
    fm_run run = {.err = err,
                  .name = t->name,
                  .line = 1,
                  .now = now,
                  .left = {.steps = FM_TEMPLATE_STEPS, .memory = FM_TEMPLATE_MEMORY, .output = FM_TEMPLATE_OUTPUT, .depth = FM_TEMPLATE_DEPTH}};
    fm_writer writer = {.run = &run};
    int rc = render(&run, &t->tree, variables, &writer);
    if (rc == 0) {
        *text = malloc(writer.n + 1);
        if (*text) {
            if (writer.n) memcpy(*text, writer.data, writer.n);
            (*text)[writer.n] = 0;
            *bytes = writer.n;
        } else {
            rc = fm_fail(err, FM_ENOMEM, "%s: no memory for %zu bytes of text", t->name, writer.n);
        }
    }
    fm_run_close(&run);
    return rc;
}
