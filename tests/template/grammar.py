"""Random templates: expressions of every operator, filter, test and method, mostly of fitting types, in nested statements with every sign of white space."""
import random
import re

VARIABLES = {
    "i": 7, "j": -3, "zero": 0, "big": 2**40, "f": 2.5, "g": -0.125, "h": 1e16, "t": True, "u": False, "none_": None,
    "s": "Hello, World", "e": "", "w": "  spaced\tout \n", "q": "it's \"quoted\" \\ <b>&amp;</b>", "m": "\u00c4rger \u00df \U0001f600 e\u0301 \u0130\u01c6", "d": "a,b,,c", "n": "42", "x": "3.14", "l": "one\ntwo\r\n\nthree",
    "nums": [3, 1, 2, 2, -5], "mixed": [1, "a", None, 2.5, True, [1, 2], {"k": "v"}], "strs": ["b", "A", "c", "a", "B", ""], "empty": [], "nested": [[1, 2], [3], []],
    "map": {"b": 1, "a": "two", "C": None, "items": [1], "": 0}, "none_map": {}, "deep": {"x": {"y": [{"z": "bottom"}]}},
    "rows": [{"k": "x", "v": 1, "n": {"d": 2}}, {"k": "y", "v": 3, "n": {"d": 1}}, {"k": "x", "v": 2}, {"k": "X", "v": 0.5, "n": {}}],
}
OF_TYPE = {
    "int": ["i", "j", "zero", "big", "nums[0]", "rows[1].v"], "float": ["f", "g", "h"], "bool": ["t", "u"], "str": ["s", "e", "w", "q", "m", "d", "n", "x", "l", "map.a", "rows[0]['k']"],
    "list": ["nums", "mixed", "strs", "empty", "nested", "rows", "map['items']"], "dict": ["map", "none_map", "deep", "rows[0]", "deep.x"], "none": ["none_", "none", "map.C"],
    "undefined": ["nope", "map.nope", "nums[99]", "s.nope", "rows[2].n"],
}
ATTRIBUTES = ["'k'", "'v'", "'n.d'", "'nope'", "0", "'0'", "attribute='v'"]
STRING_METHODS = [
    "upper()", "lower()", "title()", "capitalize()", "swapcase()", "casefold()", "strip()", "lstrip()", "rstrip()", "strip({s})", "lstrip({s})", "rstrip({s})",
    "split()", "split({s!})", "split({s!}, {k})", "split(maxsplit={k})", "rsplit({s!}, {k})", "rsplit()", "splitlines()", "splitlines(true)",
    "startswith({s})", "endswith({s})", "startswith(({s}, {s}))", "startswith({s}, {k})", "endswith({s}, {k}, {k})", "find({s})", "rfind({s})",
    "find({s}, {k}, {k})", "index({s})", "rindex({s})", "count({s})", "count({s}, {k})", "replace({s}, {s})", "replace({s}, {s}, {k})", "join({strs})",
    "isdigit()", "isalpha()", "isalnum()", "isspace()", "isupper()", "islower()", "istitle()", "isnumeric()", "isdecimal()", "isidentifier()", "isascii()",
    "isprintable()", "zfill({k})", "center({k})", "ljust({k}, '*')", "rjust({k}, '\u00b7')", "partition({s!})", "rpartition({s!})", "expandtabs()",
    "expandtabs({k})", "removeprefix({s})", "removesuffix({s})", "format({a}, {a}, k={a})", "format_map(map)", "encode()", "translate({{}})"]
LIST_METHODS = ["index(1)", "count({a})", "copy()", "index({a})", "count(2)", "copy() | length", "append(1)"]
DICT_METHODS = [
    "items()", "keys()", "values()", "get({s})", "get({s}, {a})", "copy()", "update({{}})", "pop('a')", "setdefault('a', 1)", "items() | list",
    "keys() | list", "values() | list", "items", "keys", "get('a')", "get('nope', {a})"]
STRING_FILTERS = [
    "upper", "lower", "title", "capitalize", "trim", "trim({s})", "trim(chars={s})", "length", "count", "first", "last", "reverse", "list",
    "replace({s}, {s})", "replace({s}, {s}, {k})", "center", "center({k})", "indent", "indent({k})", "indent({k}, true)",
    "indent({s}, first=true, blank=true)", "wordcount", "wordwrap({k1})", "wordwrap({k1}, false)", "wordwrap({k1}, true, '~', false)", "truncate({k})",
    "truncate({k}, true)", "truncate({k}, false, '\u2026', 0)", "truncate(length={k1}, leeway={k})", "striptags", "e", "escape", "forceescape", "safe",
    "urlencode", "int", "int({k})", "int(1, 16)", "int(base=8)", "float", "float({f})", "string", "tojson", "default({a})", "d({a}, true)", "format({a})",
    "format({a}, {a})", "join('-')", "unique | list", "sort | list", "batch({k1}) | list", "min", "max", "pprint", "attr('upper')", "select | list",
    "map('upper') | join", "safe | upper", "safe ~ '<'", "e ~ {s}", "e | safe | replace('&', {s})", "xmlattr", "items | list", "abs", "round", "urlize",
    "filesizeformat", "random | length"]
LIST_FILTERS = [
    "length", "count", "first", "last", "reverse | list", "list", "join", "join({s})", "join({s}, {A})", "sort", "sort(true)", "sort(reverse=true)",
    "sort(case_sensitive=true)", "sort(attribute={A})", "sort(attribute='k,v')", "unique | list", "unique(true) | list", "unique(attribute={A}) | list", "min",
    "max", "min(true)", "max(attribute={A})", "sum", "sum(start={i})", "sum({A})", "sum(attribute={A}, start=1)", "map({F}) | list",
    "map(attribute={A}) | list", "map(attribute={A}, default={a}) | list", "map('default', {a}) | list", "map('replace', 'a', 'b') | list", "select | list",
    "reject | list", "select({T}) | list", "reject({T}) | list", "selectattr({A}) | list", "rejectattr({A}) | list", "selectattr({A}, {T}) | list",
    "rejectattr({A}, {T}) | list", "select('gt', {i}) | list", "select('in', {l}) | list", "selectattr({A}, 'eq', {a}) | list", "groupby({A})",
    "groupby({A}) | list | string", "groupby({A}, default={a}) | map('last') | list", "batch({k1}) | list", "batch({k1}, {a}) | list", "slice({k1}) | list",
    "slice({k1}, {a}) | list", "tojson", "tojson(indent={k})", "tojson(separators=(',', ':'))", "tojson(ensure_ascii=true)", "string", "pprint",
    "default({a})", "e", "items | list", "map('length') | list", "map('int') | list", "map('upper') | join(',')", "sum | int", "xmlattr",
    "map('attr', 'k') | list", "map(attribute='k') | map('upper') | unique | join", "length > {i}", "random | string | length > 0", "trim", "upper",
    "wordcount", "abs"]
DICT_FILTERS = [
    "length", "list", "items | list", "dictsort", "dictsort(true)", "dictsort(by='value')", "dictsort(false, 'key', true)", "tojson", "tojson(indent={k})",
    "tojson(sort_keys=true)", "tojson(indent=1, sort_keys=true)", "join(',')", "first", "last", "sort", "string", "xmlattr", "xmlattr(false)", "urlencode",
    "map('upper') | list", "attr('a')", "attr({s})", "pprint", "default({a})", "e", "unique | list", "min", "max", "select | list", "reverse | list", "items"]
NUMBER_FILTERS = [
    "abs", "round", "round({k})", "round({k}, 'ceil')", "round(1, 'floor')", "round(-1)", "round(method='common')", "int", "float", "string", "tojson",
    "filesizeformat", "filesizeformat(true)", "default({a})", "e", "string | length", "pprint", "round | int", "int | string", "list", "length", "upper",
    "trim", "title", "urlencode", "center(9)", "join", "sum"]
TESTS = ["defined", "undefined", "none", "string", "number", "integer", "float", "boolean", "mapping", "sequence", "iterable", "callable", "true", "false",
         "upper", "lower", "odd", "even", "divisibleby {k1}", "divisibleby({k})", "eq {a}", "equalto({a})", "ne {a}", "sameas {a}", "in {l}", "in({s})",
         "gt {i}", "lessthan {f}", "ge({i})", "le 3", "lt 2", "greaterthan(1)", "==({a})", "escaped", "filter", "test", "not none", "not string",
         "not defined", "not in {l}", "sameas none", "sameas true"]
SIMPLE_FILTERS = [
    "'upper'", "'lower'", "'trim'", "'length'", "'string'", "'int'", "'float'", "'first'", "'last'", "'abs'", "'tojson'", "'title'", "'list'", "'e'",
    "'round', 1", "'default', 0", "'join', '+'", "'nope'"]
SIMPLE_TESTS = [
    "'defined'", "'string'", "'number'", "'none'", "'odd'", "'even'", "'mapping'", "'sequence'", "'boolean'", "'lower'", "'iterable'", "'gt', 1",
    "'equalto', 'a'", "'in', nums", "'undefined'", "'divisibleby', 2", "'sameas', none", "'nope'"]
FORMATS = [("'%s'", "a"), ("'%d|%5d|%-5d|%05d'", "iiii"), ("'%+.2f %e'", "ff"), ("'%x %o %X'", "iii"), ("'%r %s'", "aa"), ("'%5s|%-5s|%.2s'", "sas"),
           ("'%%'", ""), ("'%c'", "i"), ("'%g'", "f"), ("'%i%%'", "f"), ("'%#x'", "i"), ("'% d'", "i"), ("'%.3g'", "f"), ("'%08.3f'", "f"), ("'%*d'", "ii"),
           ("'%a'", "s"), ("'%d'", "a"), ("'%q'", "a"), ("'%'", ""), ("'%-+8.1f|'", "i"), ("'%s %s'", "a")]
BRACES = ["'{}'", "'{0} {0}'", "'{:>8}|{:<8}'", "'{:^9}|{!r}'", "'{:05d}'", "'{:,}'", "'{:.2f}'", "'{k}'", "'{:e}'", "'{:%}'", "'{{}} {}'", "'{:x}'",
          "'{0[0]}'", "'{0.real}'", "'{:*^10}'", "'{:+d}'", "'{!s:.3}'", "'{:g}'", "'{:_}'", "'{:b}'", "'{'"]

HOLE = re.compile(r"\{(s!|strs|k1|[sifalkAFT]|\{\})\}")


class Grammar:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.budget = self.r.choice((6, 12, 25, 50))  # how large it may grow
        self.loops = 0
        self.macros = []

    def pick(self, items):
        return items[self.r.randrange(len(items))]

    def chance(self, p):
        return self.r.random() < p

    # ---- expressions

    def fill(self, form):
        """A form whose holes are {s} a string, {s!} no empty one, {k} a small number, {k1} above 0, {i} {f} {l} an int, float or list, {a} anything, {A} an attribute, {F} a filter,
        {T} a test, {strs} what joins, {{}} a dict."""
        return HOLE.sub(lambda found: self.hole(found[1]), form)

    def hole(self, name):
        kinds = {"s": "str", "i": "int", "f": "float", "l": "list", "a": None}
        if name in kinds:
            return self.expression(kinds[name])
        if name[0] == "k":
            return str(self.r.randint(1, 9) if name == "k1" else self.r.randint(-1, 12))
        return self.pick({"s!": ("','", "' '", "'l'", "'\\n'", "'ab'", "s"), "A": [x.split("=")[-1] for x in ATTRIBUTES], "F": SIMPLE_FILTERS, "T": SIMPLE_TESTS,
                          "strs": ("strs", "s", "['x', 'y']", "nums", "map"), "{}": ("{}",)}[name])

    def atom(self, kind):
        if kind == "int" and self.chance(0.5):
            return self.pick(("0", "1", "2", "-1", "10", "0x1F", "1_000", "0b11", "0o7", str(self.r.randint(-9, 99))))
        if kind == "float" and self.chance(0.5):
            return self.pick(("0.5", "1.0", "1e3", "2.5e-3", "1_0.5", "-0.0", "3.14159", "1e15", "1e17", repr(self.r.uniform(-100, 100))))
        if kind == "str" and self.chance(0.5):
            return self.pick(("'a'", '"b"', "'it\\'s'", "'\\n\\t'", "'\\\\'", "'\\x41\\u00e9'", "'a' 'b'", "''", "'<&>'", "'%'", "'l'", "' '", "'o'", "'\u00e9'"))
        if kind == "bool" and self.chance(0.5):
            return self.pick(("true", "false", "True", "False"))
        return self.pick(OF_TYPE[kind])

    def expression(self, kind=None, depth=0):
        self.budget -= 1
        kind = kind or self.pick(("int", "int", "float", "str", "str", "str", "bool", "list", "list", "dict", "none", "undefined"))
        if self.chance(0.015):
            kind = self.pick(list(OF_TYPE))
        if self.budget <= 0 or depth > 4 or self.chance(0.25) or kind in ("none", "undefined"):
            return self.atom(kind)
        return getattr(self, "make_" + kind)(depth + 1)

    def around(self, text):
        return f"({text})" if self.chance(0.7) else text

    def part(self, kind, depth):
        text = self.expression(kind, depth)
        return text if text.isidentifier() else f"({text})"

    def make_int(self, depth):
        k = self.r.randrange(9)
        if k == 0:
            return f"{self.expression('int', depth)} {self.pick(('//', '%'))} {self.pick(('2', '3', '-7', 'i', 'j', '10', self.part('int', depth)))}"
        if k < 3:
            return self.around(f"{self.expression('int', depth)} {self.pick('+-*')} {self.expression('int', depth)}")
        if k == 3:
            return f"{self.part(self.pick(('str', 'list', 'dict')), depth)} | {self.pick(('length', 'count', 'length', 'list | length'))}"
        if k == 4:
            return f"{self.pick('-+')}{self.part('int', depth)}"
        if k == 5:
            return f"{self.part('int', depth)} ** {self.pick(('2', '3', '0', 'i'))}"
        if k == 6:
            return f"{self.part(self.pick(('str', 'float', 'bool', 'int')), depth)} | int{self.pick(('', '', '(-1)'))}"
        if k == 7:
            return self.condition("int", depth)
        return f"{self.part('str', depth)}.{self.fill(self.pick(('find({s})', 'count({s})', 'rfind({s})')))}"

    def make_float(self, depth):
        k = self.r.randrange(5)
        if k < 2:
            return self.around(f"{self.expression(self.pick(('int', 'float')), depth)} {self.pick(('/', '*', '+', '-', '//', '%'))} {self.pick(('f', 'g', '4', '0.3', self.part('float', depth)))}")
        if k == 2:
            return f"{self.expression('int', depth)} / {self.pick(('i', '3', '-8', self.part('int', depth)))}"
        return f"{self.part(self.pick(('float', 'int')), depth)} | {self.fill(self.pick(NUMBER_FILTERS))}"

    def make_str(self, depth):
        k = self.r.randrange(12)
        if k < 2:
            return self.around(f"{self.expression('str', depth)} + {self.expression('str', depth)}")
        if k == 2:
            return f"{self.part(None, depth)} ~ {self.part(None, depth)}"
        if k == 3:
            return self.part("str", depth) + self.subscript()
        if k < 6:
            return f"{self.part('str', depth)}.{self.fill(self.pick(STRING_METHODS))}"
        if k < 9:
            return f"{self.part('str', depth)} | {self.fill(self.pick(STRING_FILTERS))}"
        if k == 9:
            return self.condition("str", depth)
        if k == 10:
            return self.percent(depth)
        return self.pick(BRACES) + self.fill(self.pick((".format(i, f, k=s)", ".format({i}, {s}, k=s)", ".format({f}, j, k={a})", ".format({s}, {f}, k=nums)", ".format({a}, {a}, k={a})")))

    def percent(self, depth):
        if self.chance(0.2):
            return self.pick(("'%(a)s %(b)r'", "'%(items)s %(b)5d'", "'%s'", "'%(nope)s'")) + " % map"
        form, kinds = self.pick(FORMATS)
        kind = {"a": None, "i": "int", "f": "float", "s": "str"}
        if len(kinds) == 1 and self.chance(0.5):
            return f"{form} % {self.part(kind[kinds], depth)}"
        return f"{form} % ({''.join(self.expression(kind[k], depth) + ', ' for k in kinds).removesuffix(' ')})"

    def make_bool(self, depth):
        k = self.r.randrange(8)
        if k < 2:
            kind = self.pick(("int", "float", "str", "list", "bool", None))
            return self.around(f"{self.expression(kind, depth)} {self.pick(('==', '!=', '<', '<=', '>', '>='))} {self.expression(kind, depth)}")
        if k == 2:
            return f"{self.part(None, depth)} {self.pick(('in', 'not in'))} {self.part(self.pick(('list', 'str', 'dict')), depth)}"
        if k == 3:
            return f"not {self.part(None, depth)}"
        if k == 4:
            return self.around(f"{self.expression('bool', depth)} {self.pick(('and', 'or'))} {self.expression(None, depth)}")
        if k == 5:
            return f"{self.expression('int', depth)} < {self.expression('int', depth)} {self.pick(('<', '==', '!=', '>='))} {self.expression('int', depth)}"
        return f"{self.part(None, depth)} is {self.fill(self.pick(TESTS))}"

    def make_list(self, depth):
        k = self.r.randrange(9)
        if k == 0:
            return f"[{', '.join(self.expression(None, depth) for _ in range(self.r.randrange(4)))}]"
        if k == 1:
            return f"({', '.join(self.expression(None, depth) for _ in range(self.r.randint(2, 3)))})"
        if k == 2:
            return self.part("list", depth) + self.subscript()
        if k == 3:
            return f"{self.part('list', depth)} + {self.part('list', depth)}"
        if k == 4:
            return self.fill(f"range({self.pick(('{k}', '{k}, {k}', '{k}, {k}, 2', '9, {k}, -3', '{i}, 3'))}){self.pick((' | list', ' | list', '', ' | join', '[1:]', ' | sum'))}")
        if k == 5:
            return f"{self.part('list', depth)}.{self.fill(self.pick(LIST_METHODS))}"
        if k == 6:
            return f"{self.part('list', depth)} * {self.pick(('2', '0', '-1', 'zero'))}"
        return f"{self.part('list', depth)} | {self.fill(self.pick(LIST_FILTERS))}"

    def make_dict(self, depth):
        k = self.r.randrange(5)
        if k == 0:
            return "{" + ", ".join(f"{self.expression(self.pick(('str', 'int', 'bool')), depth)}: {self.expression(None, depth)}" for _ in range(self.r.randrange(4))) + "}"
        if k == 1:
            return self.fill(self.pick(("dict(a={a}, b={a})", "dict(map, z={a})", "dict([('k', {a})])", "namespace(a={a}).a", "dict()")))
        if k == 2:
            return f"{self.part('dict', depth)} | {self.fill(self.pick(DICT_FILTERS))}"
        if k == 3:
            return self.part("dict", depth) + self.pick((".a", "['b']", "[s]", "['x'].y", ".x.y[0].z", ".items", "['items']", ".keys", "[0]", "[none]", "['']"))
        return f"{self.part('dict', depth)}.{self.fill(self.pick(DICT_METHODS))}"

    def condition(self, kind, depth):
        text = f"{self.expression(kind, depth)} if {self.part('bool', depth)}"
        return f"({text} else {self.expression(None, depth)})" if self.chance(0.8) else f"({text})"

    def subscript(self):
        bound = lambda: self.pick(("", str(self.r.randint(-4, 6)), "none", "i"))  # noqa: E731
        k = self.r.randrange(4)
        if k == 0:
            return f"[{self.r.randint(-4, 6)}]"
        if k == 1:
            return f"[{bound()}:{bound()}]"
        return f"[{bound()}:{bound()}:{self.pick(('', '1', '2', '-1', '-2', '3', '0'))}]" if k == 2 else self.pick((".0", "['a']", "[s]", "[f]", "[true]", "[1:2]"))

    # ---- statements

    def tag(self, text):
        """A tag with its signs and the white space that they eat or keep."""
        return "{%" + self.pick(("", "", "-", "+", "-")) + self.pick((" ", " ", "", "\n")) + text + self.pick((" ", " ", "", "\t")) + self.pick(("", "", "-", "+", "-")) + "%}"

    def print_(self, text):
        space = " " if text.startswith("{") or text.endswith("}") or self.chance(0.8) else ""
        return "{{" + self.pick(("", "", "-")) + space + " " * (text[0] in "-+") + text + " " + self.pick(("", "", "-")) + "}}"

    def data(self):
        return self.pick(("\n", " ", "  \n", "\n  ", "text", "a b\n", "\t", "", "\n\n", "<p>", "\r\n", "{ }", "% }", "\u00e9 ", "# x\n"))

    def block(self, depth=0):
        out = [self.data()]
        for _ in range(self.r.randint(1, 3)):
            out += [self.statement(depth), self.data()]
        return "".join(out)

    def statement(self, depth):
        self.budget -= 1
        k = self.r.randrange(18 if depth < 3 and self.budget > 0 else 5)
        if k < 5:
            return self.print_(self.expression())
        if k < 8:
            return self.if_(depth + 1)
        if k < 11:
            return self.for_(depth + 1)
        if k == 11:
            return self.tag(f"set {self.pick(('s', 'i', 'new', 'nums', 'a, b'))} = {self.expression()}")
        if k == 12:
            return self.tag(f"set {self.pick(('s', 'new'))}{self.pick(('', ' | upper', ' | trim | length'))}") + self.block(depth + 1) + self.tag("endset")
        if k == 13:
            return self.macro(depth + 1)
        if k == 14:
            return self.tag(f"with {self.pick(('i', 'new'))} = {self.expression()}{self.pick(('', ', s = i', ', t = none'))}") + self.block(depth + 1) + self.tag("endwith")
        if k == 15:
            return self.tag(self.pick(("filter upper", "filter trim", "filter replace('a', '4')", "filter indent(2) | trim"))) + self.block(depth + 1) + self.tag("endfilter")
        if k == 16:
            return self.pick(("{# note #}", "{#- {{ x }} -#}", "{#+ \n +#}", "{#\n{% if %}\n#}", self.tag("raw") + "{{ x }}{% y %}" + self.tag("endraw"))).replace("+raw", "raw").replace("{%+ raw", "{% raw")
        return self.tag("set ns = namespace(n=0, s='')") + self.tag(f"for k in {self.expression('list')}") + self.tag("set ns.n = ns.n + 1") + self.block(depth + 1) + self.tag("endfor") + "{{ ns.n }}"

    def if_(self, depth):
        out = [self.tag(f"if {self.expression(self.pick(('bool', None)))}"), self.block(depth)]
        while self.chance(0.3):
            out += [self.tag(f"elif {self.expression('bool')}"), self.block(depth)]
        if self.chance(0.5):
            out += [self.tag("else"), self.block(depth)]
        return "".join(out) + self.tag("endif")

    def for_(self, depth):
        kind = self.pick(("list", "list", "dict", "str"))
        target, over = self.pick((("k", self.expression(kind)), ("k", self.expression(kind)), ("k, v", "map | items"), ("k, v", "map.items()"), ("k", "range(4)"), ("k, v", self.expression("list")), ("row", "rows | sort(attribute='v')")))
        head = f"for {target} in {over}"
        if self.chance(0.3):
            head += f" if {self.pick(('k', 'k is string', 'loop is defined', 'k != 2', self.expression('bool')))}"
        inside = self.pick(("{{ k }}", "{{ loop.index }}", "{{ loop.last }}", "{{ loop.revindex0 }}{{ loop.length }}", "{{ loop.previtem }}", "{{ loop.nextitem is defined }}", "{{ loop.cycle(1, 'x') }}", "{{ loop.changed(k) }}", "{{ k ~ v }}",
                            "{% if loop.index > 2 %}{% break %}{% endif %}", "{% if k %}{% continue %}{% endif %}", "{{ loop.depth }}{{ loop.first }}", ""))
        out = self.tag(head) + self.block(depth) + inside + self.data()
        if self.chance(0.25):
            out += self.tag("else") + self.block(depth)
        return out + self.tag("endfor")

    def macro(self, depth):
        name = self.pick(("one", "two", "three"))
        uses = self.pick(("", "{{ varargs }}", "{{ kwargs }}", "{{ caller() }}", "{{ caller(1) if caller else '-' }}", "{{ a }}"))
        out = self.tag(f"macro {name}({self.pick(('', 'a', 'a, b=1', 'a=i, b=a', 's'))})") + self.block(depth) + uses + self.tag("endmacro")
        for _ in range(self.r.randint(0, 2)):
            arguments = self.pick(("", self.expression(), f"a={self.expression()}", f"1, {self.expression()}", "1, 2, 3", "b=2", "*nums", "**{'a': 1}"))
            if self.chance(0.3):
                out += self.tag(self.pick((f"call {name}({arguments})", f"call(x) {name}({arguments})", f"call(x=2) {name}({arguments})"))) + "{{ x }}" + self.data() + self.tag("endcall")
            else:
                out += self.print_(f"{name}({arguments})" + self.pick(("", "", " | upper", " ~ s", " | length")))
        return out


def template(seed):
    g = Grammar(seed)
    return g.print_(g.expression()) if g.chance(0.5) else g.block()
