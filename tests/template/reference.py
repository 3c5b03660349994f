"""What a chat template gives in Python: jinja2 set up as transformers' apply_chat_template does it, with a fixed clock."""
import datetime
import json
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox

warnings.simplefilter("ignore", SyntaxWarning)  # of the Python that jinja2 compiles templates to
NOW = 1_772_359_509  # 2026-03-01 10:05:09 UTC, so that days and hours have one digit


class Raised(Exception):
    """raise_exception was called, with this text."""


class Generation(jinja2.ext.Extension):
    """{% generation %} … {% endgeneration %} marks what a model wrote; it renders as what stands in it, a scope of its own."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("pass_through"), [], [], body).set_lineno(line)

    def pass_through(self, caller):
        return caller()


class Dictionary:
    """The global `dict`: it makes a dict and hides the type."""

    def __call__(self, *args, **kwargs):
        return dict(*args, **kwargs)

    def fromkeys(self, *args, **kwargs):
        return dict.fromkeys(*args, **kwargs)


class Namespace(jinja2.utils.Namespace):
    """No member of a namespace begins with an underscore."""

    def __init__(*args, **kwargs):
        self, members = args[0], dict(*args[1:], **kwargs)
        for name in members:
            Namespace.check(name)
        jinja2.utils.Namespace.__init__(self, members)

    def __setitem__(self, name, value):
        Namespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"{name!r} on a namespace")


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise Raised(str(message))


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).replace(tzinfo=None).strftime(form)
    env.globals["dict"] = Dictionary()
    env.globals["namespace"] = Namespace
    return env


ENVIRONMENT = environment()


def compiled(source):
    """The template, or the refusal that `render` would give for it."""
    try:
        return ENVIRONMENT.from_string(source)
    except Exception as error:  # noqa: BLE001: whatever Python raises is a refusal
        return "refused", f"{type(error).__name__}: {error}"


def render(template, variables):
    """("text", it), ("raised", what raise_exception said) or ("refused", why)."""
    if isinstance(template, tuple):
        return template
    try:
        text = template.render(**variables)
        text.encode()  # half of a surrogate pair is no text
        return "text", text
    except Raised as error:
        return "raised", str(error)
    except Exception as error:  # noqa: BLE001
        return "refused", f"{type(error).__name__}: {error}"
