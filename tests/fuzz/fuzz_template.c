/* tests/fuzz/fuzz_template.c: any bytes as a template, rendered with fixed variables; after a first byte of 0 the bytes are the variables (JSON) of a fixed template. It ends
 * within its limits, and with text or a reason. */
#include <assert.h>
#include <string.h>

#include "template/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char variables[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \" \\u00c4 \\ud83d\\ude00 <b>\\n\"}, {\"role\": \"assistant\", \"content\": null,"
    " \"reasoning_content\": \"why\", \"tool_calls\": [{\"id\": \"c1\", \"function\": {\"name\": \"f\", \"arguments\": {\"n\": 1, \"x\": [1.5, \"y\", null, true]}}}]},"
    " {\"role\": \"tool\", \"content\": [{\"type\": \"text\", \"text\": \"42\"}]}], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\":"
    " {\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"integer\", \"enum\": [1, 2]}}}}}], \"add_generation_prompt\": true, \"bos_token\": \"<s>\","
    " \"n\": 7, \"f\": -2.5, \"s\": \"one two\\tthree\", \"none_\": null, \"empty\": {}, \"nums\": [3, 1, 2], \"map\": {\"b\": 1, \"a\": \"two\", \"items\": [1]},"
    " \"i\": 7, \"j\": -3, \"big\": 1099511627776, \"t\": true, \"u\": false, \"e\": \"\", \"w\": \" spaced \\n\", \"q\": \"\\\"<b>&amp;</b>'\", \"m\": \"\\u00df\\u0130e\\u0301\","
    " \"d\": \"a,b,,c\", \"l\": \"one\\ntwo\\r\\nthree\", \"strs\": [\"b\", \"A\", \"c\", \"\"], \"mixed\": [1, \"a\", null, 2.5, true, [1], {\"k\": 2}], \"nested\": [[1, 2], [3], []],"
    " \"deep\": {\"x\": {\"y\": [{\"z\": \"bottom\"}]}}, \"rows\": [{\"k\": \"x\", \"v\": 1, \"n\": {\"d\": 2}}, {\"k\": \"y\", \"v\": 3, \"n\": {\"d\": 1}}, {\"k\": \"X\", \"v\": 0.5}]}";

static const char template[] =
    "{% macro show(v, depth=0) %}{% if v is mapping %}{% for k, x in v | dictsort if depth < 9 %}{{ k | upper }}:{{ show(x, depth + 1) }}{% endfor %}"
    "{% elif v is string %}{{ v | trim | title | e }}{{ v[::-1] }}{{ v.split() }}{{ v | wordwrap(9) | indent }}{{ '%r %s' % (v, v) }}{{ v.splitlines() | join('|') }}"
    "{% elif v is number %}{{ v | round(2) }}{{ v + 1 }}{{ v / 3 }}{{ v | int | string | int }}{{ '%.3f %d %g' % (v, v, v) }}{{ v | filesizeformat }}"
    "{% elif v is iterable %}{% for x in v if depth < 9 %}{{ loop.index }}{{ show(x, depth + 1) }}{{ loop.nextitem | tojson(indent=2) if not loop.last }}{% endfor %}{{ v | sort }}"
    "{% endif %}{{ v | tojson }}{{ v }}{{ v == messages }}{% endmacro %}{{ show(messages) }}{{ tools | map(attribute='name') | unique | list }}{{ s.upper() ~ n }}";

/* Renders it; what comes out is text that ends where it says, or a reason. */
static void render(const char *source, size_t bytes, const json_t *with) {
    fm_template *t = NULL;
    fm_error err = {0};
    char *text = NULL;
    size_t n = 0;
    int rc = fm_template_open(&t, source, bytes, "fuzz", &err);
    if (rc >= 0) rc = fm_template_render(t, with, 1772359509, &text, &n, &err);
    if (rc >= 0) {
        json_t *string = json_stringn(text, n); /* NULL for what is no UTF-8 */
        assert(string && text[n] == 0);
        json_decref(string);
    } else {
        assert(err.code == rc && err.message[0] && !text);
    }
    free(text);
    fm_template_close(&t);
    assert(!t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    bool is_variables = size && data[0] == 0;
    json_t *with = is_variables ? json_loadb((const char *)data + 1, size - 1, JSON_ALLOW_NUL, NULL) : json_loadb(variables, sizeof variables - 1, 0, NULL);
    assert(with || is_variables);
    if (is_variables && json_is_object(with)) render(template, sizeof template - 1, with);
    if (!is_variables) render((const char *)data, size, with);
    json_decref(with);
    return 0;
}
