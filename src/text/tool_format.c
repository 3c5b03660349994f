/* text/tool_format.c: see tool_format.h. */
#include "text/tool_format.h"

#include <string.h>

const char *fm_tool_format_name(const char *chat_template) {
    if (strstr(chat_template, "<function=")) return "qwen3-coder xml";
    return strstr(chat_template, "<tool_call>") ? "hermes json" : "none";
}
