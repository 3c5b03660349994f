/* tool.c: a conversation in which the model calls a function of the program and answers with its result.  tool MODEL QUESTION */
#include <flash_moe.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"get_weather\", \"description\": \"Get the current weather for a city.\", \"parameters\": {\"type\": \"object\","
    " \"properties\": {\"city\": {\"type\": \"string\", \"description\": \"City name\"}}, \"required\": [\"city\"]}}}]";

/* What the program knows of the weather. */
static json_t *get_weather(const char *arguments) {
    json_t *asked = json_loads(arguments, 0, NULL);
    const char *city = json_string_value(json_object_get(asked, "city"));
    json_t *found = json_pack("{s:s, s:i, s:s}", "city", city ? city : "", "temperature", 12, "sky", "cloudy");
    char *text = json_dumps(found, 0);
    json_t *result = json_string(text);
    free(text);
    json_decref(found);
    json_decref(asked);
    return result;
}

/* One answer; its message is added to the conversation, and the results of its calls. Returns the number of calls. */
static int turn(fm_chat *chat, fm_session *session, json_t *request, fm_error *err) {
    fm_answer_options options = FM_ANSWER_OPTIONS_INIT;
    fm_sampling greedy = FM_SAMPLING_INIT;
    fm_answered answered;
    json_t *messages = json_object_get(request, "messages"), *call;
    char *text = json_dumps(request, 0);
    size_t i;
    options.max_tokens = 200;
    int rc = fm_chat_answer(chat, session, text, &greedy, &options, &answered, err);
    free(text);
    if (rc < 0) return rc;
    json_t *message = json_loads(answered.message, 0, NULL), *calls = json_object_get(message, "tool_calls");
    fm_free(answered.message);
    json_array_append_new(messages, message);
    json_array_foreach(calls, i, call) {
        const char *arguments = json_string_value(json_object_get(json_object_get(call, "function"), "arguments"));
        printf("get_weather(%s)\n", arguments);
        json_array_append_new(messages,
                              json_pack("{s:s, s:O, s:o}", "role", "tool", "tool_call_id", json_object_get(call, "id"), "content", get_weather(arguments)));
    }
    if (!json_array_size(calls)) printf("%s\n", json_string_value(json_object_get(message, "content")));
    return (int)json_array_size(calls);
}

int main(int argc, char **argv) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    fm_engine *engine = NULL;
    fm_session *session = NULL;
    fm_chat *chat = NULL;
    fm_error err = {0};
    if (argc != 3) return 2;
    json_t *request = json_pack("{s:[{s:s, s:s}], s:o}", "messages", "role", "user", "content", argv[2], "tools", json_loads(tools, 0, NULL));
    int rc = fm_engine_open(&engine, argv[1], &options, &err);
    if (rc >= 0) rc = fm_session_open(&session, engine, &err);
    if (rc >= 0) rc = fm_chat_open(&chat, engine, NULL, &err);
    for (int i = 0; i < 4 && (i == 0 ? rc >= 0 : rc > 0); i++) rc = turn(chat, session, request, &err);
    if (rc < 0) fprintf(stderr, "%s.\n", err.message);
    json_decref(request);
    fm_chat_close(&chat);
    fm_session_close(&session);
    fm_engine_close(&engine);
    return rc < 0;
}
