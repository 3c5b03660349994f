/* text/tool_format.h: how a model writes tool calls, told by its chat template. */
#ifndef FM_TEXT_TOOL_FORMAT_H
#define FM_TEXT_TOOL_FORMAT_H

/* One of the names of chat/calls/, such as "qwen3-coder xml" (<function=NAME><parameter=P>) or "hermes json" (<tool_call>{…}), or "none", for a template's text. A
 * static string. */
const char *fm_tool_format_name(const char *chat_template);

#endif
