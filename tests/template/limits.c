/* tests/template/limits.c: templates that ask for too much are refused, soon, by what they reach; templates that ask for much are rendered. */
#include <pthread.h>
#include <time.h>

#include "template/template.h"
#include "test.h"

typedef struct result {
    int rc;
    char *text;
    size_t bytes;
    fm_error error;
} result;

static result render(const char *source, const json_t *variables) {
    result r = {0};
    fm_template *t;
    r.rc = fm_template_open(&t, source, strlen(source), "t", &r.error);
    if (r.rc < 0) return r;
    r.rc = fm_template_render(t, variables, 0, &r.text, &r.bytes, &r.error);
    fm_template_close(&t);
    return r;
}

static void refused(const char *what, const char *source, int code, const char *part) {
    json_t *none = json_object();
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    result r = render(source, none);
    clock_gettime(CLOCK_MONOTONIC, &end);
    double seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
    CHECK(r.rc == code, "%s: %d, not %d: %s", what, r.rc, code, r.rc < 0 ? r.error.message : "");
    CHECK(r.rc >= 0 || strstr(r.error.message, part), "%s: \"%s\" has no \"%s\"", what, r.error.message, part);
    CHECK(seconds < 120, "%s took %.1f s", what, seconds); /* of a sanitised build on a busy machine */
    free(r.text);
    json_decref(none);
}

static char *repeat(const char *begin, const char *part, size_t times, const char *end) {
    size_t n = strlen(part), b = strlen(begin);
    char *text = malloc(b + n * times + strlen(end) + 1);
    if (!text) exit(1);
    memcpy(text, begin, b);
    for (size_t i = 0; i < times; i++) memcpy(text + b + i * n, part, n);
    strcpy(text + b + n * times, end);
    return text;
}

static void refused_repeated(const char *what, const char *begin, const char *part, size_t times, const char *end) {
    char *source = repeat(begin, part, times, end);
    refused(what, source, FM_EFULL, "");
    free(source);
}

static void depth(void) {
    refused("a macro that calls itself", "{% macro f(x) %}{{ f(x + 1) }}{% endmacro %}{{ f(0) }}", FM_EFULL, "nested too deeply");
    refused("macros that call each other", "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}", FM_EFULL,
            "nested too deeply");
    refused("its default calls it", "{% macro f(x=f()) %}{% endmacro %}{{ f() }}", FM_EFULL, "nested too deeply");
    refused("a loop that goes into itself", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", FM_EFULL, "nested too deeply");
    refused("in arguments of filters", "{% macro f() %}{{ [1] | join([{'a': (f() | trim | upper)}] | first ~ 'x') }}{% endmacro %}{{ f() }}", FM_EFULL,
            "nested too deeply");
    refused("call blocks", "{% macro f() %}{% call f() %}{{ caller }}{% endcall %}{% if false %}{{ caller }}{% endif %}{% endmacro %}{{ f() }}", FM_EFULL,
            "nested too deeply");
    refused("callers", "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall %}{% endmacro %}{{ g() }}", FM_EFULL,
            "nested too deeply");
    refused("blocks of a loop",
            "{% for x in [1] recursive %}{% set y %}{% filter trim %}{% with z = loop([1]) %}{% endwith %}{% endfilter %}{% endset %}{% endfor %}", FM_EFULL,
            "nested too deeply");
    refused("a value that grows in depth", "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", FM_EFULL,
            "nested too deeply");
    refused("two such are compared",
            "{% set a = namespace(x=[], y=[]) %}{% for i in range(90000) %}{% set a.x = [a.x] %}{% set a.y = [a.y] %}{% endfor %}{{ a.x == a.y }}", FM_EFULL,
            "nested too deeply");
    refused("as JSON", "{% set a = namespace(x={}) %}{% for i in range(90000) %}{% set a.x = {'a': a.x} %}{% endfor %}{{ a.x | tojson }}", FM_EFULL,
            "nested too deeply");
    refused_repeated("parentheses", "{{ ", "(", 100000, "");
    refused_repeated("brackets", "{{ ", "[", 100000, "");
    refused_repeated("nots", "{{ ", "not ", 100000, "x }}");
    refused_repeated("minuses", "{{ ", "-", 100000, "1 }}");
    refused_repeated("sums", "{{ 1", " + 1", 100000, " }}");
    refused_repeated("filters", "{{ x", " | trim", 100000, " }}");
    refused_repeated("members", "{{ x", ".y", 100000, " }}");
    refused_repeated("calls", "{{ x", "()", 100000, " }}");
    refused_repeated("tests", "{{ x", " is sameas(x", 100000, "");
    refused_repeated("conditions", "{{ 1", " if x else 1", 100000, " }}");
    refused_repeated("conditions without else", "{{ 1", " if 1", 100000, " }}");
    refused_repeated("ifs", "", "{% if x %}", 100000, "");
    refused_repeated("fors", "", "{% for x in y %}", 100000, "");
    refused_repeated("macros", "", "{% macro f() %}", 100000, "");
    refused_repeated("withs", "", "{% with %}", 100000, "");
    refused_repeated("set blocks", "", "{% set x %}", 100000, "");
    refused_repeated("call blocks", "", "{% call f() %}", 100000, "");
    refused_repeated("targets", "{% set ", "(", 100000, "");
}

static void work(void) {
    refused("a long range", "{% for i in range(10**9) %}{% endfor %}", FM_EFORMAT, "100000");
    refused("loops within loops", "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
            FM_EFULL, "more");
    refused("a long text", "{{ 'a' * 10**9 }}", FM_EFULL, "");
    refused("a longer text", "{{ 'abc' * 9223372036854775807 }}", FM_EFULL, "more memory");
    refused("a long list", "{{ [1, 2] * 10**9 }}", FM_EFULL, "more memory");
    refused("text that doubles", "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", FM_EFULL, "more memory");
    refused("lists that double", "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", FM_EFULL, "more memory");
    refused("lists of lists, compared",
            "{% set a = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set a.x = [a.x, a.x] %}{% set a.y = [a.y, a.y] %}{% endfor %}{{ a.x == a.y }}",
            FM_EFULL, "more work");
    refused("much output", "{% set x = 'a' * 1000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}", FM_EFULL, "more");
    refused("width", "{{ '%2000000000d' % 1 }}", FM_EFULL, "");
    refused("centred", "{{ 'a' | center(99999999999) }}", FM_EFULL, "more memory");
    refused("batches", "{{ [1] | batch(99999999999, 0) | list }}", FM_EFULL, "more memory");
}

static void much(void) {
    json_t *none = json_object();
    char *source = repeat("", "{% macro f(a, b=1) %}{% for x in a %}{{ x }}{% endfor %}{% endmacro %}{{ f('ab') }}\n", 5000, "");
    result r = render(source, none);
    CHECK(r.rc == 0 && r.bytes == 5000 * 3 - 1, "%d, %zu bytes: %s", r.rc, r.bytes, r.error.message);
    free(r.text);
    free(source);
    source = repeat("", "{{ 1 }}{% if x %}{% set y = 1 %}{% else %}{% set z = 2 %}{% endif %}{{ y }}{{ z }}", 20000, "");
    r = render(source, none);
    CHECK(r.rc == 0 && r.bytes == 2 * 20000, "%d, %zu bytes: %s", r.rc, r.bytes, r.error.message);
    free(r.text);
    free(source);
    r = render("{% macro f(n) %}{% if n %}{{ n }} {{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(100) | length }}", none);
    CHECK(r.rc == 0 && !strcmp(r.text, "292"), "%d %s: %s", r.rc, r.text, r.error.message);
    free(r.text);
    r = render(
        "{% set ns = namespace(s='') %}{% for i in range(100000) %}{% for j in range(10) %}{% set ns.s = ns.s + 'xy' %}{% endfor %}{% endfor %}{{ ns.s | length }}",
        none);
    CHECK(r.rc == 0 && !strcmp(r.text, "2000000"), "%d %s: %s", r.rc, r.text, r.error.message);
    free(r.text);
    json_decref(none);
}

/* 8 MB of conversation, as a template of the common kind has it. */
static json_t *conversation(size_t messages, size_t bytes) {
    json_t *variables = json_object(), *list = json_array();
    char *content = malloc(bytes + 1);
    if (!content) exit(1);
    memset(content, 'a', bytes);
    content[bytes] = 0;
    for (size_t i = 0; i < messages; i++) {
        json_t *message = json_object();
        json_object_set_new(message, "role", json_string(i % 2 ? "assistant" : "user"));
        json_object_set_new(message, "content", json_string(content));
        json_array_append_new(list, message);
    }
    free(content);
    json_object_set_new(variables, "messages", list);
    return variables;
}

static void large(void) {
    static const char source[] = "{% set ns = namespace(last=0, all='') %}\n"
                                 "{%- for message in messages[::-1] %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}\n"
                                 "{%- for message in messages %}\n"
                                 "{%- set content = message.content | trim %}\n"
                                 "{%- if '</think>' in content %}{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}\n"
                                 "{%- set ns.all = ns.all + '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' %}\n"
                                 "{%- endfor %}{{ ns.all }}{{ messages | tojson }}";
    for (size_t messages = 80; messages <= 80000; messages *= 1000) {
        size_t bytes = 8000000 / messages;
        json_t *variables = conversation(messages, bytes);
        result r = render(source, variables);
        CHECK(r.rc == 0 && r.bytes > 16000000, "%zu messages: %d, %zu bytes: %s", messages, r.rc, r.bytes, r.error.message);
        free(r.text);
        json_decref(variables);
    }
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED 0
#endif

/* In a thread of the stack that template.h promises to be enough (sanitisers need more). */
static void *deepest(void *unused) {
    (void)unused;
    depth();
    return NULL;
}

static void stack(void) {
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, (size_t)(SANITIZED ? 64 : 2) << 20);
    if (pthread_create(&thread, &attributes, deepest, NULL)) exit(1);
    pthread_join(thread, NULL);
    pthread_attr_destroy(&attributes);
}

int main(void) {
    stack();
    work();
    much();
    large();
    return TEST_END();
}
