"""tools/screen_svg.py: attributes, places and escaping."""
import subprocess
import sys
import xml.dom.minidom

from conftest import ROOT


def draw(screen, *arguments):
    result = subprocess.run([sys.executable, ROOT / "tools" / "screen_svg.py", *arguments], input=screen, capture_output=True, text=True, timeout=30, check=True)
    return xml.dom.minidom.parseString(result.stdout)


def texts(picture):
    return {t.firstChild.data: t for t in picture.getElementsByTagName("text")}


def test_attributes_and_places():
    found = texts(draw("a <b>\033[1;32m> \033[0;2mdim\n\033[0mplain \033[3;4mit\033[23mu\033[39m\n", "--title", "one & two"))
    assert set(found) == {"one & two", "a <b>", "> ", "dim", "plain ", "it", "u"}
    assert found["> "].getAttribute("font-weight") == "bold" and found["> "].getAttribute("fill") and not found["a <b>"].getAttribute("fill")
    assert found["dim"].getAttribute("opacity") and not found["dim"].getAttribute("font-weight")
    assert found["it"].getAttribute("font-style") and not found["u"].getAttribute("font-style") and found["u"].getAttribute("text-decoration")
    x = {name: float(t.getAttribute("x")) for name, t in found.items() if name != "one & two"}
    assert x["a <b>"] == x["plain "] and round((x["dim"] - x["plain "]) / 8.4) == 7


def test_wide_characters_take_two_columns():
    found = texts(draw("\u4f60\u597d\033[1mx"))
    assert round((float(found["x"].getAttribute("x")) - float(found["\u4f60\u597d"].getAttribute("x"))) / 8.4) == 4
