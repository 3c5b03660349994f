"""The library as other programs use it: the examples, what `meson install` puts where, the header by itself, and as a subproject of another build."""
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ["FLASH_MOE_BUILD"])
EMBER = ROOT / "models" / "ember"
SANITIZED = os.environ.get("FLASH_MOE_SANITIZE", "none") != "none"


def output(*command, **more):
    result = subprocess.run([str(x) for x in command], capture_output=True, text=True, **more)
    assert result.returncode == 0, (command, result.stdout, result.stderr)
    return result.stdout


def example(name, *arguments):
    return output(BUILD / "examples" / f"example-{name}", *arguments)


def program(*arguments):
    return output(BUILD / "flash-moe", *arguments)


# ---- the examples ----

def test_generate_says_what_the_program_says():
    text = "Once upon a time"
    assert example("generate", EMBER, text).rstrip("\n") == program("run", EMBER, "--raw", "-p", text, "-n", 40, "--seed", 0, "--heat", "off").rstrip("\n") != ""


def test_stream_says_the_same_token_by_token():
    text = "The capital of Norway is"
    rows = re.findall(r"^(.{14}) +(\d+) %  +([\d.]+) KB from the disk$", example("stream", EMBER, text), flags=re.M)
    said = program("run", EMBER, "--raw", "-p", text, "-n", 16, "--temp", 0, "--heat", "off").rstrip("\n")
    assert len(rows) > 1 and "".join(r[0].rstrip() for r in rows) == said.replace("\n", "").rstrip()
    assert all(0 < int(r[1]) <= 100 for r in rows)


def test_a_batch_is_each_alone():
    texts = ["Once upon a time", "The capital of France is", "One day"]
    together = example("batch", EMBER, *texts)
    assert together == "".join(example("batch", EMBER, text) for text in texts)
    said = program("run", EMBER, "--raw", "-p", texts[0], "-n", 24, "--temp", 0, "--heat", "off")
    assert together.startswith(texts[0] + "|" + said)


def test_perplexity_is_the_program_s(tmp_path):
    text = tmp_path / "text"
    text.write_text((ROOT / "tests" / "cli" / "prompt.txt").read_text()[:1500])
    said = re.match(r'perplexity ([\d.]+) over (\d+) tokens; least expected: "', example("perplexity", EMBER, text))
    theirs = re.match(r"perplexity ([\d.]+): .* over (\d+) tokens", program("perplexity", EMBER, "-f", text, "--window", 256))
    assert abs(float(said[1]) - float(theirs[1])) < 6e-4 and said[2] == theirs[2] and int(said[2]) > 100


def test_a_tool_is_called_and_its_result_used():
    said = example("tool", EMBER, "What is the weather in Oslo?").splitlines()
    assert said[0] == 'get_weather({"city": "Oslo"})' and "12 degrees" in said[1] and len(said) == 2


@pytest.mark.skipif(not (BUILD / "examples" / "example-embed").exists(), reason="there is no C++ compiler")
def test_in_cpp():
    assert re.fullmatch(r"The capital of Norway is Oslo\.\n\[\d+ tokens\]\n", example("embed", EMBER, "What is the capital of Norway?"))
    result = subprocess.run([BUILD / "examples" / "example-embed", "none", "x"], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (1, "none: there is no such directory.\n")


def test_examples_are_short_and_close_what_they_open():
    for path in [p for p in (ROOT / "examples").iterdir() if p.suffix in (".c", ".cpp")]:
        text = path.read_text()
        assert text.count("\n") < 80, path
        for kind in ("engine", "session", "sampler", "chat"):
            assert not re.search(rf"fm_{kind}_open\(", text) or re.search(rf"fm_{kind}_close\b", text), (path, kind)


# ---- header, README and examples say the same ----

def comments(text):
    return "\n".join(line.removeprefix(" *").removeprefix(" ") for line in text.splitlines())


def test_the_program_in_the_header_is_the_example():
    header = comments((ROOT / "include" / "flash_moe.h").read_text())
    lines = (ROOT / "examples" / "generate.c").read_text().splitlines()
    program = "\n".join(("    " + line).rstrip() for line in lines[lines.index("#include <flash_moe.h>"):])
    assert program in header


def test_code_in_the_readme_is_in_the_examples():
    blocks = re.findall(r"^```(?:c|cpp)\n(.*?)^```", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    sources = [p.read_text() for p in (ROOT / "examples").iterdir() if p.suffix in (".c", ".cpp")]
    for block in blocks:
        assert any(block in text for text in sources), block


# ---- installed ----

@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    root = tmp_path_factory.mktemp("installed")
    output("meson", "install", "-C", BUILD, "--no-rebuild", "--destdir", root)
    prefix = next(p for p in root.rglob("flash-moe.pc")).parents[2]
    environment = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"), LD_LIBRARY_PATH=str(prefix / "lib"))

    def flags(*options):
        return output("pkg-config", f"--define-variable=prefix={prefix}", *options, "flash-moe", env=environment).split()
    return prefix, flags, environment


@pytest.mark.skipif(SANITIZED, reason="the library needs the sanitizers' run-time")
@pytest.mark.parametrize("static", [False, True], ids=["shared", "static"])
def test_an_installed_library_is_found_by_pkg_config(installed, tmp_path, static):
    prefix, flags, environment = installed
    link = [f"{prefix}/lib/libflash-moe.a" if x == "-lflash-moe" else x for x in flags("--libs", "--static")] if static else flags("--libs")
    output("cc", ROOT / "examples" / "generate.c", "-o", tmp_path / "generate", *flags("--cflags"), *link)
    libraries = output("readelf", "-d", tmp_path / "generate")
    assert ("libflash-moe.so.0" in libraries) != static
    environment = os.environ if static else environment
    assert output(tmp_path / "generate", EMBER, "Once upon a time", env=environment) == example("generate", EMBER, "Once upon a time")


def test_what_is_installed(installed):
    prefix, flags, _ = installed
    files = {str(p.relative_to(prefix)) for p in prefix.rglob("*") if not p.is_dir()}
    assert {"bin/flash-moe", "include/flash_moe.h", "include/flash_moe_tools.h", "lib/libflash-moe.a", "lib/libflash-moe.so", "lib/libflash-moe.so.0",
            "lib/pkgconfig/flash-moe.pc"} <= files
    assert not [f for f in files if "example" in f or "test" in f]
    version = re.search(r'#define FM_VERSION "(.*)"', (prefix / "include" / "flash_moe.h").read_text())[1]
    assert flags("--modversion") == [version]
    assert version in program("--version")


@pytest.mark.parametrize("language, standard", [("c", "c11"), ("c", "c17"), ("c++", "c++17")])
def test_the_headers_stand_alone(language, standard):
    for name in ("flash_moe.h", "flash_moe_tools.h"):
        subprocess.run(["cc", "-x", language, f"-std={standard}", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-I", ROOT / "include", "-"],
                       input=f"#include <{name}>\n", text=True, check=True)


# ---- inside of another build ----

@pytest.mark.skipif(SANITIZED, reason="one build of it is enough")
def test_as_a_subproject(tmp_path):
    (tmp_path / "subprojects").mkdir()
    (tmp_path / "subprojects" / "flash-moe").symlink_to(ROOT)
    shutil.copy(ROOT / "examples" / "generate.c", tmp_path)
    (tmp_path / "meson.build").write_text("""project('mine', 'c', default_options : ['optimization=0'])
executable('mine', 'generate.c', dependencies : dependency('flash-moe', fallback : 'flash-moe', default_options : ['default_library=static']))
""")
    output("meson", "setup", "build", cwd=tmp_path, env=dict(os.environ, PKG_CONFIG_PATH=""))
    output("ninja", "-C", "build", "mine", cwd=tmp_path)
    assert output(tmp_path / "build" / "mine", EMBER, "Once upon a time").startswith(", ")
