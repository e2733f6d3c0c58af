"""Faults of content: files cut, flipped, changed by hand or by time, and values that are not finite."""

import json
import math
import os
import random
import shutil
import wave
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from emo_ray import store
from emo_ray.experiments.chaos.contents import differences
from emo_ray.experiments.chaos.faults import check, fault
from emo_ray.experiments.chaos.running import Ended, finished, refused
from emo_ray.experiments.chaos.workshop import Workshop
from emo_ray.models import checkpoint_files
from emo_ray.models.checkpoint_files import CONFIG, EMOVCLIP, LABELS, WEIGHTS

_FLIPS = 2  # bits, each in a run of its own
_DEEP = 100_000  # levels of nested lists
_SOUND_SAMPLES = 8000  # of a clip of the two releases, at 16 kHz
# Kind of artefact -> the job that reads it first.
_READER = {"shards/*/part-*.parquet": "features", "features/*/part-*.parquet": "train"}


@fault("cut files", "named or made again; rerun equal")
def parts_cut_short(workshop: Workshop) -> str:
    """Parts of shards and features that are empty, or end in their middle, as after a power cut."""
    runs = 0
    for pattern, job in _READER.items():
        for share in (0.0, 0.5):
            path = _one_of(workshop, job, pattern)
            path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
            _is_made_again(workshop, job, path)
            runs += 1
    return f"{runs} of {runs} named and made again, reruns equal"


@fault("cut files", "named, set aside or made again; rerun equal")
def other_files_cut_short(workshop: Workshop) -> str:
    """Manifests, ledgers, meta.json and weights, cut in their middle; then verify mends, and the job goes on."""
    workshop.undisturbed("evaluate")
    words = []
    for pattern in ("prepared/*/*.parquet", "*/*/meta.json", "corpora/*/*.parquet", "checkpoints/*/*.safetensors"):
        workshop.open_store("evaluate")
        path = workshop.dice.choice(sorted(workshop.store.glob(pattern)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        name = path.relative_to(workshop.store).as_posix()
        report = workshop.run("verify")
        check(report.status == 2 and path.name in report.words, f"{name}: exit {report.status}: {report.words[-300:]}")
        mended = workshop.run("verify", "verify.mend=true")
        check("Traceback" not in mended.words, f"{name}: {mended.words[-300:]}")
        workshop.goes_on("evaluate")
        words.append(name.split("/")[0] + "/" + path.name)
    return f"verify names and sets aside {', '.join(words)}; reruns equal"


@fault("bit rot", "named and made again; rerun equal")
def bits_of_parts_flipped(workshop: Workshop) -> str:
    """Single bits of shards and features."""
    for pattern, job in _READER.items():
        for _ in range(_FLIPS):
            path = _one_of(workshop, job, pattern)
            _flip(path, workshop.dice)
            _is_made_again(workshop, job, path)
    count = _FLIPS * len(_READER)
    return f"{count} of {count} named and made again, reruns equal"


@fault("bit rot", "exit 2, 1 line that names the file")
def bits_of_weights_flipped(workshop: Workshop) -> str:
    """Single bits of a model's weights."""
    for _ in range(_FLIPS):
        workshop.after("train")
        path = workshop.model() / WEIGHTS
        _flip(path, workshop.dice)
        refused(workshop.run("predict"), WEIGHTS, lines=1)
    return f"{_FLIPS} of {_FLIPS}: exit 2, 1 line"


@fault("bit rot", "named and made again; rerun equal")
def bits_of_predictions_flipped(workshop: Workshop) -> str:
    """A bit of a part of predictions, which labelling reads."""
    workshop.undisturbed("pseudo_label")
    workshop.after("pseudo_label")
    path = workshop.dice.choice(sorted(workshop.store.glob("predictions/parts-*/part-*.parquet")))
    shutil.rmtree(workshop.store / "pseudo_labels")
    _flip(path, workshop.dice)
    _is_made_again(workshop, "pseudo_label", path)
    return "named and made again, rerun equal"


def _one_of(workshop: Workshop, job: str, pattern: str) -> Path:
    """A file of the store that a job starts from."""
    workshop.undisturbed(job)
    workshop.open_store(job)
    return workshop.dice.choice(sorted(workshop.store.glob(pattern)))


def _flip(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def _is_made_again(workshop: Workshop, job: str, path: Path) -> None:
    ended = finished(workshop.run(job))
    check(path.name in ended.words, f"{path.relative_to(workshop.store)} is not named")
    workshop.is_equal(job)


@fault("values that are not finite", "exit 2, 1 line that names the setting; no checkpoint")
def a_training_that_diverges(workshop: Workshop) -> str:
    """A learning rate of 1e30, with which the first epoch holds no number any more."""
    workshop.open_store("train")
    words = refused(workshop.run("train", "fusion.lr=1e30"), "fusion.lr", "finite", lines=1)
    models = list((workshop.store / "checkpoints").glob("model-*"))
    check(not models, "a model is stored")
    return f"{words}; no checkpoint"


@fault("values that are not finite", "exit 2, 1 line that names the file")
def nan_in_weights(workshop: Workshop) -> str:
    """A NaN in one bias, under digests that fit."""
    workshop.after("train")
    model = workshop.model()
    weights = load_file(model / WEIGHTS)
    bias = next(name for name, values in weights.items() if name.endswith("bias") and values.ndim == 1)
    weights[bias][0] = math.nan
    save_file(weights, model / WEIGHTS)
    _seal(model)
    return refused(workshop.run("predict"), WEIGHTS, "finite", lines=1)


@fault("checkpoints changed by hand", "exit 2, 1 line that names the file")
def labels_changed_by_hand(workshop: Workshop) -> str:
    """The names of the classes in another order."""
    workshop.after("train")
    path = workshop.model() / LABELS
    path.write_text(json.dumps(json.loads(path.read_text())[::-1]))
    return refused(workshop.run("predict"), LABELS, lines=1)


@fault("checkpoints of strangers", "exit 2, 1 line that names the file")
def checkpoints_cut_foreign_or_deep(workshop: Workshop) -> str:
    """Files of a checkpoint that are cut, of another kind, of another type, or nested 100,000 deep."""
    nested = ("[" * _DEEP + "]" * _DEEP).encode()
    cases = {
        WEIGHTS: (b"", b"\x89PNG\r\n" * 100, (2**60).to_bytes(8, "little") + b"{}", b"\x02\0\0\0\0\0\0\0{}"),
        LABELS: (b"", b'{"a": 1}', nested),
        CONFIG: (b"[1, 2]", nested, b"\xff\xfe"),
        store.META: (b"", b"3", nested),
    }
    count = 0
    for name, replacements in cases.items():
        for content in replacements:
            workshop.after("train")
            (workshop.model() / name).write_bytes(content)
            refused(workshop.run("predict"), name, lines=1)
            count += 1
    workshop.after("train")
    refused(workshop.run("predict", f"checkpoint={workshop.model() / EMOVCLIP}"), EMOVCLIP, lines=1)
    return f"{count + 1} of {count + 1}: exit 2, 1 line"


def _seal(model: Path) -> None:
    """Write the digests of a changed checkpoint, as its maker could."""
    meta = json.loads((model / store.META).read_text(encoding="utf-8"))
    (model / store.META).write_text(json.dumps(meta | checkpoint_files.digests(model)), encoding="utf-8")


@fault("identity", "the second release is read; equal to a store of its own")
def two_releases_of_equal_names_sizes_and_times(workshop: Workshop) -> str:
    """PCM of fixed length: only the sound differs."""
    corpus = workshop.scratch / "corpus"
    corpus.mkdir()
    words = f"data.manifest={corpus}"
    answers = []
    for release in range(2):
        _write_sounds(corpus, release)
        answers.append(_shards(workshop, finished(workshop.run("prepare", words))))
    shutil.rmtree(workshop.store)
    alone = _shards(workshop, finished(workshop.run("prepare", words)))
    check(answers[0] != answers[1], "the second release gets the first's sound")
    difference = differences(alone, answers[1])
    check(not difference, difference)
    return "both are read, and the second is equal to a store of its own"


def _write_sounds(folder: Path, release: int) -> None:
    generator = np.random.default_rng(release)
    for i in range(4):
        path = folder / f"clip-{i}.wav"
        with wave.open(str(path), "wb") as sound:
            sound.setnchannels(1)
            sound.setsampwidth(2)
            sound.setframerate(16_000)
            sound.writeframes(generator.integers(-9000, 9000, _SOUND_SAMPLES).astype("<i2").tobytes())
        os.utime(path, (1, 1))


def _shards(workshop: Workshop, ended: Ended) -> dict[str, str]:
    """Name -> digest of the shard parts that a prepared corpus consists of."""
    meta = store.read_meta(Path(ended.answer.strip()))
    folder = workshop.store / "shards" / meta["shards"]
    return {name: store.digest_path(folder / name) for name in meta["parts"]}
