/* chat.h: what the tests of a chat share: the demo model, answers that are made of given tokens, and texts of tokens. */
#ifndef FM_TESTS_CHAT_H
#define FM_TESTS_CHAT_H

#include "chat/chat.h"
#include "test.h"

#define EMBER TEST_SOURCE_ROOT "/models/ember"
#define TEMPLATES TEST_SOURCE_ROOT "/../shared/templates"

static inline fm_engine *open_ember(void) {
    fm_engine_options options = FM_ENGINE_OPTIONS_INIT;
    fm_engine *engine;
    options.memory_bytes = (uint64_t)64 << 20;
    options.context = 2048;
    options.n_threads = 1;
    MUST(fm_engine_open(&engine, EMBER, &options, err));
    return engine;
}

/* With a template of another model, or Ember's own (NULL). */
static inline fm_chat *open_chat(fm_engine *engine, const char *template_file) {
    fm_chat_options options = FM_CHAT_OPTIONS_INIT;
    fm_chat *chat;
    options.template_file = template_file;
    MUST(fm_chat_open(&chat, engine, &options, err));
    return chat;
}

static inline fm_prompt make_prompt(fm_chat *chat, const char *request) {
    fm_prompt prompt;
    MUST(fm_chat_prompt(chat, request, &prompt, err));
    return prompt;
}

/* Token ids as text; free it. */
static inline char *text_of(const fm_engine *engine, const int32_t *ids, int n) {
    fm_chars text = {0};
    for (int i = 0; i < n; i++) {
        const char *bytes;
        int length = fm_engine_token_bytes(engine, ids[i], &bytes);
        fm_chars_add(&text, bytes, (size_t)length);
    }
    return text.bytes ? text.bytes : strdup("");
}

static inline int count_id(const int32_t *ids, int n, int32_t id) {
    int count = 0;
    for (int i = 0; i < n; i++) count += ids[i] == id;
    return count;
}

/* The model's next token is to be id: it is chosen unless another has to come. Returns fm_answer_next's result. */
static inline int next_is(fm_answer *answer, fm_engine *engine, int32_t wanted, int32_t *id) {
    static float *logits;
    int vocab = fm_engine_info(engine)->vocab, rc;
    fm_sampling greedy = FM_SAMPLING_INIT;
    fm_sampler *sampler;
    if (!logits) logits = calloc((size_t)vocab, sizeof *logits);
    MUST(fm_sampler_open(&sampler, vocab, &greedy, err));
    logits[wanted] = 1;
    MUST(rc = fm_answer_next(answer, sampler, logits, id, err));
    logits[wanted] = 0;
    fm_sampler_close(&sampler);
    return rc;
}

#endif
