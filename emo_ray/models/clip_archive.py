"""The tensors of a TorchScript archive, such as OpenAI's CLIPs, read without running anything that is in it.

`torch.jit.load` runs the `__setstate__` of the archive's classes, which may write files. An archive is a zip file: its
`data.pkl` is a pickle of nested modules, whose tensors lie in records of their own, and `code/` says which attributes
of a class are parameters and buffers. Here the pickle may make plain objects and tensors alone, and code is only read.
"""

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch

_DEEPEST = 50  # levels of modules in modules
_CODE_BYTES = 2**24  # of a file of code; OpenAI's have less than 2**20
_STATE = re.compile(r"__(?:parameters|buffers)__ = \[([^\]]*)\]")
_CLASS = re.compile(r"^class (\w+)\(Module\):$", re.MULTILINE)
_DTYPES = {
    **{"FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16},
    **{"BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32},
    **{"ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool},
}


def is_archive(path: Path) -> bool:
    """Whether a file is a TorchScript archive: a zip file like those of torch.save, but with code and its constants."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_archive(path: Path) -> dict[str, torch.Tensor]:
    """What `torch.jit.load(path).state_dict()` holds.

    Raises ValueError or an error of zipfile or pickle for archives with anything but modules and tensors.
    """
    with zipfile.ZipFile(path) as archive:
        record = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
        root = record.removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and _content(archive, f"{root}byteorder") != b"little":
            raise ValueError("found numbers in big-endian order, expected little-endian")
        with archive.open(_stored(archive, record)) as stream:
            module = _Unpickler(stream, archive, root).load()
        return _state(archive, root, module)


class _Storage(NamedTuple):
    """A record of numbers."""

    numbers: torch.Tensor  # of one dimension


class _Module:
    """What stands for an object of the archive's classes: its attributes, and no method of it."""

    qualified_name: ClassVar[str]

    def __setstate__(self, state: object) -> None:
        self.attributes: Mapping[Any, Any] = state if isinstance(state, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Unpickles modules and tensors; every other name in a pickle is refused."""

    def __init__(self, stream: Any, archive: zipfile.ZipFile, root: str):
        super().__init__(stream)
        self.archive, self.root, self.storages = archive, root, dict[str, _Storage]()

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for. Raises UnpicklingError for names that no module needs."""
        if module.split(".")[0] == "__torch__":
            return type("Module", (_Module,), {"qualified_name": f"{module}.{name}"})
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        raise pickle.UnpicklingError(f"found {module}.{name}, expected modules and tensors alone")

    def persistent_load(self, pid: Any) -> _Storage:
        """The record of numbers that a tensor names: `("storage", dtype, key, device, count)`."""
        _, dtype, key, _, count = pid
        if key not in self.storages:
            content = bytearray(_content(self.archive, f"{self.root}data/{key}"))
            numbers = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            self.storages[key] = _Storage(numbers)
        if len(self.storages[key].numbers) != count:
            raise ValueError(f"found {len(self.storages[key].numbers)} numbers in record {key}, expected {count}")
        return self.storages[key]


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> torch.Tensor:
    """A view of a record's numbers, as `torch._utils._rebuild_tensor_v2` makes it, but never larger than the record."""
    if torch.Size(size).numel() > len(storage.numbers):
        raise ValueError(f"found a tensor of shape {size} on {len(storage.numbers)} numbers, expected as many")
    return storage.numbers.as_strided(size, stride, offset)


_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("collections", "OrderedDict"): OrderedDict,
    **{
        ("torch.jit._pickle", f"build_{kind}list"): list  # attributes such as a list of sizes
        for kind in ("int", "double", "bool", "tensor")
    },
    ("torch.jit._pickle", "restore_type_tag"): lambda value, _: value,  # of lists and dicts
}


def _state(archive: zipfile.ZipFile, root: str, module: Any) -> dict[str, torch.Tensor]:
    """The parameters and buffers of nested modules by dotted name."""
    state: dict[str, torch.Tensor] = {}
    waiting, names_of = [("", module, 0)], dict[str, dict[str, set[str]]]()
    while waiting:
        prefix, module, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError(f"found modules nested more than {_DEEPEST} deep, expected a CLIP")
        file, _, kind = module.qualified_name.rpartition(".")
        if file not in names_of:
            names_of[file] = _names(archive, f"{root}code/{file.replace('.', '/')}.py")
        for name, value in getattr(module, "attributes", {}).items():
            if isinstance(value, _Module):
                waiting.append((f"{prefix}{name}.", value, depth + 1))
            elif isinstance(value, torch.Tensor) and name in names_of[file].get(kind, ()):
                state[f"{prefix}{name}"] = value
    return state


def _names(archive: zipfile.ZipFile, record: str) -> dict[str, set[str]]:
    """The parameters and buffers of each class in a file of code, as its text says."""
    code = _content(archive, record, _CODE_BYTES).decode()
    _, *parts = _CLASS.split(code)
    lists = {kind: _STATE.findall(body) for kind, body in zip(parts[::2], parts[1::2], strict=True)}
    return {kind: set(re.findall(r'"([^"]*)"', ",".join(texts))) for kind, texts in lists.items()}


def _content(archive: zipfile.ZipFile, record: str, most_bytes: int | None = None) -> bytes:
    """The bytes of a record. Raises ValueError for one that is too large."""
    info = _stored(archive, record)
    if most_bytes is not None and info.file_size > most_bytes:
        raise ValueError(f"found {info.file_size} bytes in {record}, expected at most {most_bytes}")
    return archive.read(info)


def _stored(archive: zipfile.ZipFile, record: str) -> zipfile.ZipInfo:
    """A record's entry. Raises ValueError where it is compressed: numbers are not, and little could become much."""
    info = archive.getinfo(record)
    is_code = "/code/" in record
    if info.compress_type != zipfile.ZIP_STORED and not is_code:
        raise ValueError(f"found {record} compressed, expected it as torch writes it")
    return info
