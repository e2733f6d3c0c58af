"""A changed output without a raised version fails: stored artefacts would be taken for what the new code makes.

Every VERSION in emo_ray has a small output here and, in versions.json, that output's form and numbers when the version
was last raised. Form is a digest of everything exact: names, shapes, strings, and which values are absent. Numbers are
projections of the values on a few random directions, compared with a tolerance: processors add numbers up in different
orders, and a digest of rounded values flips whenever one of thousands lies near the edge of its rounding.
"""

import ast
import hashlib
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from emo_ray.config import Config, load, override
from emo_ray.config.job_settings import Annotate
from emo_ray.config.model_settings import SUBSETS
from emo_ray.data import media, tables
from emo_ray.data.batch import VideoBatch
from emo_ray.data.synthetic import LABELS
from emo_ray.experiments.bench.timing import Comparison, Figure
from emo_ray.experiments.claims import baselines, comparisons, trials
from emo_ray.models.clip import load_clip, tokenizer
from emo_ray.stages.chat import answer_log
from emo_ray.stages.crossvalidate import crossvalidate
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.self_train import self_train
from emo_ray.stages.tune import tune

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("versions.json")
DIRECTIONS, TOLERANCE = 6, 1e-3  # of a value's root mean square; other processors' noise is below a hundredth of it
_DIGEST = re.compile(r"[0-9a-f]{16,}")


class Print(NamedTuple):
    """What is kept of an output: a digest of what is exact, and the projections of each array."""

    form: str
    numbers: list[list[float]]


class Collector:
    """Takes an output apart: tables, arrays, and what JSON can say. Digests in strings count as equal."""

    def __init__(self):
        self.form, self.arrays, self.scalars = [], [], []

    def add(self, output: Any) -> None:
        """Take a value or a structure of values."""
        if isinstance(output, pa.Table):
            output = {name: output[name].to_pylist() for name in output.column_names}
        if isinstance(output, dict):
            self.form.append(f"names {sorted(output)}")
            for name in sorted(output):
                self.add(output[name])
        elif isinstance(output, np.ndarray):
            values = output.astype(np.float64).ravel()
            absent = np.packbits(np.isnan(values)).tobytes().hex()
            self.form.append(f"array {output.shape} {absent if np.isnan(values).any() else ''}")
            self.arrays.append(values[~np.isnan(values)])
        elif isinstance(output, (list, tuple)):
            self._add_list(output)
        elif isinstance(output, float):
            self.form.append("number")
            self.scalars.append(output)
        else:
            self.form.append(f"{type(output).__name__} {_DIGEST.sub('#', str(output))}")

    def _add_list(self, items: list | tuple) -> None:
        self.form.append(f"list {len(items)}")
        values = _flat(items)
        if any(_is_number(x) for x in values) and all(x is None or _is_number(x) for x in values):
            self.add(np.array([np.nan if x is None else x for x in values], np.float64))
        else:
            for item in items:
                self.add(item)

    def print(self) -> Print:
        """The form and numbers of what was added; single floats of any size are looked at together, as logarithms."""
        scalars = np.array(self.scalars)
        arrays = [*self.arrays, np.sign(scalars) * np.log1p(1000 * np.abs(scalars))]
        digest = hashlib.blake2b("\n".join(self.form).encode(), digest_size=8).hexdigest()
        return Print(digest, [projections(values) for values in arrays if values.size])


def _is_number(x: Any) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)


def _flat(items: Any) -> list:
    return [x for item in items for x in _flat(item)] if isinstance(items, (list, tuple)) else [items]


def projections(values_N: np.ndarray) -> list[float]:
    """The root mean square, and the values on random directions, all of its scale."""
    directions_DN = np.random.default_rng(len(values_N)).normal(size=(DIRECTIONS, len(values_N)))
    numbers = [np.sqrt(np.mean(values_N**2)), *(directions_DN @ values_N / np.sqrt(len(values_N)))]
    return [float(f"{number:.5g}") for number in numbers]


def fingerprint(output: Any) -> Print:
    """The print of an output."""
    collector = Collector()
    collector.add(output)
    return collector.print()


def same(one: Print, other: Print) -> bool:
    """Whether two prints are of the same output but for the noise of processors."""
    if one.form != other.form or len(one.numbers) != len(other.numbers):
        return False
    scales = [TOLERANCE * max(map(abs, group)) + 1e-9 for group in one.numbers]
    return all(
        np.allclose(group, other_group, rtol=0, atol=scale)
        for group, other_group, scale in zip(one.numbers, other.numbers, scales, strict=True)
    )


# The outputs


def without_prose(content: Any) -> Any:
    """JSON without texts and times: sentences may be written better, and no run is as fast as another."""
    if isinstance(content, dict):
        return {name: without_prose(value) for name, value in content.items() if "second" not in name}
    if isinstance(content, list):
        return [without_prose(item) for item in content]
    return "" if isinstance(content, str) else content


def read(path: Path) -> Any:
    """A JSON file without texts and times, or a Parquet file."""
    return pq.read_table(path) if path.suffix == ".parquet" else without_prose(json.loads(path.read_text("utf-8")))


def parts(folder: Path) -> pa.Table:
    """All parts of a folder, by clip."""
    return pa.concat_tables(pq.read_table(path) for path in sorted(folder.glob("part-*.parquet"))).sort_by("clip_id")


def images(shard: pa.Table) -> np.ndarray:
    """The frames of a shard's clips, (N, H, W, C)."""
    jpegs = [jpeg for frames in shard["frames"].to_pylist() for jpeg in frames or ()]
    return np.stack([np.asarray(Image.open(pa.BufferReader(jpeg))) for jpeg in jpegs])


@pytest.fixture(scope="module")
def small(ray_session, tiny_config, tmp_path_factory):
    """The tiny job in a store of its own: the report's folder and the store."""
    root = tmp_path_factory.mktemp("versions")
    return evaluate(override(tiny_config, {"store.root": str(root), "synthetic.train_clips": 24})).path, root


def of_synthetic(small) -> Any:
    _, root = small
    (prepared,) = (root / "prepared").glob("[!.]*")
    shard = parts(next((root / "shards").glob("[!.]*")))
    rows = pq.read_table(prepared / "manifest.parquet").select(["clip_id", "text", "label", "split", "speaker"])
    sound = [np.frombuffer(sound, "<i2")[::50] for sound in shard["audio"].to_pylist() if sound]
    return rows, images(shard)[:, ::4, ::4], np.concatenate(sound)


def of_shards(small) -> Any:
    _, root = small
    shard = parts(next((root / "shards").glob("[!.]*")))
    columns = ["clip_id", "audio_samples", "text", "video_status", "audio_status", "text_status"]
    names = [path.name for path in sorted((root / "shards").glob("[!.]*/part-*"))]
    return str(shard.schema), shard.select(columns), len(names)


def of_prepared(small) -> Any:
    _, root = small
    (prepared,) = (root / "prepared").glob("[!.]*")
    ledger = pq.read_table(prepared / "ledger.parquet").sort_by("clip_id")
    known = {
        name: [value is not None for value in ledger[name].to_pylist()] for name in ("video_digest", "audio_digest")
    }
    meta = json.loads((prepared / "meta.json").read_text("utf-8"))
    return str(ledger.schema), ledger.drop_columns(["video_digest", "audio_digest", "part"]), known, meta["labels"]


def features_of(root: Path, modality: str) -> pa.Table:
    (folder,) = (root / "features").glob(f"{modality}-*")
    return parts(folder)


def of_features(small) -> Any:
    tables_of = {modality: features_of(small[1], modality) for modality in ("video", "audio", "text")}
    return {name: [str(table.schema), table.select(["clip_id", "present"])] for name, table in tables_of.items()}


def of_encoder(small, modality: str) -> Any:
    table = features_of(small[1], modality)
    return np.array(table["feature"].to_pylist(), np.float64)[np.array(table["present"].to_pylist())]


def of_clip() -> Any:
    config = load("mini")
    clip, frames = load_clip(config), np.random.default_rng(0).normal(size=(3, 3, 64, 64))
    with torch.inference_mode():
        tokens_KL = tokenizer(config)(["a happy face", "a person who looks sad"])
        return clip.encode_image(torch.from_numpy(frames).float()).numpy(), clip.encode_text(tokens_KL).numpy()


def of_model(small) -> Any:
    _, root = small
    (folder,) = (root / "checkpoints").glob("model-*")
    weights = [load_file(folder / name) for name in ("emovclip/model.safetensors", "model.safetensors")]
    for arrays in weights:
        arrays.pop("frozen_digest", None)  # of random weights, which differ in their last bits between processors
    shapes = [{name: list(array.shape) for name, array in arrays.items()} for arrays in weights]
    return str(shapes), [np.concatenate([arrays[name].ravel() for name in sorted(arrays)]) for arrays in weights]


def of_report(small) -> Any:
    folder, _ = small
    return read(folder / "report.json"), read(folder / "predictions.parquet")


def of_media(media_files) -> Any:
    videos = [
        media.read_video(str(media_files[name]), 4, 32) for name in ("clip", "portrait", "rotated", "avi", "text")
    ]
    sounds = [media.read_audio(str(media_files[name]), 5.0) for name in ("clip", "wav", "mp3", "silent")]
    pictures = np.stack([frames for frames, _ in videos if frames is not None])
    sound = np.concatenate([samples for samples, _ in sounds if samples is not None])
    return pictures, sound, [status for _, status in videos + sounds]


def of_tables(folder: Path) -> Any:
    np.savez(folder / "a.npz", one=np.arange(3.0), two=np.arange(12.0).reshape(4, 3), three=np.full(3, np.nan))
    (folder / "b.csv").write_text("clip_id,x,y\none,1,2\nthree,,4\nfour,inf,1\n")
    return tables.Tables([str(folder / "a.npz"), str(folder / "b.csv")])(["one", "two", "three", "four", "five"])


def of_answers() -> Any:
    config = Annotate(url="http://127.0.0.1/v1", model="m", prompt="In {language}: {transcript}")
    decides = {name: str(value) for name, value in answer_log.settings(config).items() if name != "version"}
    names = [field.name for field in fields(answer_log.ChatAnswer)]
    return decides, answer_log.filled(config, "what {transcript} says"), names, list(answer_log.FINAL)


@pytest.fixture(scope="module")
def few(few_labels, tmp_path_factory):
    """The corpus of features with few labels, in a store of its own."""
    root = tmp_path_factory.mktemp("versions-few")
    return override(few_labels, {"store.root": str(root), "rounds.most": 1, "train.epochs": 2})


@pytest.fixture(scope="module")
def taught(few):
    """One round of self-training."""
    return self_train(few).path, Path(few.store.root)


def of_rounds(taught) -> Any:
    return read(taught[0] / "rounds.json")


def of_pseudo_labels(taught) -> Any:
    (folder,) = (taught[1] / "pseudo_labels").glob("[!.]*/round-1")
    return parts(folder), read(folder / "report.json"), (folder / "refused.csv").read_text()


def of_predictions(taught) -> Any:
    return [parts(folder) for folder in (taught[1] / "predictions").glob("parts-*")]


def of_sweep(few) -> Any:
    space = {"fusion.lr": {"loguniform": [1e-4, 3e-2]}, "fusion.hidden": {"choice": [8, 16]}}
    return read(
        tune(override(few, {"tune.space": space, "tune.trials": 4, "tune.grace_epochs": 1})).path / "sweep.json"
    )


def of_folds(few) -> Any:
    folder = crossvalidate(override(few, {"data.folds": 2, "crossvalidate.heads": 1})).path
    return read(folder / "report.json"), read(folder / "predictions.parquet")


def of_frames() -> Any:
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 2, 3, 64, 64), np.uint8))
    encoder = baselines.FrozenFrames(load("mini", {"media.frames": 2})).eval()
    present = torch.tensor([[True, False, False]] * 3)
    with torch.inference_mode():
        batch = VideoBatch(clip_ids=("a", "b", "c"), present_BM=present, label_B=torch.arange(3), frames_BTCHW=frames)
        return encoder(batch).numpy()


def of_trials() -> Any:
    rng, label_B = np.random.default_rng(0), np.arange(60) % 6
    centres_KD = rng.normal(size=(6, 64))
    embedded = {
        split: ((0.4 * centres_KD[label_B, None] + 2 * rng.normal(size=(60, 3, 64))).astype(np.float32), label_B)
        for split in baselines.SPLITS
    }
    statistics = [("mean",), ("mean", "deviation", "slope")]
    probes = [baselines.probe(LABELS, embedded, names) for names in statistics]
    return probes, baselines.zero_shot(load("mini"), LABELS, embedded)


def of_claims() -> Any:
    config = override(Config(), {"claims.worlds": 2, "claims.seeds": 1, "claims.dropout_rates": [0.0, 0.5]})
    keys = {"model": tuple(SUBSETS), "self-training": trials.HEADS}
    scores = {}
    for i, (name, trial) in enumerate(trials.trials_of(config).items()):
        names = [f"{split}/{key}" for split in ("validation", "test") for key in keys.get(trial.kind, ("V",))]
        names += ["accepted/share", "accepted/right"]
        values = {key: 0.3 + (7 * i + 3 * j) % 20 / 40 for j, key in enumerate(names)}
        seeds = range(trials.seeds_of(trial, config))
        scores[name] = [[{k: v + 0.01 * (w + s) for k, v in values.items()} for s in seeds] for w in range(2)]
    return without_prose(comparisons.compare(config, scores))


def of_bench() -> Any:
    return [[field.name for field in fields(record)] for record in (Figure, Comparison)]


@pytest.fixture(scope="module")
def outputs(small, few, taught, media_files, tmp_path_factory):
    """The output that belongs to each version, made now."""
    return {
        "data.media.VERSION": of_media(media_files),
        "data.shards.VERSION": of_shards(small),
        "data.synthetic.VERSION": of_synthetic(small),
        "data.tables.VERSION": of_tables(tmp_path_factory.mktemp("tables")),
        "experiments.bench.bench.VERSION": of_bench(),
        "experiments.claims.baselines.VERSION": of_frames(),
        "experiments.claims.claims.VERSION": of_trials(),
        "experiments.claims.comparisons.VERSION": of_claims(),
        "models.identity.AUDIO_VERSION": of_encoder(small, "audio"),
        "models.identity.CLIP_VERSION": of_clip(),
        "models.identity.TEXT_VERSION": of_encoder(small, "text"),
        "stages.chat.answer_log.VERSION": of_answers(),
        "stages.crossvalidate.VERSION": of_folds(few),
        "stages.evaluate.VERSION": of_report(small),
        "stages.encoding.encoders.VERSION": of_features(small),
        "stages.fitting.plan.VERSION": of_model(small),
        "stages.predict.VERSION": of_predictions(taught),
        "stages.decoding.corpus.VERSION": of_prepared(small),
        "stages.pseudo_label.VERSION": of_pseudo_labels(taught),
        "stages.self_train.VERSION": of_rounds(taught),
        "stages.tune.VERSION": of_sweep(few),
    }


# The tests


def versions() -> dict[str, int]:
    """Every constant of emo_ray whose name ends in VERSION, by module and name."""
    constants = {}
    for path in sorted((ROOT / "emo_ray").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "emo_ray").with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign):
                (target,) = node.targets
                pairs = [(target, node.value)]
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    pairs = list(zip(target.elts, node.value.elts, strict=True))
                for name, value in pairs:
                    if isinstance(name, ast.Name) and name.id.endswith("VERSION"):
                        constants[f"{module}.{name.id}"] = ast.literal_eval(value)
    return constants


VERSIONS = versions()


@pytest.fixture(scope="module")
def recorded(outputs, tmp_path_factory):
    """The prints of now, and a file that holds them as versions.json does."""
    now = {name: fingerprint(output) for name, output in outputs.items()}
    file = tmp_path_factory.mktemp("prints") / GOLDEN.name
    lines = [json.dumps({"version": VERSIONS.get(name), **now[name]._asdict()}) for name in sorted(now)]
    entries = [f'  "{name}": {line}' for name, line in zip(sorted(now), lines, strict=True)]
    file.write_text("{\n" + ",\n".join(entries) + "\n}\n", encoding="utf-8")
    return now, file


def _raised() -> str:
    golden = json.loads(GOLDEN.read_text("utf-8"))
    return ", ".join(name for name in golden if VERSIONS.get(name) != golden[name]["version"]) or "none"


def test_every_version_has_an_output(outputs):
    assert sorted(outputs) == sorted(VERSIONS), "add an output to this file for each VERSION, under its module's name"


@pytest.mark.parametrize("name", sorted(VERSIONS))
def test_an_output_changes_with_its_version_only(recorded, name):
    now, file = recorded
    golden = json.loads(GOLDEN.read_text("utf-8")).get(name, {"version": None, "form": "", "numbers": []})
    version, record = VERSIONS[name], f"record the outputs of now: cp {file} {GOLDEN}"
    assert golden["version"] == version, f"{name}: found {version}, recorded is {golden['version']}. If meant, {record}"
    assert same(Print(golden["form"], golden["numbers"]), now[name]), (
        f"{name} is {version} still, and its output is another. If a change of this code was meant to make other "
        f"values, raise the version, so that nothing stored is taken for them, and {record}. If it only takes what "
        f"code of a raised version makes (raised since the recording: {_raised()}), {record}. If neither, find the "
        "change that did it."
    )


@pytest.mark.parametrize("size", [2, 100, 20_000])
def test_noise_is_the_same_output_and_a_change_is_not(size):
    rng = np.random.default_rng(size)
    values = rng.normal(size=size)
    output = {"values": values, "names": ["a", "b"], "scores": {"n": 300, "waf": 0.9, "none": None}}
    one = fingerprint(output)
    noise = values * (1 + 1e-6 * rng.normal(size=size)) + 1e-7 * rng.normal(size=size)
    assert same(one, fingerprint(output | {"values": noise}))
    assert same(one, fingerprint(output | {"scores": {"n": 300, "waf": 0.9 + 1e-7, "none": None}}))
    for changed in (
        {"values": values * 1.01},
        {"values": values[::-1]},
        {"values": np.where(np.arange(size) == 1, np.nan, values)},
        {"values": values + 0.01 * rng.normal(size=size)},
        {"values": values[:, None]},
        {"names": ["a", "c"]},
        {"scores": {"n": 300, "waf": 0.85, "none": None}},
        {"scores": {"n": 301, "waf": 0.9, "none": None}},
        {"scores": {"n": 300, "waf": 0.9, "none": 0.0}},
        {"more": 1},
    ):
        assert not same(one, fingerprint(output | changed)), changed


def test_digests_in_names_count_as_equal():
    one, *others = (fingerprint({"model": name}) for name in (f"model-{'0a' * 8}", f"model-{'1b' * 8}", "model-0a"))
    assert [same(one, other) for other in others] == [True, False]
