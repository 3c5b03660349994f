"""Writes the extension module's C source: native.py INCLUDE OUTPUT CC…. What Python sees are the public headers themselves, run through the preprocessor."""
import re
import subprocess
import sys
from pathlib import Path

from cffi import FFI

# What macros say, as functions; and callbacks, which cffi makes of Python functions.
SOURCE = """
#include <flash_moe_tools.h>
static void fmpy_engine_options(fm_engine_options *o) { *o = (fm_engine_options)FM_ENGINE_OPTIONS_INIT; }
static void fmpy_sampling(fm_sampling *o) { *o = (fm_sampling)FM_SAMPLING_INIT; }
static void fmpy_answer_options(fm_answer_options *o) { *o = (fm_answer_options)FM_ANSWER_OPTIONS_INIT; }
static void fmpy_chat_options(fm_chat_options *o) { *o = (fm_chat_options)FM_CHAT_OPTIONS_INIT; }
static void fmpy_pack_options(fm_pack_options *o) { *o = (fm_pack_options)FM_PACK_OPTIONS_INIT; }
static void fmpy_quality_options(fm_quality_options *o) { *o = (fm_quality_options)FM_QUALITY_OPTIONS_INIT; }
static void fmpy_trace_options(fm_trace_options *o) { *o = (fm_trace_options)FM_TRACE_OPTIONS_INIT; }
static void fmpy_pull_options(fm_pull_options *o) { *o = (fm_pull_options)FM_PULL_OPTIONS_INIT; }
static const char *fmpy_version(void) { return FM_VERSION; }
"""
CALLBACKS = """
extern "Python" int fmpy_progress(void *, const char *, uint64_t, uint64_t);
extern "Python" void fmpy_log(void *, int, const char *);
extern "Python" int fmpy_event(void *, const fm_event *);
extern "Python" int fmpy_logits(void *, int, const float *);
"""


def declarations(include, cc):
    text = "".join((include / name).read_text() for name in ("flash_moe.h", "flash_moe_tools.h"))
    text = re.sub(r"^#include .*$", "", text, flags=re.M)
    made = subprocess.run([*cc, "-E", "-P", "-x", "c", "-U__GNUC__", "-"], input=text, capture_output=True, text=True, check=True).stdout
    return made


def main(include, output, *cc):
    ffi = FFI()
    functions = re.sub(r"\{.*\}", ";", re.sub(r"^#.*$", "", SOURCE, flags=re.M)).replace("static ", "")
    ffi.cdef(declarations(Path(include), cc) + functions + CALLBACKS)
    ffi.set_source("flash_moe._native", SOURCE, py_limited_api=True)
    ffi.emit_c_code(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
