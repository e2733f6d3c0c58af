"""evaluate: a checkpoint on a labelled split, over all seven subsets of the modalities, to a report."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_ray import cluster, durable, store, tracking
from emo_ray.config import Config, override
from emo_ray.data import clip_tables
from emo_ray.data.dialogues import windows_of, with_neighbours
from emo_ray.data.prepared import LabelOf, Prepared
from emo_ray.data.splits import grouped
from emo_ray.data.transcripts import believed
from emo_ray.inference.encoders import EncoderSpec, encoders_of, of_checkpoint, with_views
from emo_ray.models.checkpoint_files import EMOVCLIP, SEEN, SPEAKERS, WEIGHTS, read_calibration
from emo_ray.models.identity import SPEAKER_VERSION, licence_notes, stand_in_notes
from emo_ray.reports import evaluation
from emo_ray.reports import noise as noise_report
from emo_ray.reports.scorecard import PREDICTIONS, REPORT, EvaluationReport, convention_of, verdict
from emo_ray.stages import scorecard_links
from emo_ray.stages.compare import compare
from emo_ray.stages.corpus import Corpus, encoded_with, open_corpus, speaker_offer
from emo_ray.stages.fitting.plan import check_no_folds
from emo_ray.stages.result import Result
from emo_ray.stages.train import train_model

if TYPE_CHECKING:
    import pyarrow as pa

    from emo_ray.data.batch import FeatureBatch
    from emo_ray.models.head_average import Head
    from emo_ray.training.bootstrap import DrawnInterval
    from emo_ray.training.scoring import Probabilities

VERSION = 5  # 5: floors compared over speakers; epochs without speeds


NOISE = "noise.json"


@dataclass(frozen=True)
class JudgedClips:
    """The clips that a report is about, with the classes that they have for the model."""

    split: str  # or "all"
    label_of: LabelOf
    notes: tuple[str, ...] = ()  # what a reader must know of them


def evaluate(config: Config, corpus: Corpus | None = None) -> Result:
    """Report on `checkpoint`, or on the model that this config trains (made now where it is missing).

    `corpus` is what `checkpoint` is measured on (default: the one that the config names). Raises ValueError where the
    split has no labelled clips. With `evaluate.compare` two models are compared instead.
    """
    check_no_folds(config)
    if config.evaluate.compare:
        return compare(config, [_report_folder(config, path) for path in config.evaluate.compare])
    if config.checkpoint is None:
        path, corpus = train_model(config, corpus)
    else:
        path = Path(config.checkpoint)
        config = of_checkpoint(config, path)
        corpus = corpus or open_corpus(config)
    judged = _judged_clips(config, corpus.prepared, path)
    folder = measured(config, path, corpus, judged)
    content = store.read_json(folder / REPORT)
    # The report goes into the run that made the model; a model from elsewhere has a run for each corpus.
    key = path.name.removeprefix("model-") if config.checkpoint is None else store.digest(folder.name)
    track_report(config, key, "evaluate", folder, content)
    result = report_result(config, folder, content, corpus.prepared)
    return _with_noise(result, config, path, corpus, judged) if config.evaluate.noise else result


def _with_noise(result: Result, config: Config, path: Path, corpus: Corpus, judged: JudgedClips) -> Result:
    """The result of a report with the model's noise ladder, which is made where it is missing."""
    key = store.digest(noise_report.VERSION, result.path.name, config.seed)
    folder, parts = (result.path.with_name(f"{kind}{key}") for kind in (scorecard_links.NOISE, "parts-"))
    reports = {result.path.name: path.name}

    def fill(temporary: Path) -> None:
        from emo_ray.models import checkpoint
        from emo_ray.stages.noise import LadderTrial, ladder

        prepared = corpus.prepared
        head = checkpoint.load_fusion(path)
        encoders = encoders_for(config, path, corpus, judged.label_of.keys())
        table = _feature_table(head, config, encoders, prepared, judged.label_of)
        batch_of = partial(_batch_of, head, path, prepared, judged.label_of)
        trial = LadderTrial(head, encoders, table, batch_of, path.name, judged.split, parts)
        content = ladder(config, prepared, trial)
        durable.write_json(temporary / NOISE, content)
        noise_report.write(content, temporary, scorecard_links.to_scorecards(reports))

    store.artefact(folder, {"kind": "noise ladder", "version": noise_report.VERSION, "reports": reports}, fill)
    scorecard_links.refresh(result.path)
    content = store.read_json(folder / NOISE)
    lines = [*result.lines, noise_report.summary(content), f"noise ladder: {folder / noise_report.PAGE}"]
    return replace(result, tables=[*result.tables, noise_report.table(content)], lines=lines)


def _report_folder(config: Config, path: str) -> Path:
    """A report's folder: `path` itself, or for a checkpoint's folder its report on the corpus of this config."""
    if (Path(path) / PREDICTIONS).is_file():
        return Path(path)
    return evaluate(override(config, {"checkpoint": path, "evaluate.compare": []})).path


def measured(config: Config, path: Path, corpus: Corpus, judged: JudgedClips) -> Path:
    """The folder of a model's report on these clips of a corpus, which is made where it is missing."""
    encoders = encoders_for(config, path, corpus, corpus.prepared.labelled_ids)
    folder = _folder(config, path, encoders, corpus.prepared, judged)

    def fill(temporary: Path) -> None:
        _measure(temporary, config, path, encoders, corpus.prepared, judged)

    meta = {"kind": "report", "version": VERSION, "checkpoint": str(path), **scorecard_links.META}
    store.artefact(folder, meta, fill)
    scorecard_links.refresh(folder)
    return folder


def encoders_for(config: Config, path: Path, corpus: Corpus, clip_ids: Collection[str]) -> list[EncoderSpec]:
    """The encoders of a model that is judged on these clips, with as many views as `evaluate.views` says."""
    encoders = encoders_of(config, path, corpus.texts_for(encoded_with(config, corpus.prepared, clip_ids)))
    return with_views(encoders, config.evaluate.views, config.seed)


def report_result(config: Config, folder: Path, content: EvaluationReport, prepared: Prepared) -> Result:
    """What a person is shown of a report."""
    runs = tracking.command(config, cluster.store_root(config))
    offer = speaker_offer(config, prepared.clips) if config.checkpoint is None else []
    lines = [
        *verdict(content),
        *content["notes"],
        *offer,
        f"pictures and details: {folder / evaluation.PAGE}",
        f"all runs: {runs}",
    ]
    return Result(folder, dict(content), evaluation.tables(content), lines)


def track_report(config: Config, key: str, job: str, folder: Path, content: EvaluationReport) -> None:
    """Log a report of a job to MLflow, once for each run and tracking server."""
    root = cluster.store_root(config)
    split = content["split"]
    if tracking.is_logged(config, root, folder, key):
        return
    run = tracking.open_run(config, root, key, tracking.title(config, job, key))
    values = {f"{split}/{n}/{k}": v for n, scores in content["subsets"].items() if scores for k, v in scores.items()}
    run.metrics(values | {f"{split}/available/{k}": v for k, v in (content["available"] or {}).items()})
    run.artifacts(folder, f"report-{folder.name}")
    run.finish()
    tracking.note_logged(config, run, folder)


def predict_subsets(
    config: Config, path: Path, encoders: Sequence[EncoderSpec], prepared: Prepared, label_of: LabelOf
) -> "tuple[FeatureBatch, Probabilities]":
    """The features of labelled clips, as `features_for` gives them, and a model's probabilities for every subset."""
    # torch takes seconds to import, which a report that is there already does not need
    from emo_ray.config.model_settings import SUBSETS
    from emo_ray.models import checkpoint
    from emo_ray.training.scoring import shown_only

    head = checkpoint.load_fusion(path)
    batch = features_for(head, config, path, encoders, prepared, label_of)
    return batch, {name: shown_only(head, batch, names) for name, names in SUBSETS.items()}


def validation_interval(config: Config, path: Path, corpus: Corpus, objective: str) -> "DrawnInterval":
    """The interval, on the validation clips, of an objective of a model that this config has trained on a corpus."""
    from emo_ray.training.scoring import objective_interval

    prepared = corpus.prepared
    encoders = encoders_of(config, path, corpus.texts_for(encoded_with(config, prepared, prepared.labelled_ids)))
    batch, probabilities = predict_subsets(config, path, encoders, prepared, prepared.labels_of("validation"))
    speakers = prepared.speakers_of(batch.clip_ids)
    return objective_interval(batch, probabilities, objective, speakers, config.seed)


def features_for(
    head: "Head", config: Config, path: Path, encoders: Sequence[EncoderSpec], prepared: Prepared, label_of: LabelOf
) -> "FeatureBatch":
    """The features of labelled clips as a model's head takes them, made where they are missing.

    Features are small, so all clips are one batch.
    """
    table = _feature_table(head, config, encoders, prepared, label_of)
    return _batch_of(head, path, prepared, label_of, table)


def _feature_table(
    head: "Head", config: Config, encoders: Sequence[EncoderSpec], prepared: Prepared, label_of: LabelOf
) -> "pa.Table":
    """The features of clips and of their neighbours, of the modalities that a head has learnt."""
    from emo_ray.stages.encoding.feature_tables import encode_corpus, load

    encoders = [encoder for encoder in encoders if encoder.modality in head.project]  # others it has never learnt
    needed = with_neighbours(label_of, windows_of(prepared.clips, head.offsets))
    parts = prepared.parts_with(needed)
    return load(prepared, encode_corpus(config, prepared, encoders, parts), parts, needed)


def _batch_of(head: "Head", path: Path, prepared: Prepared, label_of: LabelOf, table: "pa.Table") -> "FeatureBatch":
    """The labelled clips of a table of features, with their neighbours and standardised as the head takes them."""
    import pyarrow as pa

    from emo_ray.data.batch import from_features, with_context
    from emo_ray.training import speaker_scaling

    windows = windows_of(prepared.clips, head.offsets)
    judged = clip_tables.of_clips(table, label_of)
    label = pa.array([label_of[clip_id] for clip_id in judged["clip_id"].to_pylist()], pa.int64())
    batch = from_features(judged.append_column("label", label))
    if windows is not None:
        batch = with_context(batch, from_features(table), windows)
    if (by_speaker := speaker_scaling.read(path)) is not None:
        batch = by_speaker.with_clips([batch]).applied(batch)
    return batch


def _folder(
    config: Config, path: Path, encoders: Sequence[EncoderSpec], prepared: Prepared, judged: JudgedClips
) -> Path:
    """Named after everything that decides a report."""
    weights = store.digest_path(path / WEIGHTS)
    digests = [encoder.digest for encoder in encoders]
    temperature = fitted["temperature"] if (fitted := read_calibration(path)) else None
    decides = [VERSION, path.name, weights, temperature, digests, prepared.path.name, judged.split]
    decides += [sorted(judged.label_of), config.evaluate.floors]
    if config.tables.standardise == "speaker":
        decides += [SPEAKER_VERSION, store.digest_path(path / SPEAKERS)]
    key = store.digest(*decides)
    return cluster.store_root(config) / "reports" / key


def _judged_clips(config: Config, prepared: Prepared, path: Path) -> JudgedClips:
    """The clips of `evaluate.split`, without those of test that the model has seen in training or selection."""
    names = ("test", "validation") if config.evaluate.split == "auto" else (config.evaluate.split,)
    name = next((n for n in names if prepared.labels_of(n)), None)
    if name is None:
        raise ValueError(f"found no labelled clips in {' or '.join(names)}, expected some: see evaluate.split")
    label_of = prepared.labels_of(name)
    seen = store.read_json(path / SEEN)
    if name != "test":
        count = len(label_of.keys() & seen.keys())
        note = f"{path.name} was trained or selected on {count} of these {len(label_of)} {name} clips (by clip_id)"
        return JudgedClips(name, label_of, (note,) if count else ())
    unseen = {clip_id: label for clip_id, label in label_of.items() if clip_id not in seen}
    if not unseen:
        raise ValueError(
            f"found only clips that {path.name} was trained or selected on (by clip_id), expected others in {name}"
        )
    left_out = len(label_of) - len(unseen)
    note = f"left out {left_out} {name} clips that {path.name} was trained or selected on (by clip_id)"
    return JudgedClips(name, unseen, (note,) if left_out else ())


def _measure(
    folder: Path, config: Config, path: Path, encoders: Sequence[EncoderSpec], prepared: Prepared,
    judged: JudgedClips,
) -> None:  # fmt: skip
    """Write the report of a model on a split."""
    import pyarrow as pa

    from emo_ray.stages.cards import calibration_words, write_mistakes
    from emo_ray.stages.encoding import external_tables
    from emo_ray.training.calibration import calibrated
    from emo_ray.training.scoring import report_of, write_predictions
    from emo_ray.training.speaker_scaling import NOTE

    batch, probabilities = predict_subsets(config, path, encoders, prepared, judged.label_of)
    fitted = read_calibration(path)
    content: EvaluationReport = report_of(batch, probabilities, prepared, judged.split, config.seed, fitted)
    content["checkpoint"] = path.name
    content["histories"] = _histories(path)
    if custom := convention_of(config.data.corpus, config.data.manifest, content["notes"]):
        content["convention"] = custom
    if compared := _floors(config, path, encoders, prepared, batch, probabilities):
        content["floors"] = compared
    content["notes"] += [*judged.notes, *([NOTE] if config.tables.standardise == "speaker" else [])]
    content["notes"] += [*licence_notes(config), *stand_in_notes(config)]
    used = [encoder for encoder in encoders if encoder.modality in batch.features]
    content["notes"] += external_tables.notes(config, prepared, used, prepared.parts_with(judged.label_of))
    content["notes"] += _transcript_notes(config, prepared, used, judged)
    durable.write_json(folder / REPORT, content)
    speakers = prepared.speakers_of(batch.clip_ids)
    write_predictions(
        folder / PREDICTIONS, batch, probabilities, prepared.labels, {"speaker": pa.array(speakers, pa.string())}
    )
    temperature = fitted["temperature"] if fitted else None
    shown = {name: calibrated(values_BK, temperature or 1.0) for name, values_BK in probabilities.items()}
    write_mistakes(folder, prepared, batch, shown, config.media.face.margin, calibration_words(temperature))
    evaluation.write(content, folder, [scorecard_links.MISTAKES_LINK])


def _histories(path: Path) -> dict[str, list[dict[str, float]]]:
    """The metrics of every epoch of each phase that made a model, without speeds, which differ from run to run.

    Empty for a folder that holds none.
    """
    from emo_ray.training.loop import TIMES

    folders = {"emovclip": path / EMOVCLIP, "fusion": path}
    metas = {phase: store.read_meta(folder) for phase, folder in folders.items() if store.is_complete(folder)}
    return {
        phase: [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in meta["history"]]
        for phase, meta in metas.items()
        if "history" in meta
    }


def _floors(
    config: Config, path: Path, encoders: Sequence[EncoderSpec], prepared: Prepared, batch: "FeatureBatch",
    probabilities: "Probabilities",
) -> dict[str, Any]:  # fmt: skip
    """What classical classifiers reach that learn from the clips of this corpus that the model was trained on.

    Empty where none are to be measured, or the model was trained on another corpus.
    """
    from emo_ray.models import checkpoint
    from emo_ray.training import bootstrap, floors

    seen = store.read_json(path / SEEN)
    labelled = prepared.labels_of("train") | prepared.labels_of("validation")
    trained = {clip_id: label for clip_id, label in labelled.items() if seen.get(clip_id) == "train"}
    if not trained or not config.evaluate.has_floors(len(trained)):
        return {}
    train = features_for(checkpoint.load_fusion(path), config, path, encoders, prepared, trained)
    groups = grouped(prepared.clips_of(train.clip_ids)).names
    guesses = floors.guesses(train, batch, groups, config.seed)
    group_B = bootstrap.speaker_groups(prepared.speakers_of(batch.clip_ids))
    return floors.comparison(guesses, probabilities, batch.label_B.numpy(), group_B, config.seed)


def _transcript_notes(
    config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec], judged: JudgedClips
) -> list[str]:
    """How many of the clips had no text but what a recogniser wrote."""
    paths = [encoder.transcripts for encoder in encoders if encoder.transcripts is not None]
    with_text = {clip.clip_id for clip in prepared.clips if clip.has_words}
    written = {clip_id for path in paths for clip_id in believed(path)}
    count = len((written - with_text) & judged.label_of.keys())
    words = f"the text of {count} of these {len(judged.label_of)} clips was transcribed by {config.transcribe.model}"
    return [words] if count else []
