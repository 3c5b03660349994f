/* tests/fuzz/fuzz_events.c: any bytes as an answer. The first byte says how it is read (format, reasoning, stop strings, and how it is cut). The events do not depend on the
 * cuts, arguments are one JSON object, and nothing but valid UTF-8 comes out. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "chat/events.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char TOOLS[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"bash\", \"parameters\": {\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"string\"},"
    "\"b\": {\"type\": [\"integer\", \"null\"]}, \"c\": {\"anyOf\": [{\"type\": \"object\"}, {\"type\": \"boolean\"}]}}}}}]";

typedef struct log {
    fm_chars all;
    int last, n_calls;
} log;

static int note(void *user, const fm_event *e) {
    log *l = user;
    bool joined = e->type == l->last && (e->type == FM_EVENT_TEXT || e->type == FM_EVENT_REASONING);
    if (!joined) fm_chars_add(&l->all, &"TRCAES"[e->type], 1);
    if (e->type == FM_EVENT_CALL) {
        assert(e->call == l->n_calls++ && *e->name && *e->id);
        fm_chars_put(&l->all, e->name);
    }
    if (e->type == FM_EVENT_ARGUMENTS) {
        json_t *object = json_loadb(e->text, e->bytes, JSON_ALLOW_NUL, NULL);
        assert(json_is_object(object));
        json_decref(object);
    }
    assert(e->text[e->bytes] == 0);
    fm_chars_add(&l->all, e->text, e->bytes);
    l->last = e->type;
    return 0;
}

static log run(uint8_t how, const uint8_t *data, size_t size, bool cut) {
    static const char *const stops[] = {"STOP", "\n\n\n"};
    static const char *const formats[16] = {"qwen3-coder xml", "hermes json", "harmony",  "mistral", "mistral list", "glm",
                                            "minimax",         "deepseek",    "kimi",     "granite", "hunyuan",      "lfm2",
                                            "llama json",      "none",        "deepseek", "harmony"};
    log l = {.last = -1};
    json_t *tools = json_loads(TOOLS, 0, NULL);
    fm_events_config config = {.format = formats[(how >> 5) * 2 + (how & 1)],
                               .tools = tools,
                               .in_reasoning = how & 2,
                               .stops = stops,
                               .n_stops = how & 4 ? 2 : 0,
                               .event = note,
                               .user = &l};
    fm_events *events;
    if (fm_events_open(&events, &config, NULL) < 0) abort();
    int rc = 0;
    uint64_t random = how;
    for (size_t at = 0, n; at < size && rc == FM_EVENTS_GO; at += n) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        n = cut ? 1 + (random >> 33) % (how & 8 ? 1 : 7) : size;
        if (n > size - at) n = size - at;
        rc = fm_events_feed(events, (const char *)data + at, n, NULL);
    }
    assert(fm_events_finish(events, how & 16 ? FM_STOP_LENGTH : FM_STOP_EOS, NULL) > 0);
    fm_events_close(&events);
    json_decref(tools);
    return l;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 1) return 0;
    log whole = run(data[0], data + 1, size - 1, false), cut = run(data[0], data + 1, size - 1, true);
    assert(whole.all.n == cut.all.n && !memcmp(fm_chars_text(&whole.all), fm_chars_text(&cut.all), whole.all.n));
    fm_chars_close(&whole.all);
    fm_chars_close(&cut.all);
    return 0;
}
