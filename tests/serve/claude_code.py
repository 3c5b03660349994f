"""A whole session of Claude Code, the agent, against a running server: it is asked for a list of files, calls its tool, is answered by it, and ends. Run by hand, as the package
holds the agent's program (170 MB): it is no test of the suite.

    python3 -m venv venv && venv/bin/pip install claude-agent-sdk==0.2.187
    build/flash-moe serve models/ember --context 8192 --temp 0 &
    venv/bin/python tests/serve/claude_code.py http://127.0.0.1:8080

The agent gets a home of its own, a key that is none, and nothing else of the environment; the demo model's context takes it with a short system prompt and one tool. With its own
system prompt and all its tools it sends some 30,000 tokens of the demo model's, which need a model with more context."""
import asyncio
import os
import sys
import tempfile

from claude_agent_sdk import AssistantMessage, ClaudeAgentOptions, ResultMessage, TextBlock, ToolResultBlock, ToolUseBlock, UserMessage, query

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080"


async def session(directory):
    os.makedirs(os.path.join(directory, "project", "docs"))
    for name in ("a.txt", "b.md"):
        open(os.path.join(directory, "project", "docs", name), "w").close()
    for name in [name for name in os.environ if name not in ("PATH", "LANG")]:
        del os.environ[name]
    options = ClaudeAgentOptions(
        model="ember", system_prompt="You are a helpful assistant.", tools=["Bash"], allowed_tools=["Bash(ls:*)"], cwd=os.path.join(directory, "project"), max_turns=4,
        setting_sources=[], env={"ANTHROPIC_BASE_URL": URL, "ANTHROPIC_API_KEY": "none", "HOME": directory, "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                                 "DISABLE_TELEMETRY": "1", "DISABLE_AUTOUPDATER": "1", "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "512"})
    calls, results, last = [], [], None
    async for message in query(prompt="List the files in docs.", options=options):
        for block in message.content if isinstance(message, (AssistantMessage, UserMessage)) and isinstance(message.content, list) else []:
            if isinstance(block, ToolUseBlock):
                calls.append(block)
                print("call:", block.name, block.input)
            elif isinstance(block, ToolResultBlock):
                results.append(block)
                print("result:", block.content)
            elif isinstance(block, TextBlock):
                print("text:", block.text)
        if isinstance(message, ResultMessage):
            last = message
    print("end:", last.subtype, last.usage)
    assert calls and [result.tool_use_id for result in results] == [call.id for call in calls], "each call got its result"
    assert last and not last.is_error, last
    assert last.usage["cache_read_input_tokens"] > 1000, "the second request found the first one's tokens"


with tempfile.TemporaryDirectory() as home:
    asyncio.run(session(home))
