/* serve/api/small.c: POST /tokenize, /detokenize and /apply-template: handlers on the engine's thread. */
#include <string.h>

#include "serve/api/apis.h"
#include "serve/api/joined.h"

/* The bytes of a token: a string, or, where they are no whole characters, a list of numbers. */
static json_t *piece_of(const fm_engine *engine, int32_t id) {
    const char *bytes = "";
    int n = fm_engine_token_bytes(engine, id, &bytes);
    json_t *piece = json_stringn(n ? bytes : "", (size_t)n);
    if (piece) return piece;
    piece = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(piece, json_integer((unsigned char)bytes[i]));
    return piece;
}

static const fm_field TOKENIZE[] = {
    {"model", FM_FIELD_ADVISORY},
    {"content", FM_FIELD_USED},
    {"parse_special", FM_FIELD_USED},
    {"with_pieces", FM_FIELD_USED},
    {"add_special", FM_FIELD_ONLY, "false"}, /* the template writes what a prompt begins with */
};

int fm_small_tokenize(fm_exchange *x, fm_refusal *why) {
    const json_t *content = json_object_get(x->body, "content");
    bool special = true, pieces = false;
    int32_t *ids = NULL;
    fm_error err = {0};
    if (fm_fields_check(x->body, TOKENIZE, FM_COUNT(TOKENIZE), why) < 0 || fm_field_bool(x->body, "parse_special", &special, why) < 0) return -1;
    if (fm_field_bool(x->body, "with_pieces", &pieces, why) < 0) return -1;
    if (!json_is_string(content)) return fm_deny(why, 400, "content", "content: it has to be there, and to be a string");
    int n = fm_engine_encode(fm_exchange_engine(x), json_string_value(content), json_string_length(content), special, &ids, &err);
    if (n < 0) return fm_deny_error(why, &err);
    json_t *tokens = json_array();
    for (int i = 0; i < n; i++) {
        json_t *id = json_integer(ids[i]);
        json_array_append_new(tokens, pieces ? json_pack("{s:o, s:o}", "id", id, "piece", piece_of(fm_exchange_engine(x), ids[i])) : id);
    }
    fm_free(ids);
    fm_reply_json(x, 200, json_pack("{s:o}", "tokens", tokens));
    return 0;
}

static const fm_field DETOKENIZE[] = {
    {"model", FM_FIELD_ADVISORY},
    {"tokens", FM_FIELD_USED},
};

int fm_small_detokenize(fm_exchange *x, fm_refusal *why) {
    const json_t *tokens = json_object_get(x->body, "tokens");
    fm_joined text = {0};
    if (fm_fields_check(x->body, DETOKENIZE, FM_COUNT(DETOKENIZE), why) < 0) return -1;
    if (!json_is_array(tokens)) return fm_deny(why, 400, "tokens", "tokens: it has to be there, and to be a list");
    for (size_t i = 0; i < json_array_size(tokens); i++) {
        const json_t *id = json_array_get(tokens, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= x->facts->vocab) {
            fm_joined_clear(&text);
            return fm_deny(why, 400, "tokens", "tokens[%zu]: not a token from 0 to %d", i, x->facts->vocab - 1);
        }
        const char *bytes;
        int n = fm_engine_token_bytes(fm_exchange_engine(x), (int32_t)json_integer_value(id), &bytes);
        fm_joined_add(&text, bytes, (size_t)n);
    }
    json_t *content = fm_joined_take(&text);
    if (!content) return fm_no_memory(why);
    fm_reply_json(x, 200, json_pack("{s:o}", "content", content));
    return 0;
}

static const fm_field APPLY[] = {
    {"model", FM_FIELD_ADVISORY},
    {"messages", FM_FIELD_USED},
    {"tools", FM_FIELD_USED},
    {"chat_template_kwargs", FM_FIELD_USED},
    {"add_generation_prompt", FM_FIELD_USED},
};

int fm_small_apply_template(fm_exchange *x, fm_refusal *why) {
    fm_prompt prompt;
    fm_error err = {0};
    if (!fm_exchange_chat(x)) return fm_deny(why, 400, "model", "this model has no chat template");
    if (fm_fields_check(x->body, APPLY, FM_COUNT(APPLY), why) < 0) return -1;
    const char *request = fm_exchange_dump(x, json_incref(x->body));
    if (!request) return fm_no_memory(why);
    if (fm_chat_prompt(fm_exchange_chat(x), request, &prompt, &err) < 0) return fm_deny_error(why, &err);
    fm_reply_json(x, 200, json_pack("{s:o}", "prompt", fm_utf8_json(prompt.text, prompt.text_bytes)));
    fm_prompt_clear(&prompt);
    return 0;
}
