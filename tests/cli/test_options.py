"""The command line: help, mistakes, and what is said about them."""
import re

import pytest

from conftest import ROOT, flash_moe

COMMANDS = ["run", "chat", "info", "plan", "perplexity", "compare", "dump", "pack", "verify", "synth", "bench", "trace", "replay"]


def usage_error(*arguments):
    """The sentence that these arguments give."""
    result = flash_moe(*arguments)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("flash-moe: ") and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.rstrip("\n")[-1] in ".?", result.stderr
    return result.stderr[len("flash-moe: "):-1]


def test_version():
    result = flash_moe("--version")
    version = re.search(r"version : '([0-9.]+)'", (ROOT / "meson.build").read_text())[1]
    assert (result.returncode, result.stdout, result.stderr) == (0, f"flash-moe {version}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_global_help(arguments):
    result = flash_moe(*arguments)
    assert (result.returncode, result.stderr) == (0, "")
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\w", result.stdout, re.M), command


def test_no_arguments_explains_itself():
    result = flash_moe()
    assert result.returncode == 2 and result.stdout == ""
    assert "Examples" in result.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command):
    result = flash_moe(command, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"flash-moe {command}: ")
    assert f"\n  flash-moe {command} " in result.stdout
    assert "Examples\n  flash-moe" in result.stdout or "Examples" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 110
    for same in (["help", command], [command, "-h"], [command, "models/ember", "--help"], [command, "--json", "-h"] if command not in ("chat", "dump", "synth", "trace") else [command, "-h"]):
        assert flash_moe(*same).stdout == result.stdout, same


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_help_is_known(command):
    """Each is accepted by the parser: what is wrong is its value or the missing MODEL, not its name."""
    options = re.findall(r"^  (?:-\w, |    )--([a-z-]+)( \S+)?", flash_moe(command, "--help").stdout, re.M)
    assert len(options) > 2
    for name, value in options:
        if name in ("help", "list"):  # these answer
            continue
        message = usage_error(command, f"--{name}={'?' * 3}" if value else f"--{name}")
        assert "unknown" not in message, message
        if value:
            if value.startswith(" ["):
                continue  # it may be without
            assert "takes no value" not in usage_error(command, f"--{name}=x")
            assert usage_error(command, "m", f"--{name}").startswith(f"--{name} needs a value: --{name} {value.strip()}")
        else:
            assert "takes no value" in usage_error(command, f"--{name}=x")


@pytest.mark.parametrize("arguments, message", [
    (["runn"], "unknown command 'runn'; did you mean run?"),
    (["perplexty", "x"], "unknown command 'perplexty'; did you mean perplexity?"),
    (["frobnicate"], "unknown command 'frobnicate'; flash-moe --help lists them."),
    (["help", "pln"], "unknown command 'pln'; did you mean plan?"),
    (["--temp", "1"], "unknown option --temp; the command comes first, as in flash-moe run MODEL."),
    (["run", "m", "--tmep", "1"], "unknown option --tmep; did you mean --temp?"),
    (["run", "m", "--tmep=1"], "unknown option --tmep; did you mean --temp?"),
    (["run", "m", "--temperature", "1"], "unknown option --temperature; did you mean --temp?"),
    (["run", "m", "--top_k", "1"], "unknown option --top_k; did you mean --top-k?"),
    (["run", "m", "--hepl"], "unknown option --hepl; did you mean --help?"),
    (["run", "m", "--zzzzzz"], "unknown option --zzzzzz; flash-moe run --help lists them."),
    (["run", "m", "--" + "z" * 300], "unknown option --" + "z" * 300 + "; flash-moe run --help lists them."),
    (["run", "m", "--="], "unknown option --; flash-moe run --help lists them."),
    (["run", "m", "-x"], "unknown option -x; flash-moe run --help lists them."),
    (["info", "m", "--temp", "1"], "unknown option --temp; flash-moe info --help lists them."),
    (["run"], "run needs MODEL, the directory of a model: flash-moe run MODEL -p TEXT | -f FILE | - [options]."),
    (["info", "--json"], "info needs MODEL, the directory of a model: flash-moe info MODEL [options]."),
    (["info", "a", "b"], "'b' is one word too many; a text of several words is put in quotes."),
    (["run", "a", "-p", "Once", "upon"], "'upon' is one word too many; the text to continue follows -p, in quotes."),
    (["run", "a"], "there is no text: give -p TEXT, -f FILE, or - for standard input."),
    (["run", "a", "-p", "x", "-"], "there is more than one text: give one of -p TEXT, -f FILE and -."),
    (["run", "a", "-p", "x", "-f", "y"], "there is more than one text: give one of -p TEXT, -f FILE and -."),
    (["perplexity", "a"], "there is no text: give -p TEXT, -f FILE, or - for standard input."),
    (["run", "a", "-p"], "-p needs a value: -p TEXT."),
    (["run", "a", "-n"], "-n needs a value: -n N."),
    (["run", "a", "--stats=yes"], "--stats takes no value, but has 'yes'."),
    (["dump", "a", "--ids", "1"], "dump needs -o FILE, the file to write."),
    (["dump", "a", "-o", "x"], "there is no text: give -p TEXT, -f FILE, or - for standard input."),
    (["dump", "a", "--ids", "1", "-p", "x", "-o", "x"], "give one of --ids, -p TEXT and -f FILE."),
    (["dump", "a", "--ids", "1,,2", "-o", "x"], "a token id needs a whole number from 0 to 2147483647, not ''."),
    (["dump", "a", "--ids", "1, 2", "-o", "x"], "a token id needs a whole number from 0 to 2147483647, not ' 2'."),
    (["dump", "a", "--ids", "-1", "-o", "x"], "a token id is -1, but must be from 0 to 2147483647."),
    (["perplexity", "a", "-p", "x", "--context", "100"], "--context is 100, but must be at least the --window of 512."),
])
def test_mistakes(arguments, message):
    assert usage_error(*arguments) == message


@pytest.mark.parametrize("option, value, message", [
    ("-n", "5x", "-n needs a whole number from -1 to 2147483647, not '5x'."),
    ("-n", "", "-n needs a whole number from -1 to 2147483647, not ''."),
    ("-n", " 5", "-n needs a whole number from -1 to 2147483647, not ' 5'."),
    ("-n", "1e3", "-n needs a whole number from -1 to 2147483647, not '1e3'."),
    ("-n", "-2", "-n is -2, but must be from -1 to 2147483647."),
    ("-n", "99999999999999999999", "-n is 99999999999999999999, but must be from -1 to 2147483647."),
    ("--temp", "warm", "--temp needs a number from 0 to 100, not 'warm'."),
    ("--temp", "nan", "--temp needs a number from 0 to 100, not 'nan'."),
    ("--temp", "inf", "--temp needs a number from 0 to 100, not 'inf'."),
    ("--temp", "0x1", "--temp needs a number from 0 to 100, not '0x1'."),
    ("--temp", "0.5.", "--temp needs a number from 0 to 100, not '0.5.'."),
    ("--temp", "--top-k", "--temp needs a number from 0 to 100, not '--top-k'."),
    ("--temp", "-0.1", "--temp is -0.1, but must be from 0 to 100."),
    ("--top-p", "1.5", "--top-p is 1.5, but must be from 0 to 1."),
    ("--min-p", "1.00001", "--min-p is 1.00001, but must be from 0 to 1."),
    ("--top-k", "-1", "--top-k is -1, but must be from 0 to 2147483647."),
    ("--repeat-penalty", "0", "--repeat-penalty is 0, but must be from 0.01 to 100."),
    ("--repeat-last", "-2", "--repeat-last is -2, but must be from -1 to 1048576."),
    ("--seed", "-1", "--seed is -1, but must be from 0 to 9223372036854775807."),
    ("--threads", "0", "--threads is 0, but must be from 1 to 1024."),
    ("--context", "0", "--context is 0, but must be from 1 to 16777216."),
    ("--kv", "foo", "--kv is one of bf16|f32|q8, not 'foo'."),
    ("--activations", "f16", "--activations is one of int8|f32, not 'f16'."),
    ("--activations", "int", "--activations is one of int8|f32, not 'int'."),
    ("--activations", "", "--activations is one of int8|f32, not ''."),
    ("--logit-bias", "5", "--logit-bias takes ID=BIAS such as 42=-100, not '5'."),
    ("--logit-bias", "x=1", "the ID of --logit-bias needs a whole number from 0 to 2147483647, not 'x'."),
    ("--logit-bias", "1=x", "the BIAS of --logit-bias needs a number from -1e+09 to 1e+09, not 'x'."),
    ("--memory", "0", "--memory is 0, but must be from 1 byte to 1048576T."),
    ("--memory", "9999999T", "--memory is 9999999T, but must be from 1 byte to 1048576T."),
    *[("--memory", bad, f"--memory needs a size such as 12G, 1.5G, 800M, 24MiB or bytes, not '{bad}'.")
      for bad in ("", "G", "12X", "12 G", "12GiBs", "12Gi", "1.5", "-1G", "1e", "nanG", "12iB", "0x10")],
])
def test_values(option, value, message):
    assert usage_error("run", "no-such-model", "-p", "x", option, value) == message
    if option.startswith("--"):
        assert usage_error("run", "no-such-model", "-p", "x", f"{option}={value}") == message


@pytest.mark.parametrize("text, size", [
    ("25165824", 25165824), ("24M", 24 << 20), ("24m", 24 << 20), ("24MiB", 24 << 20), ("24576K", 24 << 20), ("0.0234375G", 24 << 20), ("25165824B", 25165824),
    ("30MB", 30_000_000), ("0.03GB", 30_000_000), ("0.5T", 1 << 39), ("1e9", 10 ** 9),
])
def test_sizes(ember, text, size):
    """`plan --json` repeats the budget, whether it suffices or not."""
    import json
    assert json.loads(flash_moe("plan", ember, "--no-measure", "--json", "--context", 256, "--memory", text).stdout)["budget_bytes"] == size


def test_words_after_two_dashes_are_no_options(tmp_path):
    (tmp_path / "--json").mkdir()
    result = flash_moe("info", "--", "--json", cwd=tmp_path)
    assert result.returncode == 1 and "--json" in result.stderr


def test_the_later_option_wins_and_short_forms(ember):
    result = flash_moe("run", ember, "--raw", "--json", "-pOnce upon a time", "-n7", "-n=5", "-n", "3", "--temp", "0")
    assert result.returncode == 0, result.stderr
    assert '"tokens": 3,' in result.stdout
