"""crossvalidate: the fusion head trained and tested in folds, for corpora too small to be split, to a report.

Folds are grouped by speaker. All that a head knows it knows from the training clips of its fold: scale, the mean that
stands for unknown values, its settings (chosen in inner folds), weights.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emo_ray import cluster, durable, store, tracking
from emo_ray.config import Config, flatten, override, settings_of
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data import splits, status
from emo_ray.data.dialogues import Windows, windows_of, with_neighbours
from emo_ray.data.prepared import LabelOf, Prepared
from emo_ray.inference.encoders import EncoderSpec, frozen_encoders
from emo_ray.models.identity import SPEAKER_VERSION, licence_notes
from emo_ray.progress import progress
from emo_ray.reports import evaluation
from emo_ray.reports.scorecard import PREDICTIONS, REPORT, EvaluationReport, FoldScores, ModelCalibration, convention_of
from emo_ray.reports.wording import plural
from emo_ray.stages import scorecard_links
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.evaluate import report_result, track_report
from emo_ray.stages.fitting.plan import NO_VIDEO_IN_FOLDS, votes_of
from emo_ray.stages.result import Result

if TYPE_CHECKING:
    from emo_ray.data.batch import FeatureBatch
    from emo_ray.training.held_out import FoldTested

VERSION = 8  # 7: features are dropped in training; 8: probabilities are calibrated
FOLDS = 5
Probabilities = dict[str, np.ndarray]  # subset of the modalities -> (clips, K)


def crossvalidate(config: Config) -> Result:
    """Every labelled clip tested by heads of the other folds. Makes the features that are missing before.

    Raises ValueError where there are too few speakers or labels, or no features.
    """
    if config.checkpoint is not None:
        raise ValueError(f"found checkpoint={config.checkpoint}, expected none: cross-validation trains in every fold")
    for key in ("fusion.start_from", "train.pseudo_labels"):
        if (value := flatten(config)[key]) is not None:
            raise ValueError(f"found {key}={value}, expected none: it may know the clips that a fold is tested on")
    corpus = open_corpus(override(config, {"data.folds": config.data.folds or FOLDS}))
    prepared = corpus.prepared
    config = override(config, {"data.folds": _count(config, prepared)})
    label_of = prepared.labels_of("train")
    if len(set(label_of.values())) < 2:
        raise ValueError(
            "found labelled clips of fewer than two classes, expected at least two: see data.columns.label"
        )
    encoders = frozen_encoders(config, corpus.texts)
    key = _key(config, prepared, encoders)
    folder = cluster.store_root(config) / "reports" / f"folds-{key}"

    def fill(temporary: Path) -> None:
        tracking.check(config, cluster.store_root(config))
        _measure(temporary, config, prepared, encoders, label_of)

    meta = {"kind": "report", "version": VERSION, "folds": config.data.folds, **scorecard_links.META}
    store.artefact(folder, meta, fill)
    content = store.read_json(folder / REPORT)
    track_report(config, key, "crossvalidate", folder, content)
    return report_result(config, folder, content, prepared)


def _key(config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec]) -> str:
    """Digest of everything that decides the scores of cross-validation."""
    digests = [encoder.digest for encoder in encoders]
    by_speaker = [SPEAKER_VERSION] if config.tables.standardise == "speaker" else []
    return store.digest(VERSION, settings_of(config, "folds"), digests, prepared.path.name, *by_speaker)


def _measure(
    folder: Path, config: Config, prepared: Prepared, encoders: Sequence[EncoderSpec], label_of: LabelOf
) -> None:
    """Train in all folds and write the report."""
    import pyarrow as pa

    from emo_ray.data.targets import with_targets
    from emo_ray.stages.cards import write_mistakes
    from emo_ray.stages.encoding import external_tables
    from emo_ray.stages.encoding.feature_tables import encode_corpus, load
    from emo_ray.stages.encoding.labelled import labelled_batch
    from emo_ray.training.scoring import report_of, write_predictions
    from emo_ray.training.speaker_scaling import NOTE

    parts = prepared.parts_with(with_neighbours(label_of, windows_of(prepared.clips, config.fusion.context.offsets)))
    table = load(prepared, encode_corpus(config, prepared, encoders, parts), parts).sort_by("clip_id")
    batch = labelled_batch(table, label_of, None)
    if not len(batch):
        raise ValueError("found no labelled clip with any usable modality, expected some: see tables.* and data.*")
    fold_B = _folds(config, prepared, batch)
    batch = labelled_batch(table, label_of, _windows(config, prepared, batch, fold_B))
    batch = with_targets(batch, votes_of(config, prepared, label_of))
    folds = _test_folds(config, prepared, batch, fold_B)
    probabilities = {name: _gathered([fold.probabilities[name] for fold in folds], fold_B) for name in SUBSETS}
    content: EvaluationReport = report_of(batch, probabilities, prepared, "folds", config.seed)
    if custom := convention_of(config.data.corpus, config.data.manifest, content["notes"]):
        content["convention"] = custom
    if config.evaluate.has_floors(len(batch)):
        content["floors"] = _floors(config, prepared, batch, folds, fold_B, probabilities)
    content["folds"] = _fold_scores(prepared, batch, fold_B, probabilities)
    content["notes"] += _notes(config, prepared, batch, len(label_of)) + _fold_notes(prepared, batch, fold_B)
    if chosen := [fold.chosen for fold in folds if fold.chosen]:
        content["notes"].append(f"inner folds of the training clips chose, fold by fold: {'; '.join(chosen)}")
    content["notes"] += external_tables.notes(config, prepared, encoders, parts) + licence_notes(config)
    content["notes"] += [NOTE] if config.tables.standardise == "speaker" else []
    speakers = prepared.speakers_of(batch.clip_ids)
    more_columns = {"fold": pa.array(fold_B + 1), "speaker": pa.array(speakers, pa.string())}
    write_predictions(folder / PREDICTIONS, batch, probabilities, prepared.labels, more_columns)
    shown, content["calibration"] = _calibrated(probabilities, batch, fold_B)
    durable.write_json(folder / REPORT, content)
    about = f"Probabilities are calibrated by a temperature, fitted on {content['calibration']['fitted_on']}."
    write_mistakes(folder, prepared, batch, shown, config.media.face.margin, about)
    evaluation.write(content, folder, [scorecard_links.MISTAKES_LINK])


def _floors(
    config: Config, prepared: Prepared, batch: "FeatureBatch", folds: Sequence["FoldTested"], fold_B: np.ndarray,
    probabilities: Probabilities,
) -> dict[str, Any]:  # fmt: skip
    """What classical classifiers reach that learn from the same clips, fold by fold."""
    from emo_ray.training import bootstrap, floors

    guesses = {
        subset: {name: _gathered([fold.floors[subset][name] for fold in folds], fold_B) for name in floors.FLOORS}
        for subset in SUBSETS
    }
    group_B = bootstrap.speaker_groups(prepared.speakers_of(batch.clip_ids))
    return floors.comparison(guesses, probabilities, batch.label_B.numpy(), group_B, config.seed)


def _calibrated(
    probabilities: Probabilities, batch: "FeatureBatch", fold_B: np.ndarray
) -> tuple[Probabilities, ModelCalibration]:
    """The probabilities at the temperature of each clip's fold, and what that changes.

    A fold's temperature is fitted on what the other folds' heads say of the clips that those were tested on.
    """
    from emo_ray.training import calibration
    from emo_ray.training.scoring import EVERYTHING

    before_BK = probabilities[EVERYTHING]
    label_B = batch.label_B.numpy()
    temperatures = calibration.fold_temperatures(before_BK, label_B, fold_B)
    temperature_B1 = np.array(temperatures)[fold_B, None]
    shown = {name: calibration.calibrated(values_BK, temperature_B1) for name, values_BK in probabilities.items()}
    spread = f"{min(temperatures):.2f} to {max(temperatures):.2f}"
    change = calibration.change(before_BK, shown[EVERYTHING], label_B)
    fitted_on = f"the tested clips of the other folds, fold by fold ({spread})"
    return shown, {"temperature": float(np.median(temperatures)), "fitted_on": fitted_on} | change


def _count(config: Config, prepared: Prepared) -> int:
    """How many folds there are: the corpus' own, or as many as are to be cut."""
    published = splits.published_folds(prepared.clips)
    if config.data.columns.get("fold") is None:
        return config.data.folds or FOLDS
    column = config.data.columns["fold"]
    count = len(published)
    if count < 2:
        raise ValueError(
            f"data.columns.fold={column}: found {count} folds of labelled clips, expected at least two: name the "
            "column of published folds, or leave data.columns.fold out, so that folds are cut"
        )
    if config.data.folds not in (None, count):
        raise ValueError(
            f"found data.folds={config.data.folds} with data.columns.fold={column}, a column of {count} folds, "
            "expected null, for the corpus brings its own folds along"
        )
    return count


def _folds(config: Config, prepared: Prepared, batch: "FeatureBatch") -> np.ndarray:
    clips = prepared.clips_of(batch.clip_ids)
    if published := splits.published_folds(prepared.clips):
        fold_B = np.array([published.index(clip.fold or "") for clip in clips])
        if empty := [name for place, name in enumerate(published) if place not in fold_B]:
            raise ValueError(
                f"data.columns.fold={config.data.columns['fold']}: found no usable modality in any clip of fold "
                f"{empty[0]!r}, expected some: see bad_media.csv in {prepared.path}"
            )
        return fold_B
    return splits.folds(clips, config.data.folds or FOLDS, config.seed)


def _windows(config: Config, prepared: Prepared, batch: "FeatureBatch", fold_B: np.ndarray) -> Windows | None:
    """The neighbours of the clips: none of another fold."""
    fold_of = dict(zip(batch.clip_ids, fold_B.tolist(), strict=True))
    return windows_of(prepared.clips, config.fusion.context.offsets, fold_of)


def _test_folds(config: Config, prepared: Prepared, batch: "FeatureBatch", fold_B: np.ndarray) -> list["FoldTested"]:
    """What heads and floors say of the clips of each fold, which they were not trained on."""
    from emo_ray.stages.fitting.folds import in_folds
    from emo_ray.training.held_out import held_out

    groups = splits.grouped(prepared.clips_of(batch.clip_ids)).names
    masks = [fold_B == fold for fold in range(fold_B.max() + 1)]
    folds = [(batch, mask_B, config, prepared.labels, groups) for mask_B in masks]
    with progress(f"training in {len(folds)} folds", len(folds), "folds") as advance:
        return in_folds(config, len(batch), held_out, folds, advance)


def _fold_scores(
    prepared: Prepared, batch: "FeatureBatch", fold_B: np.ndarray, probabilities: Probabilities
) -> list[FoldScores]:
    """The scores of each fold, with its speakers."""
    import torch

    from emo_ray.training.scoring import scores

    published = splits.published_folds(prepared.clips)
    folds: list[FoldScores] = []
    for fold in range(fold_B.max() + 1):
        tested_B = fold_B == fold
        rows = batch.rows(torch.from_numpy(tested_B))
        speakers = {name for name in prepared.speakers_of(rows.clip_ids) if name is not None}
        measured = scores(rows, {name: values[tested_B] for name, values in probabilities.items()})
        folds.append(
            {
                "n_clips": len(rows),
                "speakers": sorted(speakers),
                "subsets": measured["subsets"],
                "available": measured["available"],
            }
        )
        if published:
            folds[-1]["name"] = published[fold]
    return folds


def _fold_notes(prepared: Prepared, batch: "FeatureBatch", fold_B: np.ndarray) -> list[str]:
    """The classes that a fold lacks, and those that one fold alone has: no head has learnt them when it is tested."""
    label_B = batch.label_B.numpy()
    folds_of = {label: sorted(set(fold_B[label_B == k] + 1)) for k, label in enumerate(prepared.labels)}
    notes = []
    for fold in range(1, fold_B.max() + 2):
        lacking = [label for label, folds in folds_of.items() if folds and fold not in folds]
        if lacking:
            notes.append(f"warning: fold {fold} tests no {', '.join(lacking)}: its UAR is over the other classes")
    single = [label for label, folds in folds_of.items() if len(folds) == 1]
    if single:
        notes.append(f"warning: {', '.join(single)}: in one fold alone, so never learnt where tested")
    return notes


def _gathered(of_folds: Sequence[np.ndarray], fold_B: np.ndarray) -> np.ndarray:
    """The rows of all folds in the order of the clips."""
    whole = np.empty((len(fold_B), *of_folds[0].shape[1:]), of_folds[0].dtype)
    for fold, rows in enumerate(of_folds):
        whole[fold_B == fold] = rows
    return whole


def _notes(config: Config, prepared: Prepared, batch: "FeatureBatch", labelled_clips: int) -> list[str]:
    heads = config.train.averaged_heads(len(batch))
    notes = [
        splits.fold_note([clip for clip in prepared.clips if clip.clip_id in batch.clip_ids]),
        f"probabilities are means of {plural(heads, 'head')}",
    ]
    has_video = any(map(status.is_ok, prepared.ledger["video_status"].unique().to_pylist()))
    if has_video and "video" not in config.tables.given:
        notes.append(NO_VIDEO_IN_FOLDS)
    if len(batch) < labelled_clips:
        notes.append(f"{labelled_clips - len(batch)} labelled clips have no usable modality and are not measured")
    incomplete = [name for name in MODALITIES if name in batch.features and batch.features[name].isnan().any()]
    if incomplete:
        notes.append(f"unknown {' and '.join(incomplete)} values are the mean of the training folds")
    return notes
