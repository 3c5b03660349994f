"""Writes the extension module's C source: native.py NATIVE.H NATIVE.C INCLUDE OUTPUT CC…. What Python sees are the public headers and native.h themselves, run through
the preprocessor."""
import re
import subprocess
import sys
from pathlib import Path

from cffi import FFI

# What cffi makes of Python functions, for the library to call.
CALLBACKS = """
extern "Python" int fmpy_progress(void *, const char *, uint64_t, uint64_t);
extern "Python" void fmpy_log(void *, int, const char *);
extern "Python" int fmpy_event(void *, const fm_event *);
"""


def declarations(headers, cc):
    text = re.sub(r"^#include .*$", "", "".join(h.read_text() for h in headers), flags=re.M)
    made = subprocess.run([*cc, "-E", "-P", "-x", "c", "-U__GNUC__", "-"], input=text, capture_output=True, text=True, check=True).stdout
    return re.sub(r"^static ", "", made, flags=re.M)


def main(header, source, include, output, *cc):
    ffi, header, include = FFI(), Path(header), Path(include)
    ffi.cdef(declarations([include / "flash_moe.h", include / "flash_moe_tools.h", header], cc) + CALLBACKS)
    ffi.set_source("flash_moe._native", header.read_text() + Path(source).read_text(), py_limited_api=True)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
