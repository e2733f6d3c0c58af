"""Checkpoints that are cut, damaged, foreign or changed by hand are refused, by the name of the file."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from emo_ray import durable, store
from emo_ray.config import Config, override
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.models.checkpoint_files import CALIBRATION, CONFIG, LABELS, SEEN, WEIGHTS
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state

SETTINGS = override(Config(), {"fusion.hidden": 4, "emovclip.clip": "mini_clip.json"})
CLASSES = ("a", "b")
DEEP = 100_000


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of a small head, with its digests."""
    torch.manual_seed(0)
    head = FusionHead(SETTINGS.fusion, {"text": torch.stack([torch.zeros(3), torch.tensor([1.0, 2.0, torch.inf])])}, 2)

    def fill(temporary):
        checkpoint.write(temporary, trained_state(head), SETTINGS, CLASSES, "card")
        durable.write_text(temporary / SEEN, json.dumps({"clip-1": "train"}))
        return checkpoint_files.digests(temporary)

    store.artefact(tmp_path / "model", {"kind": "checkpoint"}, fill)
    return tmp_path / "model"


def load(folder):
    return checkpoint_files.read_config(folder), checkpoint.load_fusion(folder)


def test_a_whole_checkpoint_is_loaded_wherever_it_lies(folder, tmp_path):
    assert load(folder)[0] == (SETTINGS, CLASSES)
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert checkpoint_files.has_digests(moved)
    text = (moved / CONFIG).read_text()
    assert "clip: mini_clip.json" in text
    (moved / CONFIG).write_text(text.replace("clip: mini_clip.json", "clip: /elsewhere/mini_clip.json"))
    assert load(moved)[0][0].emovclip.clip == "/elsewhere/mini_clip.json"  # models move


def test_a_checkpoint_of_an_earlier_version_has_no_digests_and_is_loaded(folder):
    meta = store.read_meta(folder)
    durable.write_text(folder / store.META, json.dumps({name: meta[name] for name in meta if name != "digests"}))
    assert not checkpoint_files.has_digests(folder)
    assert load(folder)[0] == (SETTINGS, CLASSES)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"temperature": "warm"}', '{"temperature": -1}', "NaN"])
def test_a_temperature_is_a_positive_number_or_none(folder, content):
    assert checkpoint_files.read_calibration(folder) is None
    durable.write_text(folder / CALIBRATION, json.dumps({"temperature": 1.5}))
    assert checkpoint_files.read_calibration(folder) == {"temperature": 1.5}
    durable.write_text(folder / CALIBRATION, content)
    with pytest.raises(ValueError, match=CALIBRATION):
        checkpoint_files.read_calibration(folder)


@pytest.mark.parametrize("name", [WEIGHTS, LABELS])
def test_no_flipped_bit_is_read_as_if_it_were_right(folder, name):
    content, dice = (folder / name).read_bytes(), np.random.default_rng(0)
    read = checkpoint.read_weights if name == WEIGHTS else checkpoint_files.read_config
    for place, bit in zip(dice.integers(len(content), size=300), dice.integers(8, size=300), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        (folder / name).write_bytes(flipped)
        with pytest.raises(ValueError, match=f"model/{name}: found"):
            read(folder)


def test_no_flipped_bit_of_a_config_changes_what_decides(folder):
    content, dice = (folder / CONFIG).read_bytes(), np.random.default_rng(1)
    expected, taken = checkpoint_files._settings_digest(folder), 0
    for place, bit in zip(dice.integers(len(content), size=40), dice.integers(8, size=40), strict=True):
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        (folder / CONFIG).write_bytes(flipped)
        try:
            load(folder)
        except ValueError:
            continue
        taken += 1  # such as in a path, or in where the model was trained
        assert checkpoint_files._settings_digest(folder) == expected
    assert taken < 40


def test_labels_are_tied_to_the_weights(folder):
    (folder / LABELS).write_text('["b", "a"]')
    with pytest.raises(ValueError, match=r"labels\.json: .*digest .*changed by hand"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (WEIGHTS, b""),
        (WEIGHTS, b"not weights"),
        (WEIGHTS, (8 + DEEP).to_bytes(8, "little") + b"[" * (8 + DEEP)),
        (WEIGHTS, (2**60).to_bytes(8, "little") + b"{}"),
        (LABELS, b""),
        (LABELS, b"\xff\xfe"),
        (LABELS, b"3"),
        (LABELS, b"[]"),
        (LABELS, b'{"a": 1}'),
        (LABELS, b"[1, 2]"),
        (LABELS, b"[" * DEEP + b"]" * DEEP),
        (CONFIG, b"\xff\xfe\x00"),
        (CONFIG, b"[1, 2]"),
        (CONFIG, b"{a: " * DEEP),
        (CONFIG, b"no_such_section: {x: 1}"),
        (store.META, b""),
        (store.META, b"[]"),
        (store.META, b'{"digests": 3}'),
        (store.META, b'{"digests": {"model.safetensors": [1]}}'),
        (store.META, b'{"a":' * DEEP),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value[:12]),
)
@pytest.mark.parametrize("has_digests", [True, False])
def test_what_is_foreign_is_one_message(folder, name, content, has_digests):
    if not has_digests and name != store.META:
        (folder / store.META).unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(ValueError, match=name if name != CONFIG else "config|no_such") as error:
        load(folder)
    assert type(error.value) in (ValueError, store.DamagedFile)  # which jobs print as one message
    assert len(str(error.value)) < 1000


def test_a_cut_file_of_weights_is_named(folder):
    content = (folder / WEIGHTS).read_bytes()
    (folder / store.META).unlink()
    for length in (4, 100, len(content) - 1):
        (folder / WEIGHTS).write_bytes(content[:length])
        for read in (checkpoint.load_fusion, checkpoint_files.weight_names):
            with pytest.raises(ValueError, match=r"model\.safetensors: found no weights"):
                read(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classify.bias", torch.tensor([0.0, torch.nan])),
        ("classify.weight", torch.full((2, 4), torch.inf)),
        ("scaling_text", torch.tensor([[torch.inf, 0, 0], [1.0, 1, 1]])),
        ("scaling_text", torch.tensor([[0.0, 0, 0], [1, 1, torch.nan]])),
    ],
)
def test_values_that_are_not_finite_are_refused(folder, tmp_path, name, value):
    state = load_file(folder / WEIGHTS) | {name: value}
    save_file(state, folder / WEIGHTS)
    (folder / store.META).unlink()
    for act in (lambda: load(folder), lambda: checkpoint.write(tmp_path, state, SETTINGS, CLASSES, "card")):
        with pytest.raises(ValueError, match=f"{WEIGHTS}: .*not finite in 1 .*{name}"):
            act()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classify.weight", torch.ones(2, 4, dtype=torch.int64)),
        ("scaling_text", torch.ones(3)),
        ("scaling_text", torch.ones(2, 5)),
        ("absent_MH", torch.ones(3, 5)),
    ],
)
def test_tensors_of_other_shapes_and_kinds_do_not_fit(folder, name, value):
    save_file(load_file(folder / WEIGHTS) | {name: value}, folder / WEIGHTS)
    (folder / store.META).unlink()
    with pytest.raises(ValueError, match=r"model: .*do not fit"):
        load(folder)
