/* answer.c: answers made of given tokens: what ends them, what is forced, their message, and that the next prompt has the very tokens again. */
#include "chat.h"

#include <unistd.h>

#define QWEN TEMPLATES "/Qwen3.5-4B.jinja"
#define TOOLS                                                                                                                                                  \
    "\"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"bash\", \"parameters\": {\"type\": \"object\", \"properties\": {\"command\": {\"type\": \"string\"}}}}}]"
#define ASK "{\"messages\": [{\"role\": \"user\", \"content\": \"List the files.\"}], " TOOLS "}"

static fm_engine *engine;
static int32_t eos;

/* Text as a model might write it and the tokenizer would not: added tokens as they are, each other character a token of its own. */
static int spell(const char *text, int32_t *ids) {
    static const char *const tags[] = {"<think>", "</think>", "<tool_call>", "</tool_call>"};
    int n = 0;
    while (*text) {
        size_t length = 1;
        for (int i = 0; i < 4; i++) {
            if (!strncmp(text, tags[i], strlen(tags[i]))) length = strlen(tags[i]);
        }
        while ((text[length] & 0xc0) == 0x80) length++;
        int32_t *some;
        int k;
        MUST(k = fm_engine_encode(engine, text, length, false, &some, err));
        memcpy(ids + n, some, (size_t)k * sizeof *ids);
        n += k;
        fm_free(some);
        text += length;
    }
    return n;
}

typedef struct made {
    int32_t ids[4096]; /* prompt and answer as a session would hold them */
    int n, n_prompt, n_tokens, n_reasoning, stop;
    char *message;
} made;

static int note_stop(void *user, const fm_event *event) {
    if (event->type == FM_EVENT_STOP) ((made *)user)->stop = event->stop;
    return 0;
}

/* One answer of the text and the end of text; other tokens where they are forced. */
static void make(made *m, fm_chat *chat, const char *request, const char *text, fm_answer_options options) {
    static int32_t wanted[4096];
    fm_prompt prompt = make_prompt(chat, request);
    fm_answer *answer;
    int n = spell(text, wanted), rc = 0;
    wanted[n++] = eos;
    *m = (made){.n = prompt.n_ids, .n_prompt = prompt.n_ids};
    memcpy(m->ids, prompt.ids, (size_t)prompt.n_ids * sizeof *m->ids);
    options.event = note_stop;
    options.user = m;
    MUST(fm_answer_open(&answer, chat, request, &prompt, &options, err));
    for (int at = 0; at < n && rc == 0;) {
        int32_t id;
        rc = next_is(answer, engine, wanted[at], &id);
        if (rc == 0) m->ids[m->n++] = id;
        if (id == wanted[at]) at++;
    }
    CHECK(rc == 1, "the answer goes on behind '%s'", text);
    int32_t id;
    CHECK(next_is(answer, engine, 0, &id) == 1, "it has ended");
    m->n_tokens = fm_answer_n_tokens(answer);
    m->n_reasoning = fm_answer_n_reasoning(answer);
    m->message = strdup(fm_answer_message(answer));
    fm_answer_close(&answer);
    fm_prompt_clear(&prompt);
}

static const fm_answer_options plain = FM_ANSWER_OPTIONS_INIT;

static bool has_prefix(const fm_prompt *p, const int32_t *ids, int n) { return p->n_ids >= n && !memcmp(p->ids, ids, (size_t)n * sizeof *ids); }

/* Conversation text with the message appended and more messages behind it. */
static char *continue_with(const char *before, const char *message, const char *after) {
    static char request[32768];
    snprintf(request, sizeof request, "{\"messages\": [%s, %s, %s], " TOOLS "}", before, message, after);
    return request;
}

static const char USER[] = "{\"role\": \"user\", \"content\": \"List the files.\"}";

/* ---- replay ---- */

static void check_replay(const char *template_file, const char *text, const char *after, bool whole) {
    fm_chat *chat = open_chat(engine, template_file);
    made m;
    make(&m, chat, ASK, text, plain);
    fm_prompt p = make_prompt(chat, continue_with(USER, m.message, after));
    char *ids_text = text_of(engine, p.ids, p.n_ids);
    CHECK(!strcmp(ids_text, p.text), "ids say %s, text %s", ids_text, p.text);
    CHECK(has_prefix(&p, m.ids, m.n) == whole, "'%s': replayed %d of %d:\n%s", text, p.n_replayed, m.n - m.n_prompt, p.text);
    if (whole) CHECK(p.n_replayed == m.n - m.n_prompt, "replayed %d of %d", p.n_replayed, m.n - m.n_prompt);
    free(ids_text);
    fm_prompt_clear(&p);
    free(m.message);
    fm_chat_close(&chat);
}

static const char TOOL_RESULT[] = "{\"role\": \"tool\", \"content\": \"a.c b.c\"}";
static const char NEXT_USER[] = "{\"role\": \"user\", \"content\": \"Thanks.\"}";
#define OWN_CALL "<tool_call>\n<function=bash>\n<parameter=command>\nls \xc3\xa9\n</parameter>\n</function>\n</tool_call>"

static void check_replays(bool shared) {
    check_replay(NULL, "The files are a.c, \xc3\xa9 and b.c.", NEXT_USER, true);
    check_replay(NULL, OWN_CALL, TOOL_RESULT, true);
    check_replay(NULL, "I look.\n" OWN_CALL "\n" OWN_CALL, TOOL_RESULT, true);
    check_replay(NULL, "White space at the end. \n", NEXT_USER, true);
    check_replay(NULL, "A broken call: <tool_call>\n<function=bash>", NEXT_USER, true);
    check_replay(NULL, "I look.\n\n\n" OWN_CALL, TOOL_RESULT, false); /* the template has one line feed */
    if (!shared) return;
    check_replay(QWEN, "I think so.\n</think>\n\n" OWN_CALL, TOOL_RESULT, true);
    check_replay(QWEN, "I think so.\n</think>\n\nLook:\n\n" OWN_CALL, TOOL_RESULT, true);
    check_replay(QWEN, "I think so.\n</think>\n\nDone.", NEXT_USER, false); /* reasoning is dropped */
}

/* Where reasoning is dropped, the answer behind it has its tokens, and the session's begin of the prompt goes on to the header. */
static void check_dropped(void) {
    fm_chat *chat = open_chat(engine, QWEN);
    made first, second;
    char conversation[16384];
    make(&first, chat, ASK, "I think so.\n</think>\n\nDone, \xc3\xa9.", plain);
    fm_prompt p = make_prompt(chat, continue_with(USER, first.message, NEXT_USER));
    int32_t spelt[64];
    int n = spell("Done, \xc3\xa9.", spelt), found = 0;
    CHECK(p.n_replayed == n, "replayed %d of %d", p.n_replayed, n);
    for (int i = 0; i + n <= p.n_ids; i++) found += !memcmp(p.ids + i, spelt, (size_t)n * sizeof *spelt);
    CHECK(found == 1, "the answer's tokens stand %d times", found);
    int border = 0;
    for (int i = 0; i < p.n_borders; i++) border += has_prefix(&p, first.ids, p.borders[i]) && p.borders[i] > first.n_prompt - 8;
    CHECK(border == 1 && has_prefix(&p, first.ids, first.n_prompt - 4), "a border before the answer's header, where the session still agrees");
    fm_prompt_clear(&p);
    /* The second turn, and then a third: its prompt keeps what the second had. */
    char request[32768];
    snprintf(request, sizeof request, "%s", continue_with(USER, first.message, NEXT_USER));
    make(&second, chat, request, "Yes.\n</think>\n\n" OWN_CALL, plain);
    snprintf(conversation, sizeof conversation, "%s, %s, %s", USER, first.message, NEXT_USER);
    p = make_prompt(chat, continue_with(conversation, second.message, TOOL_RESULT));
    CHECK(has_prefix(&p, second.ids, second.n), "two answers: replayed %d", p.n_replayed);
    fm_prompt_clear(&p);
    free(first.message);
    free(second.message);
    fm_chat_close(&chat);
}

/* An answer without reasoning, whose empty reasoning the template drops later: its tokens are found again behind the other header. */
static void check_not_thinking(void) {
    fm_chat *chat = open_chat(engine, QWEN);
    made m;
    char request[16384];
    make(&m, chat, "{\"messages\": [{\"role\": \"user\", \"content\": \"List the files.\"}], \"chat_template_kwargs\": {\"enable_thinking\": false}}",
         "Done, \xc3\xa9.", plain);
    snprintf(request, sizeof request, "{\"messages\": [%s, %s, %s], \"chat_template_kwargs\": {\"enable_thinking\": false}}", USER, m.message, NEXT_USER);
    fm_prompt p = make_prompt(chat, request);
    CHECK(p.n_replayed == m.n - m.n_prompt && !p.in_reasoning, "replayed %d of %d", p.n_replayed, m.n - m.n_prompt);
    fm_prompt_clear(&p);
    free(m.message);
    fm_chat_close(&chat);
}

/* A front end that writes a call's arguments anew, and one that loses ids or content's white space, find the same tokens; one that changes the answer does not. */
static void check_found(void) {
    fm_chat *chat = open_chat(engine, NULL);
    made m;
    make(&m, chat, ASK, OWN_CALL, plain);
    const char *same =
        "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"function\": {\"name\": \"bash\", \"arguments\": {\"command\":\"ls \\u00e9\"}}}]}";
    const char *other =
        "{\"role\": \"assistant\", \"content\": \"\", \"tool_calls\": [{\"function\": {\"name\": \"bash\", \"arguments\": {\"command\":\"rm\"}}}]}";
    fm_prompt p = make_prompt(chat, continue_with(USER, same, TOOL_RESULT));
    CHECK(has_prefix(&p, m.ids, m.n), "replayed %d", p.n_replayed);
    fm_prompt_clear(&p);
    p = make_prompt(chat, continue_with(USER, other, TOOL_RESULT));
    CHECK(p.n_replayed == 0, "replayed %d", p.n_replayed);
    fm_prompt_clear(&p);
    free(m.message);
    fm_chat_close(&chat);
}

/* Of two calls a front end keeps the first: by its id the tokens of what it keeps are found, and no other answer's. */
static void check_found_by_id(void) {
    fm_chat *chat = open_chat(engine, NULL);
    made m;
    json_t *message, *calls;
    make(&m, chat, ASK, "I look.\n" OWN_CALL "\n" OWN_CALL, plain);
    message = json_loads(m.message, 0, NULL);
    calls = json_object_get(message, "tool_calls");
    CHECK(json_array_size(calls) == 2 && json_array_remove(calls, 1) == 0, "%s", m.message);
    for (int known = 1; known >= 0; known--) {
        if (!known) json_object_set_new(json_array_get(calls, 0), "id", json_string("call_0"));
        char *text = json_dumps(message, 0);
        fm_prompt p = make_prompt(chat, continue_with(USER, text, TOOL_RESULT));
        int32_t spelt[256];
        int n = spell("I look.\n" OWN_CALL, spelt);
        CHECK(p.n_replayed == (known ? n : 0) && (!known || has_prefix(&p, m.ids, m.n_prompt + n)), "replayed %d of %d", p.n_replayed, n);
        fm_prompt_clear(&p);
        free(text);
    }
    json_decref(message);
    free(m.message);
    fm_chat_close(&chat);
}

/* ---- what ends and what is forced ---- */

static void check_message(const char *template_file, const char *text, fm_answer_options options, int stop, const char *message) {
    fm_chat *chat = open_chat(engine, template_file);
    made m;
    char *have;
    make(&m, chat, ASK, text, options);
    have = strdup(m.message);
    char *id = strstr(have, "call_");
    if (id) memmove(id + 5, id + 29, strlen(id + 29) + 1);
    CHECK(m.stop == stop && !strcmp(have, message), "'%s': stop %d, %s", text, m.stop, have);
    free(have);
    free(m.message);
    fm_chat_close(&chat);
}

static fm_answer_options limited(int max_tokens) {
    fm_answer_options o = plain;
    o.max_tokens = max_tokens;
    return o;
}

static fm_answer_options thinking(int budget) {
    fm_answer_options o = plain;
    o.think_budget = budget;
    return o;
}

static fm_answer_options calling(const char *name) {
    fm_answer_options o = plain;
    o.force_call = name;
    return o;
}

static void check_ends(bool shared) {
    check_message(NULL, "Oslo.", plain, FM_STOP_EOS, "{\"role\": \"assistant\", \"content\": \"Oslo.\"}");
    check_message(
        NULL, OWN_CALL, plain, FM_STOP_CALLS,
        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"call_\", \"type\": \"function\", \"function\": {\"name\": \"bash\", \"arguments\": "
        "\"{\\\"command\\\": \\\"ls \xc3\xa9\\\"}\"}}]}");
    check_message(NULL, "Oslo.", limited(3), FM_STOP_LENGTH, "{\"role\": \"assistant\", \"content\": \"Osl\"}");
    check_message(NULL, "Oslo.", limited(0), FM_STOP_LENGTH, "{\"role\": \"assistant\", \"content\": \"\"}");
    fm_answer_options o = plain;
    o.stops = (const char *const[]){"lo"};
    o.n_stops = 1;
    check_message(NULL, "Oslo.", o, FM_STOP_STRING, "{\"role\": \"assistant\", \"content\": \"Os\"}");
    check_message(NULL, "ls -l\n</parameter>\n</function>\n</tool_call>", calling("bash"), FM_STOP_EOS,
                  "{\"role\": \"assistant\", \"content\": \"<tool_call>\\n<function=bash>\\nls -l\\n</parameter>\\n</function>\\n</tool_call>\"}");
    check_message(
        NULL, "<parameter=command>\nls\n</parameter>\n</function>\n</tool_call>", calling("bash"), FM_STOP_CALLS,
        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"call_\", \"type\": \"function\", \"function\": {\"name\": \"bash\", \"arguments\": "
        "\"{\\\"command\\\": \\\"ls\\\"}\"}}]}");
    check_message(
        NULL, "</function>", calling(""), FM_STOP_CALLS,
        "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"id\": \"call_\", \"type\": \"function\", \"function\": {\"name\": \"bash\", \"arguments\": \"{}\"}}]}");
    if (!shared) return;
    check_message(QWEN, "Long thoughts", thinking(4), FM_STOP_EOS, "{\"role\": \"assistant\", \"content\": \"thoughts\", \"reasoning_content\": \"Long\"}");
    check_message(QWEN, "Yes.", thinking(0), FM_STOP_EOS, "{\"role\": \"assistant\", \"content\": \"Yes.\"}");
    check_message(
        QWEN, "Hm.\n</think></function>", calling("bash"), FM_STOP_CALLS,
        "{\"role\": \"assistant\", \"content\": null, \"reasoning_content\": \"Hm.\", \"tool_calls\": [{\"id\": \"call_\", \"type\": \"function\", \"function\": {\"name\": \"bash\", "
        "\"arguments\": \"{}\"}}]}");
}

/* The tokens of a forced end of reasoning are those of the template: the next prompt has them. */
static void check_budget(void) {
    fm_chat *chat = open_chat(engine, QWEN);
    made m;
    make(&m, chat, ASK, "Long" OWN_CALL, thinking(4));
    CHECK(m.n_reasoning == 4 && m.stop == FM_STOP_CALLS, "%d tokens of reasoning, %s", m.n_reasoning, m.message);
    char *text = text_of(engine, m.ids + m.n_prompt, m.n - m.n_prompt);
    CHECK(!strcmp(text, "Long\n</think>\n\n" OWN_CALL), "%s", text);
    fm_prompt p = make_prompt(chat, continue_with(USER, m.message, TOOL_RESULT));
    CHECK(has_prefix(&p, m.ids, m.n), "replayed %d of %d", p.n_replayed, m.n - m.n_prompt);
    fm_prompt_clear(&p);
    free(text);
    free(m.message);
    fm_chat_close(&chat);
}

static void check_refused(void) {
    fm_chat *chat = open_chat(engine, NULL);
    fm_prompt p = make_prompt(chat, ASK);
    fm_error err = {0};
    fm_answer *answer;
    fm_answer_options o = calling("no_such");
    CHECK(fm_answer_open(&answer, chat, ASK, &p, &o, &err) == FM_EINVAL && !answer, "%s", err.message);
    CHECK(!strcmp(err.message, "a call of 'no_such' cannot be forced: the request has no such tool"), "%s", err.message);
    CHECK(fm_answer_open(&answer, chat, "{}", &p, &o, &err) == FM_EINVAL && !answer, "%s", err.message);
    CHECK(fm_answer_open(&answer, chat, "x", &p, NULL, &err) == FM_EFORMAT && !answer, "%s", err.message);
    fm_prompt_clear(&p);
    fm_chat_close(&chat);
}

/* Memory is bounded: many answers later the first ones are forgotten, and nothing else is. */
static void check_bounded(void) {
    fm_memory memory = {0};
    for (int i = 0; i < 10000; i++) {
        fm_memory_entry e = {.message = (uint64_t)i,
                             .head = strdup("h"),
                             .ids = calloc(500, sizeof(int32_t)),
                             .bytes = calloc(1, 1),
                             .ends = calloc(500, sizeof(size_t)),
                             .n = 500};
        e.ids[0] = i;
        fm_memory_add(&memory, &e);
        CHECK(memory.n_tokens <= (size_t)1 << 20 && memory.n <= 4096 && memory.n_tokens == (size_t)memory.n * 500, "%zu tokens in %d", memory.n_tokens,
              memory.n);
    }
    bool newest = false, oldest = false;
    for (int i = 0; i < memory.n; i++) {
        newest |= memory.entries[i].message == 9999;
        oldest |= memory.entries[i].message == 0;
    }
    CHECK(newest && !oldest && memory.n > 2000, "%d entries", memory.n);
    fm_memory_close(&memory);
}

/* The demo model's own answer, and the session that it leaves is a prefix of the next prompt. */
static void check_turns(void) {
    fm_chat *chat = open_chat(engine, NULL);
    fm_session *session;
    fm_answered first, second;
    fm_sampling greedy = FM_SAMPLING_INIT;
    const char *ask = "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of Norway?\"}]}";
    char request[4096];
    MUST(fm_session_open(&session, engine, err));
    MUST(fm_chat_answer(chat, session, ask, &greedy, NULL, &first, err));
    CHECK(!strcmp(first.message, "{\"role\": \"assistant\", \"content\": \"The capital of Norway is Oslo.\"}") && first.stop == FM_STOP_EOS, "%s",
          first.message);
    int held = fm_session_position(session);
    CHECK(held == first.n_prompt + first.n_tokens - 1 && first.synced.n_computed == first.n_prompt && first.first_token_seconds > 0, "%d tokens held", held);
    snprintf(
        request, sizeof request,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of Norway?\"}, %s, {\"role\": \"user\", \"content\": \"What is the capital of Italy?\"}]}",
        first.message);
    MUST(fm_chat_answer(chat, session, request, &greedy, NULL, &second, err));
    CHECK(strstr(second.message, "Rome") && second.synced.n_kept == held && second.synced.n_computed == second.n_prompt - held, "%s, kept %d of %d",
          second.message, second.synced.n_kept, held);
    fm_free(first.message);
    fm_free(second.message);
    fm_engine_cancel(engine, true);
    MUST(fm_chat_answer(chat, session, ask, &greedy, NULL, &first, err));
    fm_engine_cancel(engine, false);
    CHECK(first.stop == FM_STOP_CANCELLED, "stop %d", first.stop);
    fm_free(first.message);
    fm_session_close(&session);
    fm_chat_close(&chat);
}

/* Three turns with a template that opens reasoning and drops it later: each computes the last answer without its reasoning, and what came since, and nothing earlier. */
static void check_reread(void) {
    fm_chat *chat = open_chat(engine, QWEN);
    fm_session *session;
    fm_answered a;
    fm_answer_options o = thinking(3);
    fm_sampling greedy = FM_SAMPLING_INIT;
    static const char header[] = "<|im_start|>assistant\n";
    char messages[16384] = "{\"role\": \"user\", \"content\": \"What is the capital of Spain?\"}", request[20000];
    int header_at = 0;
    MUST(fm_session_open(&session, engine, err));
    o.max_tokens = 40;
    for (int i = 0; i < 3; i++) {
        snprintf(request, sizeof request, "{\"messages\": [%s]}", messages);
        fm_prompt p = make_prompt(chat, request);
        MUST(fm_chat_answer(chat, session, request, &greedy, &o, &a, err));
        CHECK(a.n_reasoning == 3 && strstr(a.message, "reasoning_content"), "%s", a.message);
        CHECK(a.synced.n_kept == header_at && a.synced.n_restored == 0 && a.synced.n_computed == p.n_ids - header_at,
              "turn %d: kept %d, computed %d of %d, want %d kept", i, a.synced.n_kept, a.synced.n_computed, p.n_ids, header_at);
        char *rest = text_of(engine, p.ids + header_at, p.n_ids - header_at);
        CHECK(i == 0 || (!strncmp(rest, header, sizeof header - 1) && !strstr(rest + 1, "</think>")), "turn %d computes: %s", i, rest);
        free(rest);
        header_at = p.borders[p.n_borders - 1];
        size_t n = strlen(messages);
        snprintf(messages + n, sizeof messages - n, ", %s, {\"role\": \"user\", \"content\": \"And of Italy?\"}", a.message);
        fm_prompt_clear(&p);
        fm_free(a.message);
    }
    fm_session_close(&session);
    fm_chat_close(&chat);
}

static void check_names(void) {
    fm_chat *chat = open_chat(engine, NULL);
    CHECK(fm_chat_template_uses(chat, "add_generation_prompt") && fm_chat_template_uses(chat, "messages"), "variables of the template");
    CHECK(!fm_chat_template_uses(chat, "essages") && !fm_chat_template_uses(chat, "message_") && !fm_chat_template_uses(chat, ""), "other names");
    fm_chat_close(&chat);
}

int main(void) {
    bool shared = access(QWEN, R_OK) == 0;
    engine = open_ember();
    while (!fm_engine_token_is_eos(engine, eos)) eos++;
    check_replays(shared);
    if (shared) check_dropped();
    if (shared) check_not_thinking();
    if (shared) check_budget();
    if (shared) check_reread();
    check_names();
    check_found();
    check_found_by_id();
    check_ends(shared);
    check_refused();
    check_bounded();
    check_turns();
    if (!shared) fprintf(stderr, "not checked: reasoning, there is no %s\n", QWEN);
    fm_engine_close(&engine);
    return TEST_END();
}
