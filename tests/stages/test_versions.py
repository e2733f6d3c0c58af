"""A changed output without a raised version fails: stored artefacts would be taken for what the new code makes.

Every VERSION in emo_ray has a small output here and, in versions.json, the print of that output when the version was
last raised. How prints are made and compared is in tests/fingerprint.py.
"""

import ast
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import small_recognisers
import torch
from fingerprint import Print, fingerprint, same
from PIL import Image
from recording_files import voices, write_sound
from safetensors.numpy import load_file

from emo_ray import parquet
from emo_ray.config import Config, load, override
from emo_ray.config.endpoint_settings import Annotate, Transcribe
from emo_ray.config.media_settings import Media, Segment
from emo_ray.config.model_settings import SUBSETS, Audio
from emo_ray.data import media, recordings, tables
from emo_ray.data.batch import FeatureBatch, VideoBatch, audio_from_shards
from emo_ray.data.content import content_of
from emo_ray.data.manifest import Clip
from emo_ray.data.shards import IdentifiedClip
from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic.voice import voice
from emo_ray.experiments.bench.timing import Comparison, Figure
from emo_ray.experiments.claims import baselines, comparisons, gap_report, gap_trials, gap_world, trials
from emo_ray.inference.classifier import ALONE, TOGETHER, WITHOUT
from emo_ray.inference.encoders import recogniser
from emo_ray.inference.recognition import transcribe_rows
from emo_ray.models import audio
from emo_ray.models.clip import load_clip, tokenizer
from emo_ray.reports.timeline import Timeline, Utterance, csv_rows, webvtt
from emo_ray.stages import prediction_files
from emo_ray.stages.chat import answer_log, chat_labels, clip_questions, sounds
from emo_ray.stages.check import check
from emo_ray.stages.compare import compare
from emo_ray.stages.crossvalidate import crossvalidate
from emo_ray.stages.decoding.shard_plan import ShardPlan
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.export import export
from emo_ray.stages.prediction_files import PredictedCorpus
from emo_ray.stages.prediction_rows import ATTENTION, DISTANCE
from emo_ray.stages.segment import UTTERANCES
from emo_ray.stages.self_train import self_train
from emo_ray.stages.timelines import recordings_of, with_spans
from emo_ray.stages.tune import tune
from emo_ray.training.speaker_scaling import estimated

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).with_name("versions.json")


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
def small(evaluated, evaluated_store):
    """The tiny job: the report's folder and the store."""
    return evaluated_store / "reports" / evaluated.path.name, evaluated_store


def _small_config(tiny_config, root: Path) -> Config:
    return override(tiny_config, {"store.root": str(root), "tracking.enabled": False})


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
    return (
        str(ledger.schema),
        ledger.drop_columns(["identity", "video_digest", "audio_digest", "part"]),
        known,
        meta["labels"],
    )


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
    np.savez(folder / "a.npz", one=np.arange(3.0), two=np.arange(12.0).reshape(4, 3), three=np.full(3, np.nan),
             five=np.zeros(3), six=np.eye(3)[:, ::-1] * [0, 1, 2])  # fmt: skip
    (folder / "b.csv").write_text("clip_id,x,y\none,1,2\nthree,,4\nfour,inf,1\n")
    return tables.Tables([str(folder / "a.npz"), str(folder / "b.csv")])(["one", "two", "three", "four", "five", "six"])


def of_answers() -> Any:
    config = Annotate(url="http://127.0.0.1/v1", model="m", prompt="In {language}: {transcript}")
    decides = {name: str(value) for name, value in answer_log.settings(config).items() if name != "version"}
    names = [field.name for field in fields(answer_log.ChatAnswer)]
    return decides, answer_log.filled(config, "what {transcript} says"), names, list(answer_log.FINAL)


def of_chat_labels() -> Any:
    config = load("mini", {"annotate.task": "label", "annotate.model": "m", "annotate.parts": ["text", "frames"]})
    decides = {n: str(v) for n, v in chat_labels.settings(config, ("glad", "sad")).items() if n != "version"}
    question = clip_questions.ClipQuestion(("glad", "sad"), "Which?", "oh", (b"jpeg",), bytes(4))
    words = ('{"label": "SAD"}', "Glad!", "sad or glad", "no")
    read = [clip_questions.label_in(text, ("glad", "sad")) for text in words]
    return decides, question.parts(), clip_questions._schema(("glad", "sad")), read, str(chat_labels.SCHEMA)


def of_sounds() -> Any:
    settings = sounds.settings(Transcribe(url="http://127.0.0.1/v1", model="m", request={"prompt": "names"}))
    sound = sounds.Sound(np.arange(-5, 5, dtype="<i2").tobytes(), "en")
    return {name: str(value) for name, value in settings.items() if name != "version"}, sound.wav.hex()


def of_speech_model(folder: Path) -> Any:
    spoken_S = voice("neutral", np.random.default_rng(0), np.random.default_rng(10), 3.0)
    config = Audio(encoder=str(small_recognisers.whisper(folder)), layers=(-2, -1), dtype="fp32")
    statuses = {f"{name}_status": "ok" for name in ("video", "audio", "text")}
    table = pa.Table.from_pylist([{"clip_id": "a", "audio": spoken_S.tobytes()} | statuses])
    return audio.build(config)(audio_from_shards(table)).numpy()


def of_recogniser(folder: Path) -> Any:
    config = override(
        Config(), {"transcribe.model": str(small_recognisers.whisper(folder)), "transcribe.dtype": "fp32"}
    )
    spoken_S = voice("neutral", np.random.default_rng(0), np.random.default_rng(10), 3.0)
    clips = [
        {"clip_id": str(i), "audio": sound_S.tobytes(), "audio_samples": len(sound_S), "language": "en"}
        for i, sound_S in enumerate((spoken_S, np.zeros_like(spoken_S)))
    ]
    table = pa.Table.from_pylist([clip | {"audio_status": "ok", "text_status": "missing"} for clip in clips])
    encoder = recogniser(config)
    heard = transcribe_rows(encoder, encoder.built("cpu"), table)
    numbers = heard.select(["log_prob", "no_speech"]).slice(0, 1).to_pandas().to_numpy(np.float64)
    return numbers, heard["status"].to_pylist(), str(heard.schema)


@pytest.fixture(scope="module")
def few(few_labels, tmp_path_factory):
    """The corpus of features with few labels, in a store of its own."""
    root = tmp_path_factory.mktemp("versions-few")
    changes = {"store.root": str(root), "rounds.most": 1, "train.epochs": 2, "tracking.enabled": False}
    return override(few_labels, changes)


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


def of_check(small, tiny_config) -> Any:
    noise_S = np.random.default_rng(0).normal(0, 3000, 16_000).astype(np.int16)
    return read(check(_small_config(tiny_config, small[1])).path / "check.json"), content_of(None, noise_S).descriptors


def of_export(small, tiny_config) -> Any:
    config = _small_config(tiny_config, small[1])
    (model,) = (small[1] / "checkpoints").glob("model-*")
    folder = export(override(config, {"checkpoint": str(model), "export.onnx": False})).path
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return files, read(folder / "labels.json")


def of_folds(few) -> Any:
    folder = crossvalidate(override(few, {"data.folds": 2, "train.heads": 1})).path
    return read(folder / "report.json"), read(folder / "predictions.parquet")


def of_comparison(small, folder: Path) -> Any:
    """The report beside a copy of itself that takes the clips for what the one before is."""
    table = pq.read_table(small[0] / "predictions.parquet")
    shifted = pa.array(table["p_VAT"].to_pylist()[1:] + table["p_VAT"].to_pylist()[:1], table["p_VAT"].type)
    place = table.column_names.index("p_VAT")
    parquet.write(folder / "predictions.parquet", table.set_column(place, "p_VAT", shifted), rows_per_group=100)
    config = Config.model_validate({"store": {"root": str(folder / "store")}})
    return read(compare(config, [small[0], folder]).path / "comparison.json")


def of_noise(small, tiny_config) -> Any:
    """The scores at each step of the ladder."""
    changes = {"store.root": str(small[1]), "tracking.enabled": False}
    evaluate(override(tiny_config, changes | {"evaluate.noise": True}))
    return read(next((small[1] / "reports").glob("noise-*")) / "noise.json")


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


def of_gap() -> Any:
    config = override(load("mini"), {"claims.worlds": 2, "claims.seeds": 2})
    tuned = {trial: {"validation/V": 0.3 + i / 20} for i, trial in enumerate(gap_trials.tuning_trials(config))}
    planned = gap_trials.planned_trials(config, gap_trials.best_rates(tuned))
    scores = {trial: {"test/V": 0.3 + (7 * i) % 20 / 40} for i, trial in enumerate(planned)}
    return without_prose(gap_report.report_of(config, tuned, scores, probe=0.7))


def of_gap_world(folder: Path) -> Any:
    return gap_world.clips_of(folder, 0, "train", 6, 32).frames_BTCHW.numpy()


def of_speakers() -> Any:
    rng = np.random.default_rng(0)
    values_BD = rng.normal(size=(60, 3)) + 2 * rng.normal(size=(6, 3)).repeat(10, axis=0)
    batch = FeatureBatch(
        clip_ids=tuple(map(str, range(60))),
        present_BM=torch.tensor([[False, True, False]] * 60),
        label_B=torch.arange(60) % 3,
        features={"audio": torch.tensor(values_BD, dtype=torch.float32)},
        speakers=tuple(str(i // 10) for i in range(60)),
    )
    return estimated(batch.rows(torch.arange(40)), [batch]).applied(batch).features["audio"].numpy()


def of_recordings(folder: Path) -> Any:
    path = write_sound(folder / "recording.wav", voices(2)[0])
    spans, status = recordings.utterances(str(path), Segment(max_s=2), Media())
    return str(UTTERANCES), status, np.array(spans)


def of_timelines() -> Any:
    clip = Clip("talk-1", "/data/talk.mp4", text="the words", speaker="Anna", start_s=1.0, end_s=2.5)
    statuses = {"status": "ok", "text_status": "ok"}
    utterance = Utterance("talk-1", 1.0, 2.5, "the words", "Anna", (0.25, 0.75), statuses)
    timeline = Timeline("talk.mp4", ("sad", "happy"), [utterance])
    rows = with_spans(pa.table({"clip_id": ["talk-1"]}), recordings_of([clip]))
    return csv_rows(timeline), webvtt(timeline), rows.to_pylist()


def of_prediction_files(folder: Path) -> Any:
    """Rows and CSV of a clip that is calibrated, far from the training clips and wrong, and of one without media."""
    clips = [Clip("full", "/data/full.mp4", label="sad"), Clip("empty", "/data/no.mp4")]
    lists = pa.list_(pa.float32())
    columns = {"clip_id": ["full", "empty"], "prediction": ["happy", None], "confidence": [0.75, None]}
    for column in (TOGETHER, *ALONE.values(), *WITHOUT.values()):
        columns[column] = pa.array([[0.75, 0.25], None], lists)
    columns |= {column: [2.0, None] for column in DISTANCE.values()}
    columns |= {f"{name}_status": ["ok", "missing"] for name in ALONE}
    rows = pa.table(columns | {ATTENTION: pa.array([[0.5, 0.5], None], lists)})
    parquet.write(folder / "parts" / "part-a.parquet", rows)
    (folder / "calibration.json").write_text('{"temperature": 0.5}')
    (folder / "familiarity.json").write_text('{"audio": 1.0, "video": 4.0}')
    identified = [IdentifiedClip(clip, "", "content") for clip in clips]
    plan = ShardPlan(folder / "shards", {"part-a.parquet": identified}, Media(), 24)
    prediction_files.write(folder, PredictedCorpus(folder / "parts", plan, clips, [], ("happy", "sad"), folder))
    return parts(folder), (folder / "predictions.csv").read_text("utf-8")


def of_bench() -> Any:
    return [[field.name for field in fields(record)] for record in (Figure, Comparison)]


@pytest.fixture(scope="module")
def outputs(small, few, taught, media_files, tiny_config, tmp_path_factory):
    """The output that belongs to each version, made now."""
    return {
        "data.media.VERSION": of_media(media_files),
        "data.recordings.VERSION": of_recordings(tmp_path_factory.mktemp("recordings")),
        "data.shards.VERSION": of_shards(small),
        "data.synthetic.corpus.VERSION": of_synthetic(small),
        "data.tables.sources.VERSION": of_tables(tmp_path_factory.mktemp("tables")),
        "experiments.bench.bench.VERSION": of_bench(),
        "experiments.claims.baselines.VERSION": of_frames(),
        "experiments.claims.claims.VERSION": of_trials(),
        "experiments.claims.comparisons.VERSION": of_claims(),
        "experiments.claims.gap.VERSION": of_gap(),
        "experiments.claims.gap_world.VERSION": of_gap_world(tmp_path_factory.mktemp("gap")),
        "models.identity.AUDIO_VERSION": of_speech_model(tmp_path_factory.mktemp("speech-model")),
        "models.identity.CLIP_VERSION": of_clip(),
        "models.identity.FUNCTIONALS_VERSION": of_encoder(small, "audio"),
        "models.identity.RECOGNISER_VERSION": of_recogniser(tmp_path_factory.mktemp("recogniser")),
        "models.identity.SPEAKER_VERSION": of_speakers(),
        "models.identity.TEXT_VERSION": of_encoder(small, "text"),
        "reports.noise.VERSION": of_noise(small, tiny_config),
        "stages.chat.answer_log.VERSION": of_answers(),
        "stages.chat.chat_labels.VERSION": of_chat_labels(),
        "stages.chat.sounds.VERSION": of_sounds(),
        "stages.check.VERSION": of_check(small, tiny_config),
        "stages.compare.VERSION": of_comparison(small, tmp_path_factory.mktemp("comparison")),
        "stages.crossvalidate.VERSION": of_folds(few),
        "stages.evaluate.VERSION": of_report(small),
        "stages.export.VERSION": of_export(small, tiny_config),
        "inference.encoders.VERSION": of_features(small),
        "stages.fitting.plan.VERSION": of_model(small),
        "stages.predict.VERSION": of_predictions(taught),
        "stages.prediction_files.VERSION": of_prediction_files(tmp_path_factory.mktemp("files")),
        "stages.decoding.corpus.VERSION": of_prepared(small),
        "stages.pseudo_label.VERSION": of_pseudo_labels(taught),
        "stages.self_train.VERSION": of_rounds(taught),
        "stages.timelines.VERSION": of_timelines(),
        "stages.tune.VERSION": of_sweep(few),
    }


# The tests


def versions() -> dict[str, int]:
    """Every constant of emo_ray whose name ends in VERSION, by module and name."""
    constants = {}
    for path in sorted((ROOT / "emo_ray").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT / "emo_ray").with_suffix("").parts).removesuffix(".__init__")
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
def recorded(outputs):
    """The prints of now, and a file that holds them as versions.json does; it outlives the run, as it may be copied."""
    now = {name: fingerprint(output) for name, output in outputs.items()}
    file = ROOT / "artifacts" / GOLDEN.name
    file.parent.mkdir(exist_ok=True)
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
