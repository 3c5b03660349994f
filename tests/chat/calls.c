/* calls.c: what the templates of other models make of a conversation with calls is read back as the same calls, by the format that the template's text means; a forced call is the
 * beginning of one that is read; and no format reads a part of its own text as anything but text. The templates lie beside the checkout and are not ours: without them only
 * the rest is tested. */
#include <unistd.h>

#include "chat.h"
#include "text/tool_format.h"

#define TOOLS                                                                                                                                                  \
    "[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"The weather.\", \"parameters\": {\"type\": \"object\", "           \
    "\"properties\": {\"city\": {\"type\": \"string\", \"description\": \"A town.\"}, \"days\": {\"type\": \"integer\"}, \"deep\": {\"type\": \"boolean\"}, "  \
    "\"list\": {\"type\": \"array\", \"items\": {\"type\": \"string\"}}}, \"required\": [\"city\"]}}}, {\"type\": \"function\", \"function\": {\"name\": "     \
    "\"bash\", \"description\": \"A shell.\", \"parameters\": {\"type\": \"object\", \"properties\": {\"command\": {\"type\": \"string\"}}}}}]"

#define FIRST "{\"city\": \"S\\u00e3o <Paulo> \\\"x\\\" \\\\ 'y'\\n{z}\", \"days\": 3, \"deep\": true, \"list\": [\"a\", \"b]\"]}"
#define SECOND "{\"command\": \"ls -l | grep '<b>' && echo \\\"$HOME\\\"\"}"

typedef struct heard {
    json_t *calls; /* [{name, arguments}] */
    fm_chars text, arguments;
} heard;

static int note(void *user, const fm_event *e) {
    heard *h = user;
    if (e->type == FM_EVENT_TEXT) fm_chars_add(&h->text, e->text, e->bytes);
    if (e->type == FM_EVENT_CALL) json_array_append_new(h->calls, json_pack("{s:s}", "name", e->name));
    if (e->type == FM_EVENT_CALL) h->arguments.n = 0;
    if (e->type == FM_EVENT_ARGUMENTS) fm_chars_add(&h->arguments, e->text, e->bytes);
    if (e->type == FM_EVENT_CALL_END) {
        json_t *object = json_loadb(h->arguments.bytes, h->arguments.n, JSON_ALLOW_NUL, NULL);
        json_object_set_new(json_array_get(h->calls, json_array_size(h->calls) - 1), "arguments", object);
    }
    return 0;
}

/* The events of text [n]. */
static heard hear(const char *format, const char *text, size_t n) {
    heard h = {.calls = json_array()};
    json_t *tools = json_loads(TOOLS, 0, NULL);
    fm_events_config config = {.format = format, .tools = tools, .event = note, .user = &h};
    fm_events *events;
    MUST(fm_events_open(&events, &config, err));
    MUST(fm_events_feed(events, text, n, err));
    MUST(fm_events_finish(events, FM_STOP_EOS, err));
    fm_events_close(&events);
    json_decref(tools);
    return h;
}

static void forget(heard *h) {
    json_decref(h->calls);
    fm_chars_close(&h->text);
    fm_chars_close(&h->arguments);
}

/* ---- through templates ---- */

static const struct {
    const char *file, *format;
    int n_calls; /* that the template can write in a message */
} templates[] = {
    {"GLM-4.6", "glm", 2},
    {"GLM-4.7-Flash", "glm", 2},
    {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use", "hermes json", 2},
    {"Qwen-QwQ-32B", "hermes json", 2},
    {"Qwen-Qwen2.5-7B-Instruct", "hermes json", 2},
    {"Qwen-Qwen3-0.6B", "hermes json", 2},
    {"Qwen3-Coder", "qwen3-coder xml", 2},
    {"Qwen3.5-4B", "qwen3-coder xml", 2},
    {"deepseek-ai-DeepSeek-V3.1", "deepseek", 2},
    {"meta-llama-Llama-3.1-8B-Instruct", "llama json", 1},
    {"moonshotai-Kimi-K2", "kimi", 2},
    {"openai-gpt-oss-120b", "harmony", 1},
};

/* The text that a template makes of a call or two, behind what the user said. */
static char *render(fm_chat *chat, const json_t *calls) {
    json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:s, s:O}]", "role", "user", "content", "zebra", "role", "assistant", "content", "", "tool_calls", calls);
    json_t *request = json_pack("{s:o, s:o, s:b}", "messages", messages, "tools", json_loads(TOOLS, 0, NULL), "add_generation_prompt", 0);
    char *json = json_dumps(request, 0), *text = NULL;
    fm_prompt prompt;
    MUST(fm_chat_prompt(chat, json, &prompt, err));
    const char *user = strstr(prompt.text, "zebra");
    if (user) text = strdup(user + 5);
    fm_prompt_clear(&prompt);
    free(json);
    json_decref(request);
    return text;
}

static void check_template(fm_engine *engine, int i) {
    char path[1200];
    snprintf(path, sizeof path, TEMPLATES "/%s.jinja", templates[i].file);
    if (access(path, R_OK)) {
        fprintf(stderr, "not checked: there is no %s\n", path);
        return;
    }
    fm_chat *chat = open_chat(engine, path);
    CHECK(!strcmp(fm_chat_tool_format(chat), templates[i].format), "%s: format %s", templates[i].file, fm_chat_tool_format(chat));
    json_t *calls = json_array(), *want = json_array();
    static const char *const names[] = {"get_weather", "bash"}, *const arguments[] = {FIRST, SECOND};
    for (int k = 0; k < templates[i].n_calls; k++) {
        json_t *object = json_loads(arguments[k], 0, NULL);
        char id[32];
        snprintf(id, sizeof id, "call_%d", k);
        json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:O}}", "id", id, "type", "function", "function", "name", names[k], "arguments", object));
        json_array_append_new(want, json_pack("{s:s, s:o}", "name", names[k], "arguments", object));
    }
    char *text = render(chat, calls);
    heard h = hear(templates[i].format, text, strlen(text));
    char *have = json_dumps(h.calls, 0);
    CHECK(json_equal(h.calls, want), "%s: of\n%s\ncame %s", templates[i].file, text, have);
    free(have);
    free(text);
    forget(&h);
    json_decref(calls);
    json_decref(want);
    fm_chat_close(&chat);
}

/* ---- forced calls ---- */

static const struct {
    const char *format, *rest, *rest_named; /* what a model goes on with, where it was told a name and where not */
} forced[] = {
    {"qwen3-coder xml", "</function></tool_call>", "bash>\n</function></tool_call>"},
    {"hermes json", "{}}\n</tool_call>", "bash\", \"arguments\": {}}\n</tool_call>"},
    {"llama json", "{}}", "bash\", \"parameters\": {}}"},
    {"granite", "{}}]", "bash\", \"arguments\": {}}]"},
    {"hunyuan", "{}}]</tool_calls>", "bash\", \"arguments\": {}}]</tool_calls>"},
    {"mistral", "{}", "bash[ARGS]{}"},
    {"mistral list", "{}}]", "bash\", \"arguments\": {}}]"},
    {"glm", "</tool_call>", "bash\n</tool_call>"},
    {"minimax", "</invoke></minimax:tool_call>", "bash\"></invoke></minimax:tool_call>"},
    {"deepseek", "{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>", "bash<｜tool▁sep｜>{}<｜tool▁call▁end｜>"},
    {"kimi", "{}<|tool_call_end|><|tool_calls_section_end|>", "bash:0<|tool_call_argument_begin|>{}<|tool_call_end|>"},
    {"lfm2", ")]<|tool_call_end|>", "bash()]<|tool_call_end|>"},
    {"harmony", "{}<|call|>", "bash<|channel|>commentary json<|message|>{}<|call|>"},
};

static void check_forced(int i) {
    const fm_call_format *format = fm_call_format_find(forced[i].format);
    CHECK(format && format->force, "%s", forced[i].format);
    for (int named = 0; named < 2 && format; named++) {
        fm_chars text = {0};
        format->force(&text, named ? "bash" : "");
        size_t begins = text.n;
        fm_chars_put(&text, named ? forced[i].rest : forced[i].rest_named);
        heard h = hear(forced[i].format, text.bytes, text.n);
        const json_t *call = json_array_get(h.calls, 0);
        CHECK(json_array_size(h.calls) == 1 && !strcmp(json_string_value(json_object_get(call, "name")), "bash") && h.text.n == 0, "%s: %s", forced[i].format,
              text.bytes);
        forget(&h);
        /* Any part of it is text as it was written; nothing of it is lost. */
        for (size_t n = 1; n <= begins; n++) {
            if ((text.bytes[n] & 0xc0) == 0x80) continue; /* inside of a character */
            h = hear(forced[i].format, text.bytes, n);
            CHECK(json_array_size(h.calls) == 0 && h.text.n == n && !memcmp(h.text.bytes, text.bytes, n), "%s: %.*s became %s", forced[i].format, (int)n,
                  text.bytes, fm_chars_text(&h.text));
            forget(&h);
        }
        fm_chars_close(&text);
    }
}

/* Ids that the model wrote. */
static int keep_id(void *user, const fm_event *e) {
    if (e->type == FM_EVENT_CALL) snprintf(user, 64, "%s", e->id);
    return 0;
}

static void check_ids(void) {
    static const char *const cases[][3] = {{"kimi", "<|tool_call_begin|>functions.bash:7<|tool_call_argument_begin|>{}<|tool_call_end|>", "functions.bash:7"},
                                           {"mistral", "[TOOL_CALLS]bash[CALL_ID]a1B2c3D4e[ARGS]{}", "a1B2c3D4e"}};
    for (int i = 0; i < 2; i++) {
        char id[64] = "";
        json_t *tools = json_loads(TOOLS, 0, NULL);
        fm_events_config config = {.format = cases[i][0], .tools = tools, .event = keep_id, .user = id};
        fm_events *events;
        MUST(fm_events_open(&events, &config, err));
        MUST(fm_events_feed(events, cases[i][1], strlen(cases[i][1]), err));
        MUST(fm_events_finish(events, FM_STOP_EOS, err));
        CHECK(!strcmp(id, cases[i][2]), "%s: id %s", cases[i][0], id);
        fm_events_close(&events);
        json_decref(tools);
    }
}

static void check_names(void) {
    static const char *const texts[][2] = {{"{{ '<|tool_call_start|>' }}", "lfm2"},
                                           {"List of tools: <|tool_list_start|>", "lfm2"},
                                           {"respond only with <|tool_call|> followed by", "granite"},
                                           {"<tool_calls>[...]", "hunyuan"},
                                           {"<minimax:tool_call>\n<invoke name=", "minimax"},
                                           {"[TOOL_CALLS]' + name + '[ARGS]'", "mistral"},
                                           {"[TOOL_CALLS] [", "mistral list"},
                                           {"{{ messages }}", "none"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) CHECK(!strcmp(fm_tool_format_name(texts[i][0]), texts[i][1]), "%s", texts[i][0]);
}

int main(void) {
    fm_engine *engine = open_ember();
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) check_template(engine, (int)i);
    for (size_t i = 0; i < sizeof forced / sizeof *forced; i++) check_forced((int)i);
    check_ids();
    check_names();
    fm_engine_close(&engine);
    return TEST_END();
}
