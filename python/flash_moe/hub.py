"""Models by their names on the Hugging Face hub: finding them in huggingface_hub's cache, and fetching them into it."""

from __future__ import annotations

import os
import re
from typing import Any, Callable, Optional, Union

from ._native import ffi, lib
from .errors import check, new_error
from .handle import Watcher, bar, to_path

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?\Z")


def _expand(path: str) -> str:
    return os.path.expanduser(path)


def _home() -> str:
    return _expand(os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"))


def _cache() -> str:
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expand(own) if own else os.path.join(_home(), "hub")


def _token() -> Optional[str]:
    own = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if own or os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").upper() in ("1", "ON", "YES", "TRUE"):
        return own.strip() if own else None
    try:
        with open(_expand(os.environ.get("HF_TOKEN_PATH") or os.path.join(_home(), "token"))) as file:
            return file.read().strip() or None
    except OSError:
        return None


def find(model: Union[str, "os.PathLike[str]"]) -> Union[str, "os.PathLike[str]"]:
    """The directory of a model: itself, or where `pull` put ORG/NAME."""
    if not isinstance(model, str) or not _NAME.match(model) or os.path.exists(model):
        return model
    path, error = ffi.new("char[]", 4096), new_error()
    check(lib.fm_pull_find(path, len(path), model.encode(), to_path(_cache()), error), error)
    return os.fsdecode(ffi.string(path))


def pull(name: str, progress: Union[Callable[[str, int, int], Any], bool, None] = None, retries: int = 0) -> str:
    """Fetches a model from the Hugging Face hub, "ORG/NAME" or "ORG/NAME@REVISION", into the cache that huggingface_hub has, and returns its directory. What is there already
    is not fetched again; each file's hash is checked. `retries`: failures in a row after which it gives up, 0: 10. HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_CACHE are heeded."""
    if not isinstance(name, str):
        raise TypeError(f"a model's name is text, not {type(name).__name__}")
    options, result, error = ffi.new("fm_pull_options *"), ffi.new("fm_pull_result *"), new_error()
    lib.fmpy_pull_options(options)
    watcher = Watcher(bar() if progress is True else progress or None, None)
    kept = [ffi.new("char[]", to_path(_cache()))]
    options.cache = kept[0]
    for field, value in (("endpoint", os.environ.get("HF_ENDPOINT")), ("token", _token())):
        if value:
            kept.append(ffi.new("char[]", value.encode()))
            setattr(options, field, kept[-1])
    user = ffi.new_handle(watcher)
    options.progress, options.user, options.n_retries = lib.fmpy_progress, user, retries
    code = lib.fm_pull(name.encode(), options, result, error)
    watcher.raise_if_any()
    check(code, error)
    return os.fsdecode(ffi.string(result.plan.path))
