/* tests/template/template.c: what templates give, what they are refused with, and that many threads may render one. Against jinja2 itself: differential.py and expressions.py. */
#include "template/template.h"

#include <pthread.h>

#include "test.h"

static int render(const char *source, const char *variables, char **text, size_t *bytes, fm_error *err) {
    fm_template *t;
    json_t *json = json_loads(variables, 0, NULL);
    if (!json) exit(1);
    *text = NULL;
    int rc = fm_template_open(&t, source, strlen(source), "chat.jinja", err);
    if (rc >= 0) rc = fm_template_render(t, json, 1700000000, text, bytes, err);
    fm_template_close(&t);
    json_decref(json);
    return rc;
}

static void gives(const char *source, const char *variables, const char *wanted) {
    char *text;
    size_t bytes = 0;
    fm_error err = {0};
    int rc = render(source, variables, &text, &bytes, &err);
    CHECK(rc == 0 && bytes == strlen(wanted) && !strcmp(text, wanted), "%s: \"%s\", not \"%s\" (%d %s)", source, text, wanted, rc, err.message);
    free(text);
}

static void refuses(const char *source, const char *variables, int code, const char *message) {
    char *text;
    size_t bytes;
    fm_error err = {0};
    int rc = render(source, variables, &text, &bytes, &err);
    CHECK(rc == code && !strcmp(err.message, message), "%s: %d \"%s\", not %d \"%s\"", source, rc, err.message, code, message);
    CHECK(rc == code && err.code == code && !text, "%s: code %d", source, err.code);
    free(text);
}

static void scopes(void) {
    gives("{% set x = 1 %}{% for i in [1, 2] %}{{ x }}{% set x = x + 1 %}{{ x }} {% endfor %}{{ x }}", "{}", "12 12 1");
    gives("{% if true %}{% set x = 1 %}{% endif %}{{ x }}", "{\"x\": 9}", "1");
    gives("{% if false %}{% set x = 1 %}{% endif %}{{ x }}", "{\"x\": 9}", "9");
    gives("{{ x }}{% set x = 1 %}{{ x }}", "{\"x\": 9}", "91");
    gives("{% macro f() %}{{ x }}{% endmacro %}{{ f() }}{% set x = 1 %}{{ f() }}", "{\"x\": 9}", "1");
    gives("{% for x in [1, 2] %}{% macro f() %}{{ x }}{{ loop.index }} {% endmacro %}{{ f() }}{% endfor %}", "{}", "11 22 ");
    gives("{% set ns = namespace() %}{% for x in [1] %}{% macro f() %}[{{ x }}]{% endmacro %}{% set ns.f = f %}{% endfor %}{{ ns.f() }}", "{}", "[]");
    gives("{% with x = 1, y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}", "{\"x\": 9}", "199");
    gives("{% set x %}{% set y = 1 %}{{ y }}{% endset %}{{ x }}{{ y }}", "{}", "1");
    gives("{% generation %}{% set x = 1 %}{{ x }}{% endgeneration %}{{ x }}", "{}", "1");
    gives("{% set a, (b, c) = 1, [2, 3] %}{{ a }}{{ b }}{{ c }}", "{}", "123");
    gives("{% set ns = namespace(a=1) %}{% for i in [1, 2] %}{% set ns.a, b = ns.a + i, 0 %}{% endfor %}{{ ns.a }}", "{}", "4");
}

static void loops(void) {
    gives("{% for i in [] %}{{ i }}{% else %}none{% endfor %}", "{}", "none");
    gives("{% for i in [1] %}{% break %}{% else %}else{% endfor %}", "{}", "else"); /* as jinja2 has it */
    gives("{% for i in range(9) if i % 2 %}{% if i == 7 %}{% break %}{% endif %}{% if i == 3 %}{% continue %}{% endif %}{{ i }}{{ loop.index }} {% endfor %}",
          "{}", "11 53 ");
    gives("{% for i in range(6) if i % 2 %}{{ loop.length }}{{ loop.revindex }}{{ loop.last }}{{ i }}{{ loop.nextitem }} {% endfor %}", "{}",
          "33False13 32False35 31True5 ");
    gives("{% for x in t recursive %}{{ loop.depth }}{{ x.n }}({{ loop(x.c) if x.c }}){% endfor %}",
          "{\"t\": [{\"n\": \"a\", \"c\": [{\"n\": \"b\"}]}, {\"n\": \"c\"}]}", "1a(2b())1c()");
    gives("{% for x in 'aab' %}{{ loop.changed(x) }}{{ loop.cycle(1, 2) }}{{ loop.previtem }} {% endfor %}", "{}", "True1 False2a True1a ");
    gives("{% for a in [1, 2] %}{% set x %}{% if a == 1 %}{% continue %}{% endif %}{{ a }}{% endset %}<{{ x }}>{% endfor %}", "{}", "<2>");
    gives("{% for k, v in m.items() %}{{ k }}={{ v }};{% endfor %}", "{\"m\": {\"z\": 1, \"a\": null}}", "z=1;a=None;");
}

static void macros(void) {
    gives("{% macro f(a, b=a ~ '!') %}{{ a }}{{ b }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1) }} {{ f(1, 2, 3, k=4) }}", "{}", "11!(){} 12(3,){'k': 4}");
    gives("{% macro f(n) %}[{{ caller(n, x=2) }}]{% endmacro %}{% call(a, x) f(1) %}{{ a }}{{ x }}{% endcall %}", "{}", "[12]");
    gives("{% macro f(a, b) %}{{ a }}{{ b is defined }}{% endmacro %}{{ f() }}{{ f(*[1, 2]) }}{{ f(**{'b': 1}) }}", "{}", "False1TrueTrue");
    gives("{% filter upper | replace('A', 'b') %}a{{ 'c' }}{% endfilter %}", "{}", "bC");
    gives("{% set x | upper %}a{% endset %}{{ x }}", "{}", "A");
}

static void refusals(void) {
    refuses("a\n{{ b.c }}", "{}", FM_EFORMAT, "chat.jinja line 2: 'b' is undefined");
    refuses("{{ m.b.c }}", "{\"m\": {}}", FM_EFORMAT, "chat.jinja line 1: 'dict object' has no attribute 'b'");
    refuses("{% set x = 1 %}\n\n{{ raise_exception('no \\'tools\\'') }}", "{}", FM_EINVAL, "chat.jinja line 3: no 'tools'");
    refuses("{% macro f() %}\n{{ x.y }}\n{% endmacro %}\n\n{{ f() }}", "{}", FM_EFORMAT, "chat.jinja line 2: 'x' is undefined");
    refuses("{{\n1 +\n'a' }}", "{}", FM_EFORMAT, "chat.jinja line 2: unsupported operand type(s) for +: 'int' and 'str'");
    refuses("\n{{ 1 | nonsense }}", "{}", FM_EUNSUPPORTED, "chat.jinja line 2: no filter named 'nonsense'");
    refuses("{{ 1 is nonsense }}", "{}", FM_EUNSUPPORTED, "chat.jinja line 1: no test named 'nonsense'");
    refuses("{% if true %}\n{{ 1 | nonsense }}{% endif %}", "{}", FM_EUNSUPPORTED, "chat.jinja line 2: no filter named 'nonsense'");
    gives("{% if false %}{{ 1 | nonsense }}{% endif %}", "{}", "");
    refuses("{% include 'x' %}", "{}", FM_EUNSUPPORTED, "chat.jinja line 1: the tag 'include' is not supported");
    refuses("\n{% nonsense %}", "{}", FM_EUNSUPPORTED, "chat.jinja line 2: encountered unknown tag 'nonsense'");
    refuses("\n{% if x %}", "{}", FM_EFORMAT, "chat.jinja line 2: unexpected end of the template, looking for 'elif' or the like");
    refuses("{{ 1 ", "{}", FM_EFORMAT, "chat.jinja line 1: unexpected end of the template");
    refuses("{% set x.y = 1 %}", "{\"x\": {}}", FM_EFORMAT, "chat.jinja line 1: cannot assign attribute on non-namespace object");
    refuses("{% for a, b in [[1]] %}{% endfor %}", "{}", FM_EFORMAT, "chat.jinja line 1: not enough values to unpack (expected 2, got 1)");
    refuses("{% for a in 1 %}{% endfor %}", "{}", FM_EFORMAT, "chat.jinja line 1: 'int' object is not iterable");
    refuses("{% break %}", "{}", FM_EFORMAT, "chat.jinja line 1: 'break' outside loop");
    refuses("{% macro f() %}{% endmacro %}{{ f(1) }}", "{}", FM_EFORMAT, "chat.jinja line 1: macro 'f' takes not more than 0 argument(s)");
    refuses("{% macro f() %}{% endmacro %}{{ f(a=1) }}", "{}", FM_EFORMAT, "chat.jinja line 1: macro 'f' takes no keyword argument 'a'");
    refuses("{{ f(1) }}", "{}", FM_EFORMAT, "chat.jinja line 1: 'f' is undefined");
    refuses("{{ x() }}", "{\"x\": 1}", FM_EFORMAT, "chat.jinja line 1: 'int' object is not callable");
    refuses("{% for x in [1] %}{{ loop([1]) }}{% endfor %}", "{}", FM_EFORMAT,
            "chat.jinja line 1: The loop must have the 'recursive' marker to be called recursively.");
    refuses("\n\xff", "{}", FM_EFORMAT, "chat.jinja line 2: byte 1 is not UTF-8");
    fm_template *t;
    char *text;
    size_t bytes;
    fm_error error = {0};
    json_t *list = json_array();
    MUST(fm_template_open(&t, "", 0, "chat.jinja", err));
    CHECK(fm_template_render(t, list, 0, &text, &bytes, &error) == FM_EINVAL, "a list as variables");
    json_decref(list);
    fm_template_close(&t);
    fm_template_close(&t);
}

/* Strings of the template that a rendering appends to are the others' too. */
static const char shared[] =
    "{% set start = 'a long constant that is joined of two, so that it has a buffer: ................................................................' "
    "'................................................................................................................................' %}"
    "{% macro f(x) %}{% for i in range(50) %}{{ (start + x)[-3:] }}{% endfor %}{% endmacro %}{{ f(x) }}{{ start + x }}";

typedef struct job {
    pthread_t thread;
    const fm_template *t;
    int number, wrong;
} job;

static void *render_often(void *arg) {
    job *j = arg;
    char part[16], *text, *first = NULL;
    size_t bytes;
    snprintf(part, sizeof part, "<%d>", j->number);
    json_t *variables = json_object();
    json_object_set_new(variables, "x", json_string(part));
    for (int i = 0; i < 500; i++) {
        fm_error err = {0};
        if (fm_template_render(j->t, variables, 0, &text, &bytes, &err) < 0) exit(1);
        bool right = !strncmp(text, part, 3) && !strcmp(text + bytes - 3, part) && (!first || !strcmp(text, first));
        for (int k = 0; k < 50 && right; k++) right = !strncmp(text + 3 * k, part, 3);
        j->wrong += !right;
        free(first);
        first = text;
    }
    free(first);
    json_decref(variables);
    return NULL;
}

static void threads(void) {
    fm_template *t;
    job jobs[4];
    MUST(fm_template_open(&t, shared, sizeof shared - 1, "shared", err));
    for (int i = 0; i < 4; i++) {
        jobs[i] = (job){.t = t, .number = i};
        if (pthread_create(&jobs[i].thread, NULL, render_often, &jobs[i])) exit(1);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(jobs[i].thread, NULL);
        CHECK(jobs[i].wrong == 0, "%d texts of thread %d", jobs[i].wrong, i);
    }
    fm_template_close(&t);
}

int main(void) {
    scopes();
    loops();
    macros();
    refusals();
    threads();
    return TEST_END();
}
