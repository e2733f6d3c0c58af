"""Archives give the tensors that torch gives, and nothing in them runs."""

import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from emo_ray.experiments.chaos.strangers import Hostile
from emo_ray.models.clip_archive import is_archive, read_archive
from emo_ray.models.clip_weights import read_state

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # the format is OpenAI's choice


class Inner(nn.Module):
    """A module with attributes that are no part of its state."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.mask = torch.ones(2)
        self.sizes = [1, 2]
        self.names = {"a": 1}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * self.mask * self.sizes[0] * self.names["a"]


class Outer(nn.Module):
    """Modules in modules, shared numbers, views and kinds of numbers."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(Inner(), nn.BatchNorm1d(2))
        both = torch.randn(4, 6)
        self.register_buffer("whole", both)
        self.register_buffer("part", both[1:3, ::2])
        self.register_buffer("turned", torch.randn(2, 5).T)
        self.register_buffer("nothing", torch.empty(0))
        for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"):
            self.register_buffer(f"of_{name}", torch.ones(3).to(getattr(torch, name)))
        self.scale = nn.Parameter(torch.tensor(2.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x) * self.scale


def rewritten(path, changes, compression=zipfile.ZIP_STORED):
    """The same archive with other content in the records whose names end like the keys of `changes`."""
    target = path.with_name(f"changed-{path.name}")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w", compression) as archive:
        for name in source.namelist():
            end = next((end for end in changes if name.endswith(end)), None)
            archive.writestr(name, source.read(name) if end is None else changes[end])
    return target


@pytest.fixture
def archive(tmp_path):
    torch.manual_seed(0)
    torch.jit.script(Outer()).save(str(tmp_path / "outer.pt"))
    return tmp_path / "outer.pt"


def test_tensors_are_those_that_torch_loads(archive):
    expected, state = torch.jit.load(str(archive)).state_dict(), read_archive(archive)
    assert is_archive(archive)
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
        assert state[name].dtype == value.dtype


def test_a_program_in_an_archive_does_not_run(tmp_path):
    victim = tmp_path / "victim"
    torch.jit.script(Hostile(str(victim))).save(str(tmp_path / "hostile.pt"))
    assert not victim.exists()
    with pytest.raises(ValueError, match=r"hostile\.pt: .*input_resolution"):
        read_state(tmp_path / "hostile.pt")
    assert not victim.exists()
    torch.jit.load(str(tmp_path / "hostile.pt"))
    assert victim.exists()  # so the archive is one that does harm


class Program:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["archive", "torch.save"])
def test_a_program_in_a_pickle_does_not_run(archive, tmp_path, form):
    victim, path = tmp_path / "victim", tmp_path / "pickled.pt"
    if form == "archive":
        path = rewritten(archive, {"/data.pkl": pickle.dumps(Program(victim), protocol=2)})
    else:
        torch.save({"weight": Program(victim)}, path)
    with pytest.raises(ValueError, match=f"{path.name}: .*UnpicklingError"):
        read_state(path)
    assert not victim.exists()


def test_little_does_not_become_much(archive, tmp_path):
    with pytest.raises(ValueError, match="compressed"):
        read_archive(rewritten(archive, {}, zipfile.ZIP_DEFLATED))
    torch.save({"weight": torch.zeros(1)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as saved:
        content = saved.read("a/data.pkl")
    assert content.count(b"K\x01\x85") == 2  # size (1,) and stride (1,)
    huge = content.replace(b"K\x01\x85", b"J\xff\xff\xff\x7f\x85", 1).replace(b"K\x01\x85", b"K\x00\x85", 1)
    with pytest.raises(ValueError, match=r"2147483647.* on 1 numbers"):
        read_archive(rewritten(tmp_path / "a.pt", {"/data.pkl": huge}))


def test_a_damaged_archive_is_one_error(archive):
    content = archive.read_bytes()
    for cut in (len(content) // 3, len(content) - 30):
        archive.write_bytes(content[:cut])
        with pytest.raises(ValueError, match=r"outer\.pt: found no weights"):
            read_state(archive)
    generator = torch.Generator().manual_seed(0)
    for place in torch.randint(0, len(content), (60,), generator=generator).tolist():
        flipped = bytearray(content)
        flipped[place] ^= 1 << (place % 8)
        archive.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"outer\.pt: "):  # no CLIP at best
            read_state(archive)
