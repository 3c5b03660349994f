/* events.c: bytes of an answer become events: literal cases, malformed and unfinished calls of every kind among them, and each case gives the same events however its bytes
 * are cut. */
#include "chat/events.h"
#include "test.h"

#define XML "qwen3-coder xml"
#define JSON "hermes json"

static const char TOOLS[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"},"
    "\"days\": {\"type\": \"integer\"}, \"ratio\": {\"type\": \"number\"}, \"deep\": {\"type\": \"boolean\"}, \"list\": {\"type\": \"array\"},"
    "\"map\": {\"type\": \"object\"}, \"nothing\": {\"type\": \"null\"}, \"maybe\": {\"anyOf\": [{\"type\": \"integer\"}, {\"type\": \"null\"}]},"
    "\"either\": {\"type\": [\"string\", \"integer\"]}, \"level\": {\"enum\": [1, 2]}, \"any\": {}}}}}, {\"name\": \"bash\"}]";

static const struct {
    const char *name, *format;
    const char *mode; /* r: begins in reasoning; n: no tools; l: the end is of length */
    const char *in;
    const char *out; /* T text, R reasoning, C name arguments, each ended by |; then the stop */
} cases[] = {
    {"text", XML, "", "Hello, world.", "T Hello, world.|eos"},
    {"nothing", XML, "", "", "eos"},
    {"white space stays", XML, "", "  a\n\nb \n", "T   a\n\nb \n|eos"},
    {"only white space", XML, "", " \n", "T  \n|eos"},
    {"characters", XML, "", "h\xc3\xa9 \xf0\x9f\x98\x80 \xe4\xbd\xa0", "T h\xc3\xa9 \xf0\x9f\x98\x80 \xe4\xbd\xa0|eos"},
    {"no characters", XML, "",
     "a\x80\xff"
     "b\xe4\xbd",
     "T a\xef\xbf\xbd\xef\xbf\xbd"
     "b\xef\xbf\xbd|eos"},

    {"reasoning", XML, "", "<think>\nhm\n</think>\n\nYes.", "R hm|T Yes.|eos"},
    {"reasoning opened in the prompt", XML, "r", "hm, \n so\n</think>\n\nYes.", "R hm, \n so|T Yes.|eos"},
    {"empty reasoning", XML, "", "<think>\n\n</think>\n\nYes.", "T Yes.|eos"},
    {"empty reasoning in the prompt", XML, "r", "\n</think>\n\nYes.", "T Yes.|eos"},
    {"unfinished reasoning", XML, "rl", "hm <", "R hm <|length"},
    {"unfinished end of reasoning", XML, "rl", "hm\n</thin", "R hm\n</thin|length"},
    {"a tag inside of reasoning", XML, "r", "<tool_call> <think> </b></think>x", "R <tool_call> <think> </b>|T x|eos"},
    {"reasoning behind white space", XML, "", "\n <think>a</think>b", "R a|T b|eos"},
    {"no reasoning behind text", XML, "", "The tag <think> and </think>.", "T The tag <think> and </think>.|eos"},
    {"reasoning only once", XML, "", "<think>a</think><think>b", "R a|T <think>b|eos"},
    {"reasoning only, then white space", XML, "r", "a</think>\n\n", "R a|eos"},

    {"a call", XML, "", "<tool_call>\n<function=get_weather>\n<parameter=city>\nPodaka\n</parameter>\n</function>\n</tool_call>",
     "C get_weather {\"city\": \"Podaka\"}|calls"},
    {"text and a call", XML, "", "Let me look.\n\n<tool_call>\n<function=bash>\n</function>\n</tool_call>\n", "T Let me look.|C bash {}|calls"},
    {"reasoning and a call", XML, "r", "hm\n</think>\n\n<tool_call>\n<function=bash>\n</function>\n</tool_call>", "R hm|C bash {}|calls"},
    {"two calls", XML, "", "<tool_call>\n<function=a>\n</function>\n</tool_call>\n<tool_call>\n<function=b>\n</function>\n</tool_call>", "C a {}|C b {}|calls"},
    {"a call, then text", XML, "", "<tool_call>\n<function=a>\n</function>\n</tool_call>\n\nDone.\n", "C a {}|T Done.\n|calls"},
    {"an unknown tool", XML, "", "<tool_call>\n<function=no_such>\n<parameter=x>\n5\n</parameter>\n</function>\n</tool_call>",
     "C no_such {\"x\": \"5\"}|calls"},
    {"a call on one line", XML, "", "<tool_call><function=bash><parameter=command>ls</parameter></function></tool_call>", "C bash {\"command\": \"ls\"}|calls"},
    {"types", XML, "",
     "<tool_call>\n<function=get_weather>\n<parameter=city>\n5\n</parameter>\n<parameter=days>\n5\n</parameter>\n<parameter=ratio>\n0.10\n</parameter>\n"
     "<parameter=deep>\nTrue\n</parameter>\n<parameter=list>\n[1, \"x\"]\n</parameter>\n<parameter=map>\n{\"a\": {\"b\": 1.50}}\n</parameter>\n"
     "<parameter=nothing>\nNone\n</parameter>\n<parameter=maybe>\nnull\n</parameter>\n<parameter=either>\n7\n</parameter>\n<parameter=level>\n2\n</parameter>\n"
     "<parameter=any>\n8\n</parameter>\n</function>\n</tool_call>",
     "C get_weather {\"city\": \"5\", \"days\": 5, \"ratio\": 0.10, \"deep\": true, \"list\": [1, \"x\"], \"map\": {\"a\": {\"b\": 1.50}}, \"nothing\": null, "
     "\"maybe\": null, \"either\": 7, \"level\": 2, \"any\": \"8\"}|calls"},
    {"types that do not fit", XML, "",
     "<tool_call>\n<function=get_weather>\n<parameter=days>\nfive\n</parameter>\n<parameter=ratio>\nNaN\n</parameter>\n<parameter=deep>\n1\n</parameter>\n"
     "<parameter=list>\n{\"a\": 1}\n</parameter>\n<parameter=map>\n[1\n</parameter>\n<parameter=maybe>\n4.5\n</parameter>\n</function>\n</tool_call>",
     "C get_weather {\"days\": \"five\", \"ratio\": \"NaN\", \"deep\": \"1\", \"list\": \"{\\\"a\\\": 1}\", \"map\": \"[1\", \"maybe\": \"4.5\"}|calls"},
    {"whole numbers", XML, "",
     "<tool_call>\n<function=get_weather>\n<parameter=days>\n 3.0 \n</parameter>\n<parameter=ratio>\n-2\n</parameter>\n"
     "<parameter=maybe>\n123456789012345678901234567890\n</parameter>\n</function>\n</tool_call>",
     "C get_weather {\"days\": 3, \"ratio\": -2, \"maybe\": \"123456789012345678901234567890\"}|calls"},
    {"a value of several lines", XML, "",
     "<tool_call>\n<function=bash>\n<parameter=command>\n\ncat <<E\n\ta \"b\" \\ \xc3\xa9\nE\n\n</parameter>\n</function>\n</tool_call>",
     "C bash {\"command\": \"\\ncat <<E\\n\\ta \\\"b\\\" \\\\ \xc3\xa9\\nE\\n\"}|calls"},
    {"tags inside of a value", XML, "",
     "<tool_call>\n<function=bash>\n<parameter=command>\n<parameter=x> </function> </tool_call>\n</parameter>\n<b>\n</parameter>\n</function>\n</tool_call>",
     "C bash {\"command\": \"<parameter=x> </function> </tool_call>\\n</parameter>\\n<b>\"}|calls"},
    {"an empty value", XML, "", "<tool_call>\n<function=bash>\n<parameter=command>\n</parameter>\n</function>\n</tool_call>",
     "C bash {\"command\": \"\"}|calls"},
    {"no <tool_call> before a known tool", XML, "", "<function=bash>\n<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>",
     "C bash {\"command\": \"ls\"}|calls"},
    {"no <tool_call> before an unknown tool", XML, "", "Write <function=no_such>\n</function>", "T Write <function=no_such>\n</function>|eos"},
    {"no </tool_call> at the end", XML, "", "<tool_call>\n<function=bash>\n</function>\n", "C bash {}|calls"},
    {"no </tool_call> before another", XML, "", "<tool_call>\n<function=bash>\n</function>\n<tool_call>\n<function=a>\n</function>\n</tool_call>",
     "C bash {}|C a {}|calls"},

    {"no tools", XML, "n", "<tool_call>\n<function=bash>\n</function>\n</tool_call>", "T <tool_call>\n<function=bash>\n</function>\n</tool_call>|eos"},
    {"no format", "none", "", "<tool_call>\n<function=bash>\n</function>\n</tool_call>", "T <tool_call>\n<function=bash>\n</function>\n</tool_call>|eos"},
    {"unfinished tag", XML, "l", "a <tool_", "T a <tool_|length"},
    {"unfinished opening", XML, "l", "a\n<tool_call>\n<func", "T a\n<tool_call>\n<func|length"},
    {"unfinished name", XML, "l", "<tool_call>\n<function=get_w", "T <tool_call>\n<function=get_w|length"},
    {"unfinished parameter name", XML, "l", "<tool_call>\n<function=bash>\n<parameter=com", "T <tool_call>\n<function=bash>\n<parameter=com|length"},
    {"unfinished value", XML, "l", " <tool_call>\n<function=bash>\n<parameter=command>\nrm -rf /",
     "T  <tool_call>\n<function=bash>\n<parameter=command>\nrm -rf /|length"},
    {"unfinished behind a value", XML, "l", "<tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</func",
     "T <tool_call>\n<function=bash>\n<parameter=command>\nls\n</parameter>\n</func|length"},
    {"unfinished second call", XML, "l", "<tool_call>\n<function=a>\n</function>\n</tool_call>\n<tool_call>\n<function=b>",
     "C a {}|T <tool_call>\n<function=b>|length"},
    {"no function", XML, "", "Use <tool_call> like this.", "T Use <tool_call> like this.|eos"},
    {"no function, then a call", XML, "", "<tool_call><tool_call>\n<function=a>\n</function>\n</tool_call>", "T <tool_call>|C a {}|calls"},
    {"no name", XML, "", "<tool_call>\n<function=>\n</function>\n</tool_call>", "T <tool_call>\n<function=>\n</function>\n</tool_call>|eos"},
    {"a name over two lines", XML, "", "<tool_call>\n<function=a\nb>\n</function>\n</tool_call>",
     "T <tool_call>\n<function=a\nb>\n</function>\n</tool_call>|eos"},
    {"a tag in a name", XML, "", "<tool_call>\n<function=<tool_call>\n<function=a>\n</function>\n</tool_call>", "T <tool_call>\n<function=|C a {}|calls"},
    {"no parameter", XML, "", "<tool_call>\n<function=bash>\nls\n</function>\n</tool_call>",
     "T <tool_call>\n<function=bash>\nls\n</function>\n</tool_call>|eos"},
    {"no parameter name", XML, "", "<tool_call>\n<function=bash>\n<parameter=>\nls\n</parameter>\n</function>\n</tool_call>",
     "T <tool_call>\n<function=bash>\n<parameter=>\nls\n</parameter>\n</function>\n</tool_call>|eos"},
    {"a parameter twice", XML, "", "<tool_call>\n<function=b>\n<parameter=a>\n1\n</parameter>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>",
     "T <tool_call>\n<function=b>\n<parameter=a>\n1\n</parameter>\n<parameter=a>\n2\n</parameter>\n</function>\n</tool_call>|eos"},
    {"JSON for an XML model", XML, "", "<tool_call>\n{\"name\": \"a\"}\n</tool_call>", "T <tool_call>\n{\"name\": \"a\"}\n</tool_call>|eos"},
    {"</tool_call> alone", XML, "", "</tool_call>", "T </tool_call>|eos"},

    {"a JSON call", JSON, "", "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Pod\\\"}a\", \"ratio\": 0.10}}\n</tool_call>",
     "C get_weather {\"city\": \"Pod\\\"}a\", \"ratio\": 0.10}|calls"},
    {"JSON with reasoning and text", JSON, "", "<think>\na\n</think>\n\nb\n<tool_call>{\"arguments\":{},\"name\":\"x\"}</tool_call>", "R a|T b|C x {}|calls"},
    {"two JSON calls", JSON, "", "<tool_call>\n{\"name\": \"a\"}\n</tool_call>\n<tool_call>\n{\"name\": \"b\", \"arguments\": null}\n</tool_call>",
     "C a {}|C b {}|calls"},
    {"JSON arguments as a string", JSON, "", "<tool_call>\n{\"name\": \"a\", \"arguments\": \"{\\\"x\\\": 1}\"}\n</tool_call>", "C a {\"x\": 1}|calls"},
    {"JSON parameters", JSON, "", "<tool_call>\n{\"name\": \"a\", \"parameters\": {\"x\": [1, {}]}}\n</tool_call>", "C a {\"x\": [1, {}]}|calls"},
    {"JSON, no </tool_call>", JSON, "", "<tool_call>\n{\"name\": \"a\", \"arguments\": {}}", "C a {}|calls"},
    {"JSON unfinished", JSON, "l", "<tool_call>\n{\"name\": \"bash\", \"arguments\": {\"command\": \"rm -rf /",
     "T <tool_call>\n{\"name\": \"bash\", \"arguments\": {\"command\": \"rm -rf /|length"},
    {"JSON unfinished at a brace", JSON, "l", "<tool_call>\n{\"name\": \"a\", \"arguments\": {}", "T <tool_call>\n{\"name\": \"a\", \"arguments\": {}|length"},
    {"no JSON", JSON, "", "<tool_call>\nls\n</tool_call>", "T <tool_call>\nls\n</tool_call>|eos"},
    {"broken JSON", JSON, "", "<tool_call>\n{\"name\": a}\n</tool_call> ", "T <tool_call>\n{\"name\": a}\n</tool_call> |eos"},
    {"JSON without a name", JSON, "", "<tool_call>\n{\"arguments\": {}}\n</tool_call>", "T <tool_call>\n{\"arguments\": {}}\n</tool_call>|eos"},
    {"JSON with a number for a name", JSON, "", "<tool_call>{\"name\": 5}</tool_call>", "T <tool_call>{\"name\": 5}</tool_call>|eos"},
    {"JSON with a list for arguments", JSON, "", "<tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call>",
     "T <tool_call>{\"name\": \"a\", \"arguments\": [1]}</tool_call>|eos"},
    {"JSON with two names", JSON, "", "<tool_call>{\"name\": \"a\", \"name\": \"b\"}</tool_call>",
     "T <tool_call>{\"name\": \"a\", \"name\": \"b\"}</tool_call>|eos"},

    {"a stop string", XML, "s", "One STOP two", "T One |string STOP"},
    {"the first of two", XML, "s", "a END STOP", "T a |string END"},
    {"an unfinished stop string", XML, "s", "a STO", "T a STO|eos"},
    {"a stop string in reasoning", XML, "s", "<think>STOP</think>a STOP", "R STOP|T a |string STOP"},
    {"a stop string in a call", XML, "s", "<tool_call>\n<function=a>\n<parameter=b>\nSTOP\n</parameter>\n</function>\n</tool_call>STOP",
     "C a {\"b\": \"STOP\"}|string STOP"},
    {"a stop string behind white space", XML, "s", "<think>a</think>\n\nSTOP", "R a|string STOP"},
    {"a stop string before a tag", XML, "s", "x<tool_call>!y", "T x|string <tool_call>!"},
};
#define N_CASES ((int)(sizeof cases / sizeof *cases))

typedef struct transcript {
    fm_chars text;
    int last, n_calls;
    char id[64];
} transcript;

static int note(void *user, const fm_event *e) {
    static const char *const stops[] = {"", "eos", "length", "string", "cancelled", "calls"};
    transcript *t = user;
    CHECK(e->type == FM_EVENT_STOP || e->type == FM_EVENT_CALL || e->type == FM_EVENT_CALL_END || (e->bytes > 0 && e->text[e->bytes] == 0), "event %d",
          e->type);
    bool goes_on = e->type == t->last || (t->last == FM_EVENT_CALL && e->type == FM_EVENT_ARGUMENTS) || e->type == FM_EVENT_CALL_END;
    if (t->last >= 0 && !goes_on) fm_chars_put(&t->text, "|");
    if (e->type == FM_EVENT_TEXT && t->last != e->type) fm_chars_put(&t->text, "T ");
    if (e->type == FM_EVENT_REASONING && t->last != e->type) fm_chars_put(&t->text, "R ");
    if (e->type == FM_EVENT_CALL) {
        CHECK(e->call == t->n_calls++ && strlen(e->id) == 29 && !strncmp(e->id, "call_", 5) && strcmp(e->id, t->id), "id %s of call %d", e->id, e->call);
        snprintf(t->id, sizeof t->id, "%s", e->id);
        fm_chars_put(&t->text, "C ");
        fm_chars_put(&t->text, e->name);
        fm_chars_put(&t->text, " ");
    } else if (e->type == FM_EVENT_STOP) {
        fm_chars_put(&t->text, stops[e->stop]);
        if (e->bytes) fm_chars_put(&t->text, " ");
        fm_chars_add(&t->text, e->text, e->bytes);
    } else {
        if (e->type == FM_EVENT_ARGUMENTS) CHECK(!strcmp(e->id, t->id), "id %s", e->id);
        fm_chars_add(&t->text, e->text, e->bytes);
    }
    t->last = e->type;
    return 0;
}

/* Feeds in pieces that end where cuts has a 1. */
static void feed(int i, const bool *cuts, const char *how) {
    static const char *const stop_strings[] = {"STOP", "END", "<tool_call>!"};
    const char *in = cases[i].in, *mode = cases[i].mode;
    transcript t = {.last = -1};
    json_t *tools = strchr(mode, 'n') ? NULL : json_loads(TOOLS, 0, NULL);
    fm_events_config config = {.format = cases[i].format, .tools = tools, .in_reasoning = strchr(mode, 'r'), .event = note, .user = &t};
    config.stops = stop_strings;
    config.n_stops = strchr(mode, 's') ? 3 : 0;
    fm_events *events;
    MUST(fm_events_open(&events, &config, err));
    size_t n = strlen(in), start = 0;
    int rc = 0;
    for (size_t at = 1; at <= n && rc == FM_EVENTS_GO; at++) {
        if (at < n && !cuts[at]) continue;
        rc = fm_events_feed(events, in + start, at - start, NULL);
        start = at;
    }
    fm_events_finish(events, strchr(mode, 'l') ? FM_STOP_LENGTH : FM_STOP_EOS, NULL);
    CHECK(!strcmp(fm_chars_text(&t.text), cases[i].out), "%s, %s:\n  have %s\n  want %s", cases[i].name, how, fm_chars_text(&t.text), cases[i].out);
    fm_events_close(&events);
    fm_chars_close(&t.text);
    json_decref(tools);
}

static void feed_all_ways(int i) {
    static bool cuts[4096];
    size_t n = strlen(cases[i].in);
    uint64_t random = (uint64_t)i;
    memset(cuts, 0, sizeof cuts);
    feed(i, cuts, "whole");
    for (size_t a = 1; a < n; a++) { /* in two and in three */
        cuts[a] = true;
        feed(i, cuts, "in two");
        for (size_t b = a + 1; b < n; b++) {
            cuts[b] = true;
            feed(i, cuts, "in three");
            cuts[b] = false;
        }
        cuts[a] = false;
    }
    memset(cuts, 1, sizeof cuts);
    feed(i, cuts, "byte by byte");
    for (int k = 0; k < 200; k++) {
        uint64_t odds = 1 + test_random(&random) % 12;
        for (size_t a = 1; a < n; a++) cuts[a] = test_random(&random) % odds == 0;
        feed(i, cuts, "at random");
    }
}

int main(void) {
    for (int i = 0; i < N_CASES; i++) feed_all_ways(i);
    fm_events *events;
    fm_events_config empty = {.format = XML, .stops = (const char *const[]){""}, .n_stops = 1};
    CHECK(fm_events_open(&events, &empty, NULL) == FM_EINVAL && !events, "an empty stop string");
    return TEST_END();
}
