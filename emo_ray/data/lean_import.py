"""Importing torchvision, timm and open_clip without torch's compiler, which nothing here uses.

They name it for a decorator and for one question, yet importing it takes half of the time that they take, and 110 MB
in every process. It is imported after all where one of them uses it.
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
    """Libraries that are imported in the block leave torch's compiler until they use it."""
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
