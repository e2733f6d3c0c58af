"""noise: a model on clips of which one modality is made worse step by step, by the encoders that it has.

Degraded rows are encoded in this process and not kept, but the predictions of each step are: a ladder that was stopped
goes on after its last whole step. The other modalities of a clip stay as they are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from emo_ray import parquet, store
from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data import clip_tables, degradation, media, transcripts
from emo_ray.data.batch import FeatureBatch
from emo_ray.data.prepared import Prepared
from emo_ray.inference.encoders import EncoderSpec
from emo_ray.inference.encoding import encode_rows, shard_columns
from emo_ray.models.head_average import Head
from emo_ray.progress import progress
from emo_ray.reports.noise import CLEAN, NoiseLadder, Shown, Step
from emo_ray.training import bootstrap
from emo_ray.training.in_memory import own_device
from emo_ray.training.metrics import counts, of_counts
from emo_ray.training.scoring import shown_only

Degrade = Callable[[pa.Table], pa.Table]  # rows of shards to the same rows, degraded
_SNR_DB = (20, 10, 5, 0)
_LEVELS = (1, 2, 4)
_DROPPED = (0.25, 0.5)
_BABBLE_CLIPS = 32  # whose sounds babble is made of


@dataclass(frozen=True)
class LadderTrial:
    """A model and the labelled clips that it is tried on.

    `table` holds the clean features of the clips and of their neighbours; `batch_of` makes of such a table the batch
    of the labelled clips as the head takes it. `parts` is the folder that keeps the predictions of every step.
    """

    head: Head
    encoders: Sequence[EncoderSpec]
    table: pa.Table
    batch_of: Callable[[pa.Table], FeatureBatch]
    checkpoint: str
    split: str
    parts: Path


def ladder(config: Config, prepared: Prepared, trial: LadderTrial) -> NoiseLadder:
    """The scores at every step, of each modality that is encoded from media or text."""
    clean = trial.batch_of(trial.table)
    encoders = [encoder for encoder in trial.encoders if not encoder.sources and encoder.modality in clean.features]
    parts = prepared.parts_with(clean.clip_ids)
    group_B = bootstrap.speaker_groups(prepared.speakers_of(clean.clip_ids))
    measure = partial(_measured, clean, group_B, config.seed)
    steps: list[Step] = []
    rungs = {encoder.modality: degradations(config.seed, encoder.modality) for encoder in encoders}
    total = sum(len(clean) * len(of_modality) for of_modality in rungs.values())
    with own_device(config) as device, progress("noise ladder", total, "clips") as advance:
        for encoder in encoders:
            modality = encoder.modality
            module = cache(partial(encoder.built, device.type))
            steps.append(measure(_predicted(trial.head, clean, modality), modality, CLEAN))
            for number, (name, degrade) in enumerate(rungs[modality].items(), start=1):
                part = trial.parts / f"{modality}-{number}.parquet"
                if not store.exists(part):
                    encoded = [
                        encode_rows(encoder, module(), degrade(rows), device.type)
                        for rows in _rows(prepared, parts, encoder, clean.clip_ids)
                    ]
                    noisy = trial.batch_of(_with_features(trial.table, modality, pa.concat_tables(encoded)))
                    parquet.write(part, _predicted(trial.head, noisy, modality), parquet.LIGHT_ROWS)
                steps.append(measure(parquet.read(part), modality, name))
                advance(len(clean), f"{modality}: {name}")
    return {
        "checkpoint": trial.checkpoint,
        "split": trial.split,
        "drawn": "clips" if group_B is None else "speakers",
        "guessing": 1 / len(prepared.labels),
        "steps": steps,
        "notes": _notes(trial, clean),
    }


def degradations(seed: int, modality: str) -> dict[str, Degrade]:
    """The steps of a modality by name, from the least to the worst."""
    if modality == "audio":
        return {f"SNR {snr_db} dB": partial(_noisy, seed, snr_db) for snr_db in _SNR_DB}
    if modality == "video":
        names = {levels: f"blur, {levels} level{'s' if levels > 1 else ''}" for levels in _LEVELS}
        blurs = {
            names[levels]: partial(_frames, partial(degradation.blurred_frames, levels=levels)) for levels in _LEVELS
        }
        return {"half the frames": partial(_frames, degradation.halved_frames), **blurs}
    return {f"{100 * share:.0f} % of words dropped": partial(_wordless, seed, share) for share in _DROPPED}


def _rows(
    prepared: Prepared, parts: Sequence[str], encoder: EncoderSpec, clip_ids: Sequence[str]
) -> Iterator[pa.Table]:
    """The decoded rows of these clips, part by part, with the frames and the transcripts that the encoder reads."""
    for part in parts:
        table = parquet.read(prepared.shards / part, columns=shard_columns(encoder.reads))
        table = clip_tables.of_clips(table, clip_ids)
        if len(table):
            if encoder.frames is not None:
                table = _frames(partial(_seen, encoder.frames), table)
            yield transcripts.filled(table, encoder.transcripts) if encoder.modality == "text" else table


def _noisy(seed: int, snr_db: float, rows: pa.Table) -> pa.Table:
    """Rows whose sound has white noise and babble of other rows' sounds."""
    ids = rows["clip_id"].to_pylist()
    sounds = [np.frombuffer(sound, "<i2") if sound else None for sound in rows["audio"].to_pylist()]
    voices = [(clip_id, sound_S) for clip_id, sound_S in zip(ids, sounds, strict=True) if sound_S is not None]
    noisy = []
    for clip_id, sound_S in zip(ids, sounds, strict=True):
        if sound_S is None or not len(sound_S):
            noisy.append(None if sound_S is None else b"")
            continue
        others = [voice_S for name, voice_S in voices[:_BABBLE_CLIPS] if name != clip_id]
        noise_S = degradation.noise(len(sound_S), others, degradation.clip_rng(seed, clip_id, "noise"))
        noisy.append(degradation.with_noise(sound_S, noise_S, snr_db).astype("<i2").tobytes())
    return _replaced(rows, "audio", noisy)


def _frames(change: Callable[[Sequence[bytes]], Sequence[bytes]], rows: pa.Table) -> pa.Table:
    """Rows whose frames are changed."""
    return _replaced(rows, "frames", [None if jpegs is None else change(jpegs) for jpegs in rows["frames"].to_pylist()])


def _seen(frames: int, jpegs: Sequence[bytes]) -> list[bytes]:
    """Choose the frames that a model sees, before they are made worse: no work goes into frames that it never sees."""
    return [jpegs[place] for place in media.spread(len(jpegs), frames)]


def _wordless(seed: int, share: float, rows: pa.Table) -> pa.Table:
    """Rows of whose words a share is dropped."""
    texts = [
        None
        if text is None
        else degradation.with_words_dropped(text, share, degradation.clip_rng(seed, clip_id, "words"))
        for clip_id, text in zip(rows["clip_id"].to_pylist(), rows["text"].to_pylist(), strict=True)
    ]
    return _replaced(rows, "text", texts)


def _replaced(rows: pa.Table, name: str, values: Sequence[Any]) -> pa.Table:
    column = pa.array(values, rows.schema.field(name).type)
    return clip_tables.with_column(rows, name, column)


def _with_features(table: pa.Table, modality: str, encoded: pa.Table) -> pa.Table:
    """A table of features with those of the encoded clips in place of its own."""
    row_of = {clip_id: row for row, clip_id in enumerate(encoded["clip_id"].to_pylist())}
    places = np.array([row_of.get(clip_id, -1) for clip_id in table["clip_id"].to_pylist()])
    for name, column in ((modality, "feature"), (f"has_{modality}", "present")):
        both = pa.concat_arrays([encoded[column].combine_chunks(), table[name].combine_chunks()])
        rows = np.where(places >= 0, places, len(encoded) + np.arange(len(table)))
        table = clip_tables.with_column(table, name, both.take(pa.array(rows)))
    return table


def _predicted(head: Head, batch: FeatureBatch, modality: str) -> pa.Table:
    """The probabilities of each clip, of the modality `alone` and of all that it has (`full`)."""
    shown: Mapping[str, Sequence[str]] = {"alone": [modality], "full": MODALITIES}
    columns = {
        key: pa.array(shown_only(head, batch, names).tolist(), pa.list_(pa.float32())) for key, names in shown.items()
    }
    return pa.table({"clip_id": pa.array(batch.clip_ids, pa.string()), **columns})


def _measured(
    clean: FeatureBatch, group_B: np.ndarray | None, seed: int, predicted: pa.Table, modality: str, name: str
) -> Step:
    """The scores of predictions on the clips that have the modality before it is degraded."""
    rows = np.flatnonzero(clean.present_BM[:, MODALITIES.index(modality)].numpy())
    label_B = clean.label_B.numpy()[rows]
    groups = bootstrap.groups_among(group_B, rows)
    scores: dict[str, Shown] = {}
    for key in ("alone", "full"):
        probability_BK = np.array(predicted[key].to_pylist())[rows]
        guess_B = probability_BK.argmax(axis=1)
        classes = probability_BK.shape[1]
        waf = float(of_counts(counts(guess_B, label_B, classes))["waf"])
        intervals = bootstrap.score_intervals(guess_B, label_B, classes, groups, seed)
        scores[key] = {"waf": waf, "interval": intervals["waf"]}
    return {"modality": modality, "step": name, "alone": scores["alone"], "full": scores["full"], "n": len(rows)}


def _notes(trial: LadderTrial, clean: FeatureBatch) -> list[str]:
    notes = []
    for encoder in trial.encoders:
        if encoder.sources:
            notes.append(f"{encoder.modality} comes from feature tables: it cannot be degraded")
        elif encoder.readings is not None and encoder.modality in clean.features:
            notes.append("readings of transcripts are of all words, also where words are dropped")
    if trial.head.offsets:
        notes.append("neighbours of a clip are degraded with it where they belong to the same split")
    return notes
