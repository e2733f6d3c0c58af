"""Importing torchvision, timm and open_clip without torch's compiler, with which nothing here is compiled.

They need it for a decorator and for one question, yet to import it takes as long as to import all the rest of them, and
110 MB in every process. Whoever of them uses it imports it then.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo"
_UTILS = f"{_COMPILER}.utils"
_LOCK = RLock()


@contextmanager
def without_compiler() -> Iterator[None]:
    """Libraries that are imported in the block leave torch's compiler until they use it.

    Another thread that imports the compiler meanwhile gets an ImportError: nobody here trains while models are built.
    """
    with _LOCK:
        if _COMPILER in sys.modules:
            yield
            return
        at_once, stand_in = torch.compiler.disable, ModuleType(_UTILS)
        vars(stand_in)["is_compile_supported"] = _is_compile_supported
        torch.compiler.disable, sys.modules[_UTILS] = _disable_at_need, stand_in
        try:
            yield
        finally:
            torch.compiler.disable = at_once
            if sys.modules.get(_UTILS) is stand_in:
                del sys.modules[_UTILS]


def _disable_at_need(fn: Callable | None = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """`torch.compiler.disable` as torch decorates its own functions: the compiler is imported at their first call."""
    return torch._disable_dynamo(fn, recursive)


def _is_compile_supported(device: str | torch.device) -> bool:
    """What torchvision asks before it compiles `roi_align`."""
    return importlib.import_module(_UTILS).is_compile_supported(device)
