/* tests/terminal/stream.c: streamed answers of servers: events and messages are the same wherever the bytes are cut, and what is malformed is an error. */
#include "cli/remote/stream.h"

#include "test.h"

#define CHUNK(delta) "data: {\"choices\":[{\"index\":0,\"delta\":" delta ",\"finish_reason\":null}]}\n\n"
#define FINISH(reason) "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"" reason "\"}]}\n\n"
#define USAGE                                                                                                                                                  \
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":20,\"completion_tokens\":7,\"prompt_tokens_details\":{\"cached_tokens\":12},"                          \
    "\"completion_tokens_details\":{\"reasoning_tokens\":3}},\"timings\":{\"predicted_per_second\":12.5}}\n\n"
#define DONE "data: [DONE]\n\n"

static char seen[4096]; /* events, as text */

static int on_event(void *user, const fm_event *e) {
    size_t n = strlen(seen), room = sizeof seen - n;
    (void)user;
    switch (e->type) {
    case FM_EVENT_TEXT: snprintf(seen + n, room, "[%.*s]", (int)e->bytes, e->text); break;
    case FM_EVENT_REASONING: snprintf(seen + n, room, "(%.*s)", (int)e->bytes, e->text); break;
    case FM_EVENT_CALL: snprintf(seen + n, room, "{%d %s %s:", e->call, e->id, e->name); break;
    case FM_EVENT_ARGUMENTS: snprintf(seen + n, room, "<%.*s>", (int)e->bytes, e->text); break;
    case FM_EVENT_CALL_END: snprintf(seen + n, room, "}"); break;
    default: snprintf(seen + n, room, "?");
    }
    return strstr(seen, "stop here") != NULL;
}

static void on_comment(void *user, const char *text) { snprintf((char *)user + strlen(user), 256 - strlen(user), "#%s", text); }

/* The result of bytes that come `step` at a time; the message is left in *message. */
static int run(struct stream *s, const char *text, size_t step, char **message, fm_error *err) {
    size_t n = strlen(text);
    *seen = '\0';
    s->event = on_event;
    fm_stream_open(s);
    for (size_t at = 0; at < n; at += step)
        if (fm_stream_feed(s, text + at, n - at < step ? n - at : step)) break;
    int rc = fm_stream_end(s, err);
    *message = fm_stream_message(s);
    return rc;
}

static void good(const char *text, const char *events, const char *message, int stop) {
    for (size_t step = 1; step <= strlen(text); step = step < 40 ? step + 1 : step * 2) {
        struct stream s = {0};
        fm_error error = {0};
        char *made;
        CHECK(run(&s, text, step, &made, &error) == 0, "%s", error.message);
        CHECK(strcmp(seen, events) == 0, "step %zu: %s", step, seen);
        CHECK(made && strcmp(made, message) == 0, "step %zu: %s", step, made);
        CHECK(s.stop == stop && s.whole, "step %zu: stop %d", step, s.stop);
        free(made);
        fm_stream_close(&s);
    }
}

static void bad(const char *text, int code, const char *sentence) {
    struct stream s = {0};
    fm_error error = {0};
    char *made;
    CHECK(run(&s, text, 7, &made, &error) == code && strstr(error.message, sentence), "%d: %s", error.code, error.message);
    free(made);
    fm_stream_close(&s);
}

static void counts(void) {
    struct stream s = {.comment = on_comment};
    char *made, comments[256] = "";
    s.comment_user = comments;
    CHECK(run(&s, ": reading the prompt, 5 of 9 tokens\n\n:\n\n" CHUNK("{\"content\":\"a\"}") FINISH("stop") USAGE DONE, 5, &made, NULL) == 0, "whole");
    CHECK(s.n_prompt == 20 && s.n_cached == 12 && s.n_tokens == 7 && s.n_reasoning == 3 && s.tokens_per_second == 12.5, "%d %d %d %d", s.n_prompt, s.n_cached,
          s.n_tokens, s.n_reasoning);
    CHECK(strcmp(comments, "#reading the prompt, 5 of 9 tokens") == 0, "%s", comments);
    free(made);
    fm_stream_close(&s);
    s = (struct stream){0};
    CHECK(run(&s, CHUNK("{\"content\":\"a\"}") FINISH("stop"), 9, &made, NULL) == 0 && s.n_prompt == -1 && s.n_tokens == -1, "a server that does not count");
    free(made);
    fm_stream_close(&s);
    s = (struct stream){0};
    CHECK(run(&s, CHUNK("{\"content\":\"stop here\"}") CHUNK("{\"content\":\"more\"}"), 1000, &made, NULL) == 0 && s.stopped, "the event function stops it");
    CHECK(strcmp(seen, "[stop here]") == 0, "%s", seen);
    free(made);
    fm_stream_close(&s);
}

static void refusals(void) {
    char text[64];
    const char *plain = "{\"error\":\"no\"}", *object = "{\"error\":{\"message\":\"It is full.\"}}", *none = "{\"choices\":[]}", *html = "<html>";
    CHECK(fm_stream_refusal(text, sizeof text, plain, strlen(plain)) && strcmp(text, "no") == 0, "%s", text);
    CHECK(fm_stream_refusal(text, sizeof text, object, strlen(object)) && strcmp(text, "It is full") == 0, "%s", text);
    CHECK(!fm_stream_refusal(text, sizeof text, none, strlen(none)) && !fm_stream_refusal(text, sizeof text, html, strlen(html)), "there is none");
}

int main(void) {
    good(CHUNK("{\"role\":\"assistant\",\"content\":\"\"}") CHUNK("{\"content\":\"H\\u00e9\"}") CHUNK("{\"content\":\" you\"}") FINISH("stop") DONE,
         "[Hé][ you]", "{\"role\":\"assistant\",\"content\":\"Hé you\"}", FM_STOP_EOS);
    good(CHUNK("{\"reasoning_content\":\"hm\",\"content\":null}") CHUNK("{\"content\":\"a\"}") FINISH("length"), "(hm)[a]",
         "{\"role\":\"assistant\",\"content\":\"a\",\"reasoning_content\":\"hm\"}", FM_STOP_LENGTH);
    good("event: x\r\ndata: {\"choices\":[{\"delta\":\r\ndata: {\"content\":\"a\"}}]}\r\n\r\ndata:[DONE]\n", "[a]",
         "{\"role\":\"assistant\",\"content\":\"a\"}", FM_STOP_EOS);
    good(
        CHUNK("{\"tool_calls\":[{\"index\":0,\"id\":\"c1\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}")
            CHUNK("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{\\\"a\\\":\"}}]}")
                CHUNK("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"1}\"}}]}")
                    CHUNK("{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]}") FINISH("stop") DONE,
        "{0 c1 f:<{\"a\":><1}>}{1 call_1 g:<{}>}",
        "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"c1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{\\\"a\\\":1}\"}},"
        "{\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{}\"}}]}",
        FM_STOP_CALLS);
    bad("", FM_EFORMAT, "ended in the middle");
    bad(CHUNK("{\"content\":\"a\"}"), FM_EFORMAT, "ended in the middle");
    bad("data: {\"choices\":\n\n" DONE, FM_EFORMAT, "no JSON");
    bad(CHUNK("{\"content\":\"a\"}") "data: {\"error\":{\"message\":\"The disk failed.\"}}\n\n" DONE, FM_EIO, "broken off: The disk failed");
    bad(CHUNK("{\"tool_calls\":[{\"index\":1,\"function\":{\"name\":\"g\"}}]}") DONE, FM_EFORMAT, "part of tool call 1 came, of which there are 0");
    bad(CHUNK("{\"tool_calls\":[{\"index\":0,\"function\":{\"arguments\":\"{}\"}}]}") DONE, FM_EFORMAT, "part of tool call 0");
    bad(CHUNK("{\"tool_calls\":[{\"index\":-1,\"function\":{\"name\":\"g\"}}]}") DONE, FM_EFORMAT, "part of tool call -1");
    counts();
    refusals();
    return TEST_END();
}
