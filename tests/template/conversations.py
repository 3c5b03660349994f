"""A seeded generator of what chat templates are given: messages, tools and arguments, ordinary and odd."""
import json
import random

WORDS = ("the weather in Oslo is fine today please call a tool and say why not with numbers 12 3.5 -7 of things that users ask models about every day").split()
ODD = ("", " ", "\n", "\t \n ", "  two  ", "\n\nlines\n\n", "a\r\nb\r\n", "back\\slash\\n", "'single'", '"double"', "both ' and \"", "{{ braces }}",
       "{% if x %}", "{# no #}", "<|im_end|>", "<|im_start|>system\nobey", "</think>", "<think>half", "<think>a</think>b",
       "<think>\nx\n</think>\n\ny</think>z", "<tool_response>\nx\n</tool_response>", "/nothink", "&lt;&amp;<b>", "%s %d %%", "{0} {name}",
       "\u00e9\u0301e\u0301", "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
       "\u200b\ufeff\u2060", "\u00a0nbsp\u00a0", "\u3000\u4f60\u597d\u3000", "\u2028para\u2029", "\x85next\x85", "\x1c\x1d\x1e\x1f", "\x00nul",
       "\x07\x1b[0m\x7f", "\ud7ff\ue000\uffff", "\U0010ffff\U00010000", "\u00df\u0130\u0131\ufb01\u01c5", "<\uff5cUser\uff5c>", "a" * 300, "x\ty\vz\f", "0",
       "None", "true", "[]", "null", "<|channel|>final<|message|>x")
NUMBERS = (0, 1, -1, 42, 2**31, -2**31, 2**53 + 1, 2**63 - 1, -2**63, 0.0, -0.0, 1.0, 0.1, -2.5, 1e16, 1e15, 1e22, 123456789012345680.0, 1e-4, 1e-5, 5e-324,
           1.7976931348623157e308, 3.141592653589793, 1 / 3, 100.0, 1e100, 2.5e-7, 9007199254740993.0)


class Generator:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.odd = self.r.choice((0.0, 0.0, 0.03, 0.15, 0.5))  # how much of it is odd
        self.plain = self.odd < 0.1 and self.chance(0.8)  # nothing that common templates refuse

    def chance(self, p):
        return self.r.random() < p

    def is_odd(self, p=1.0):
        return self.r.random() < self.odd * p

    def text(self):
        if self.is_odd():
            return "".join(self.r.choice(ODD) for _ in range(self.r.randint(1, 3)))
        text = " ".join(self.r.choice(WORDS) for _ in range(self.r.randint(1, 12)))
        if self.chance(0.1):
            text += self.r.choice(("\n", "\n\n1. one\n2. two", " \u2014 \u00e7a va?", " \U0001f44d", "```c\nint x = {1};\n```", " "))
        return text

    def name(self):
        if self.is_odd(0.5):
            return self.r.choice(ODD)
        return self.r.choice(("get_weather", "search", "bash", "calc", "Read", "web.open", "fn_1", "find-all", "code_interpreter", "\u6c42"))

    def number(self):
        if self.chance(0.3):
            return self.r.choice(NUMBERS)
        return self.r.randint(-1000, 1000) if self.chance(0.5) else self.r.uniform(-1, 1) * 10 ** self.r.randint(-12, 25)

    def value(self, depth=0):
        kind = self.r.randrange(9 if depth < 3 else 6)
        if kind < 2:
            return self.text()
        if kind < 4:
            return self.number()
        if kind == 4:
            return self.chance(0.5)
        if kind == 5:
            return None
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.r.randrange(4))]
        return {self.key(): self.value(depth + 1) for _ in range(self.r.randrange(4))}

    def key(self):
        if self.is_odd(0.5):
            return self.r.choice(ODD).replace("\0", "0")  # jansson takes no zero in a key
        return self.r.choice(("city", "unit", "path", "query", "n", "items", "keys", "values", "name", "type", "x-y", "get", "text", "\u00e5r"))

    # ---- tools

    def schema(self, depth=0):
        kind = self.r.randrange(10)
        s = {}
        if kind < 3 or depth > 2:
            s["type"] = "string"
            if self.chance(0.3):
                s["enum"] = [self.text() for _ in range(self.r.randint(1, 3))]
        elif kind < 5:
            s["type"] = self.r.choice(("integer", "number", "boolean", "null"))
        elif kind == 5:
            s["type"] = "array"
            if self.chance(0.8):
                s["items"] = self.schema(depth + 1)
        elif kind == 6:
            s = self.object_schema(depth + 1)
        elif kind == 7:
            s["type"] = [self.r.choice(("string", "integer", "null", "object")) for _ in range(self.r.randint(1, 3))]
        elif kind == 8:
            s[self.r.choice(("oneOf", "anyOf"))] = [self.schema(depth + 1) for _ in range(self.r.randint(1, 3))]
        if self.chance(0.85):
            s["description"] = self.text()
        if self.chance(0.2):
            s["default"] = self.value(2)
        if self.chance(0.1):
            s["nullable"] = self.chance(0.5)
        if self.chance(0.1):
            s[self.key()] = self.value(1)
        return s

    def object_schema(self, depth=0):
        names = [self.key() for _ in range(self.r.randrange(5))]
        s = {"type": "object", "properties": {name: self.schema(depth) for name in names}}
        if self.chance(0.7):
            s["required"] = [name for name in s["properties"] if self.chance(0.5)]
        if self.chance(0.2):
            s["additionalProperties"] = self.schema(2) if self.chance(0.5) else False
        return s

    def tool(self):
        f = {"name": self.name(), "description": self.text(), "parameters": self.object_schema()}
        if self.chance(0.15):
            f["return"] = self.schema(2)
        if self.chance(0.1):
            f["strict"] = True
        if self.is_odd(0.3):
            f.pop(self.r.choice(list(f)))
        if self.is_odd(0.3):
            f[self.key()] = self.value()
        if self.is_odd(0.3):
            return f if self.chance(0.8) else self.text()
        return {"type": "function", "function": f}

    # ---- messages

    def content(self):
        kind = self.r.random()
        if self.is_odd(0.6):
            if kind < 0.5:
                return [self.part() for _ in range(self.r.randrange(4))]
            return None if kind < 0.8 else self.value()
        return self.text()

    def part(self):
        kind = self.r.randrange(8)
        if kind == 0:
            return self.text()
        if kind == 1:
            return {"type": "image"} if self.chance(0.5) else {"type": "image_url", "image_url": {"url": "data:,"}}
        if kind == 2:
            return {"type": "video", "video": "v.mp4"}
        if kind == 3:
            return self.value()
        return {"type": "text", "text": self.text()}

    def call(self):
        arguments = {self.key(): self.text() if self.chance(0.5) else self.value(1) for _ in range(self.r.randrange(4))}
        f = {"name": self.name(), "arguments": json.dumps(arguments) if not self.plain and self.chance(0.3) else arguments}
        if self.is_odd(0.2):
            f["arguments"] = self.r.choice(("", None, "{not json", [], 3))
        if self.is_odd(0.1):
            f.pop("arguments")
        if not self.plain and self.chance(0.2):
            return f
        return {"id": f"call_{self.r.randrange(10**6)}", "type": "function", "function": f}

    def assistant(self, tools, last):
        m = {"role": "assistant", "content": self.content()}
        if self.chance(0.25):
            m[self.r.choice(("reasoning_content", "reasoning_content", "thinking", "reasoning"))] = self.text()
        elif self.chance(0.2):
            m["content"] = f"<think>\n{self.text()}\n</think>\n\n{self.text()}"
        if tools and self.chance(0.6):
            m["tool_calls"] = [self.call() for _ in range(1 if self.chance(0.75) else self.r.randint(0 if self.odd else 2, 4))]
            if self.chance(0.5):
                m["content"] = None if not self.plain and self.chance(0.6) else ""
        elif self.chance(0.1):
            m["tool_calls"] = self.r.choice(([], None))
        if self.is_odd(0.2):
            m.pop("content")
        if last and self.chance(0.1):
            m["prefix"] = True
        return m

    def tool_result(self, call):
        m = {"role": self.r.choice(("tool", "tool", "tool", "ipython") if self.odd else ("tool",)), "content": self.content()}
        if self.chance(0.3):
            m["content"] = json.dumps(self.value(), ensure_ascii=self.chance(0.5))
        f = call.get("function", call)
        if self.chance(0.6):
            m["name"] = f["name"]
        if self.chance(0.8):
            m["tool_call_id"] = call.get("id", "call_0")
        if self.is_odd(0.1):
            m["content"] = [{"output": self.value(2)}, {"type": "text", "text": self.text()}]
        return m

    def messages(self, tools):
        out = []
        if self.chance(0.5):
            out.append({"role": "system" if self.chance(0.9) else "developer", "content": self.content()})
        turns = self.r.randint(0 if self.is_odd(0.3) else 1, 8)
        for turn in range(turns):
            out.append({"role": "user", "content": self.content()})
            if turn == turns - 1 and self.chance(0.6):
                break
            answer = self.assistant(tools, turn == turns - 1)
            out.append(answer)
            steps = 0
            while answer.get("tool_calls") and steps < 3 and not self.chance(0.1):
                out += [self.tool_result(call) for call in answer["tool_calls"]]
                if turn == turns - 1 and self.chance(0.3):
                    break
                answer = self.assistant(tools, False)
                out.append(answer)
                steps += 1
        if self.is_odd(0.2):
            self.r.shuffle(out)
        if self.is_odd(0.1):
            out.insert(self.r.randint(0, len(out)), {"role": self.r.choice(("critic", "user", "system", "assistant", "tool", "")), "content": self.text()})
        return out

    def variables(self):
        tools = [self.tool() for _ in range(self.r.randint(1, 4))] if self.chance(0.5) else None
        v = {"messages": self.messages(tools)}
        if tools or self.chance(0.3):
            v["tools"] = tools if not self.is_odd(0.1) else []
        if self.chance(0.8):
            v["add_generation_prompt"] = self.chance(0.7)
        if self.chance(0.9):
            v["bos_token"], v["eos_token"] = self.r.choice((("<s>", "</s>"), ("<|begin_of_text|>", "<|eot_id|>"), ("", "<\uff5cend\u2581of\u2581sentence\uff5c>")))
        for name, p, values in (("enable_thinking", 0.5, (True, False)), ("thinking", 0.3, (True, False, "high")), ("clear_thinking", 0.2, (True, False)), ("date_string", 0.3, ("26 Jul 2024",)),
                                ("builtin_tools", 0.2, (["browser", "python"], ["code_interpreter", "brave_search"], ["get_weather"], [])), ("tools_in_user_message", 0.2, (True, False)),
                                ("reasoning_effort", 0.2, ("low", "high")), ("model_identity", 0.1, ("You are \u00c9lan.",)), ("add_vision_id", 0.1, (True,)),
                                ("controls", 0.15, ({"citations": True}, {"hallucinations": True, "length": "short"}, {})), ("preserve_thinking", 0.1, (True,)), ("xml_tools", 0.05, ([],)),
                                ("documents", 0.2, ([{"doc_id": 1, "title": "T", "text": "Fact."}, {"doc_id": "b", "text": "\u00fcber"}], []))):
            if self.chance(p):
                v[name] = self.r.choice(values)
        if v.get("tools") and self.chance(0.1):
            v["available_tools" if self.chance(0.5) else "custom_tools"] = v["tools"]
        if self.chance(0.1):
            v[self.r.choice(("custom", "n", "user_name"))] = self.value()
        return v


def conversation(seed):
    return Generator(seed).variables()


if __name__ == "__main__":
    import sys
    print(json.dumps(conversation(sys.argv[1]), ensure_ascii=False, indent=1))
