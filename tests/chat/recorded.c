/* recorded.c: the demo model's own answers (a story, text and white space, calls): their tokens, recorded, give the same events however they are put together and wherever their bytes
 * are cut. */
#include "chat.h"

#define TOOLS                                                                                                                                                  \
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"send_message\", \"parameters\": {\"type\": \"object\", \"properties\": {\"to\": "         \
    "{\"type\": \"string\"}, \"text\": {\"type\": \"string\"}}}}}, {\"type\": \"function\", \"function\": {\"name\": \"bash\"}}]"

static const char *const requests[] = {
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Tell me a story about Mia the fox.\"}]}",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Write hello world in C.\"}], " TOOLS "}",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Send Mia a message: I am late\"}], " TOOLS "}",
    "{\"messages\": [{\"role\": \"user\", \"content\": \"List the files in src.\"}], " TOOLS "}",
};

typedef struct transcript {
    fm_chars text;
    int last;
} transcript;

/* Adjacent pieces are joined; ids are left out. */
static int note(void *user, const fm_event *e) {
    static const char *const names[] = {"\ntext ", "\nreasoning ", "\ncall ", "\narguments ", "\nend ", "\nstop "};
    transcript *t = user;
    if (e->type != t->last || e->type >= FM_EVENT_CALL) fm_chars_put(&t->text, names[e->type]);
    if (e->type == FM_EVENT_CALL) fm_chars_put(&t->text, e->name);
    fm_chars_add(&t->text, e->text, e->bytes);
    t->last = e->type;
    return 0;
}

/* Feeds the recorded bytes in pieces that end where cuts says. */
static char *feed(const fm_memory_entry *e, const json_t *tools, const bool *cuts, const char *format) {
    transcript t = {.last = -1};
    fm_events_config config = {.format = format, .tools = (json_t *)(uintptr_t)tools, .event = note, .user = &t};
    fm_events *events;
    size_t n = e->ends[e->n - 1], start = 0;
    MUST(fm_events_open(&events, &config, err));
    for (size_t at = 1; at <= n; at++) {
        if (at < n && !cuts[at]) continue;
        MUST(fm_events_feed(events, e->bytes + start, at - start, err));
        start = at;
    }
    MUST(fm_events_finish(events, FM_STOP_EOS, err));
    fm_events_close(&events);
    return t.text.bytes;
}

static void check(const fm_memory_entry *e, const json_t *tools, const bool *cuts, const char *want, const char *how) {
    char *have = feed(e, tools, cuts, "qwen3-coder xml");
    CHECK(!strcmp(have, want), "%s: %s, want %s", how, have, want);
    free(have);
}

static void check_splits(const fm_memory_entry *e, const json_t *tools, const char *want) {
    size_t n = e->ends[e->n - 1];
    bool *cuts = calloc(n + 1, 1);
    uint64_t random = n;
    check(e, tools, cuts, want, "whole");
    for (int a = 0; a < e->n; a++) { /* tokens in two and in three pieces */
        cuts[e->ends[a]] = true;
        check(e, tools, cuts, want, "tokens in two");
        for (int b = a + 1; b < e->n; b += 1 + e->n / 40) {
            cuts[e->ends[b]] = true;
            check(e, tools, cuts, want, "tokens in three");
            cuts[e->ends[b]] = false;
        }
        cuts[e->ends[a]] = false;
    }
    for (int k = 0; k < 300; k++) { /* tokens, then bytes, at random */
        memset(cuts, 0, n + 1);
        for (int i = 0; i < e->n; i++) cuts[e->ends[i]] = test_random(&random) & 1;
        check(e, tools, cuts, want, "tokens at random");
        for (size_t i = 0; i < n; i++) cuts[i] = test_random(&random) % 4 == 0;
        check(e, tools, cuts, want, "bytes at random");
    }
    memset(cuts, 1, n + 1);
    check(e, tools, cuts, want, "bytes");
    free(cuts);
}

int main(void) {
    fm_engine *engine = open_ember();
    fm_chat *chat = open_chat(engine, NULL);
    fm_session *session;
    fm_sampling greedy = FM_SAMPLING_INIT;
    MUST(fm_session_open(&session, engine, err));
    for (int i = 0; i < (int)(sizeof requests / sizeof *requests); i++) {
        transcript live = {.last = -1};
        fm_answer_options options = FM_ANSWER_OPTIONS_INIT;
        fm_answered answered;
        json_t *tools;
        options.event = note;
        options.user = &live;
        MUST(fm_chat_answer(chat, session, requests[i], &greedy, &options, &answered, err));
        MUST(fm_request_tools(&tools, requests[i], err));
        CHECK(chat->memory.n == i + 1 && answered.n_tokens > 10, "%d answers, %d tokens", chat->memory.n, answered.n_tokens);
        CHECK((answered.stop == FM_STOP_CALLS) == (i >= 2) && (strstr(live.text.bytes, "\ncall ") != NULL) == (i >= 2), "request %d: %s", i, live.text.bytes);
        check_splits(&chat->memory.entries[i], tools, live.text.bytes);
        json_decref(tools);
        fm_free(answered.message);
        fm_chars_close(&live.text);
    }
    fm_session_close(&session);
    fm_chat_close(&chat);
    fm_engine_close(&engine);
    return TEST_END();
}
