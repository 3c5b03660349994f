/* text/tool_format.c: see tool_format.h. */
#include "text/tool_format.h"

#include <string.h>

const char *fm_tool_format_name(const char *chat_template) {
    /* In this order: some hold the text of another. */
    static const struct {
        const char *text, *name;
    } formats[] = {{"<|channel|>", "harmony"},
                   {"<｜tool▁calls▁begin｜>", "deepseek"},
                   {"<|tool_calls_section_begin|>", "kimi"},
                   {"<minimax:tool_call>", "minimax"},
                   {"<arg_key>", "glm"},
                   {"[ARGS]", "mistral"},
                   {"[TOOL_CALLS]", "mistral list"},
                   {"<function=", "qwen3-coder xml"},
                   {"<tool_calls>", "hunyuan"},
                   {"<|tool_call_start|>", "lfm2"},
                   {"<|tool_list_start|>", "lfm2"},
                   {"<|tool_call|>", "granite"},
                   {"<tool_call>", "hermes json"},
                   {"<|python_tag|>", "llama json"}};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        if (strstr(chat_template, formats[i].text)) return formats[i].name;
    }
    return "none";
}
