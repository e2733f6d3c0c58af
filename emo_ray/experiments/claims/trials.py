"""Single trials of the claims: one model trained and measured on one synthetic world, in this process alone.

Scores are weighted F1 on the test split. Whatever is chosen (epochs, a probe's strength, a caption) is chosen on the
validation split.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.batch import FeatureBatch, from_features, video_from_shards
from emo_ray.data.prepared import Prepared
from emo_ray.models import emovclip
from emo_ray.models.clip import load_clip, pixel_statistics, tokenizer
from emo_ray.stages.encoding.actor import shard_columns
from emo_ray.stages.encoding.feature_tables import load
from emo_ray.training import in_memory, loop
from emo_ray.training.metrics import metrics
from emo_ray.training.scoring import shown_only

SPLITS, JUDGED = ("train", "validation", "test"), ("validation", "test")
CAPTIONS = ("{}", "a photo of a {} face", "a person who looks {}")
PROBE_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse, of the L2 penalty
_CHUNK = 64  # clips


@dataclass(frozen=True, kw_only=True)
class WorldBatch(FeatureBatch):
    """Clips as the features of their sound and text, and as their frames."""

    frames_BTCHW: torch.Tensor  # uint8, zeros for a clip without video


@dataclass(frozen=True)
class World:
    """The labelled clips of a corpus in memory: frames (zeros where there are none), sound and text features.

    `embedded` holds, for the clips with video, the frozen CLIP's normalised embeddings (B, T, D) and the labels.
    """

    labels: tuple[str, ...]
    splits: dict[str, WorldBatch]
    embedded: dict[str, tuple[np.ndarray, np.ndarray]]


def load_world(config: Config, prepared: Prepared, folders: Mapping[str, Path]) -> World:
    """A small prepared corpus with the feature tables of its frozen encoders, clips in the order of their ids."""
    label_of = {split: prepared.labels_of(split) for split in SPLITS}
    parts = labelled_parts(prepared)
    features = load(prepared, folders, parts).sort_by("clip_id")
    columns = shard_columns(["video"])
    rows = pa.concat_tables([pq.read_table(prepared.shards / name, columns=columns) for name in parts])
    rows = rows.sort_by("clip_id")
    splits = {}
    for split, labels in label_of.items():
        mine = pc.is_in(rows["clip_id"], pa.array(list(labels)))
        splits[split] = _batch(rows.filter(mine), features.filter(mine), labels)
    return World(prepared.labels, splits, embedded(config, splits))


def labelled_parts(prepared: Prepared) -> list[str]:
    """The shard parts that hold the labelled clips."""
    return prepared.parts_with({clip_id: k for split in SPLITS for clip_id, k in prepared.labels_of(split).items()})


def zero_shot(world: World, config: Config) -> dict[str, float]:
    """The frozen CLIP, by the cosine of a clip's mean embedding and a caption for each class."""
    clip, tokenize, seen = load_clip(config), tokenizer(config), world.embedded
    scores = []
    for caption in CAPTIONS:
        tokens_KL = tokenize([caption.format(label.replace("_", " ")) for label in world.labels])
        with torch.inference_mode():
            classes_KD = clip.encode_text(tokens_KL, normalize=True).numpy()
        guesses = {split: frames_BTD.mean(axis=1) @ classes_KD.T for split, (frames_BTD, _) in seen.items()}
        scores.append(tuple(_waf(guesses[split], seen[split][1]) for split in JUDGED))
    return _by_key(max(scores, key=itemgetter(0)))


def probe(world: World, statistics: Sequence[str]) -> dict[str, float]:
    """A linear probe on statistics over time ("mean", "deviation", "slope") of the frozen CLIP's frame embeddings."""
    seen = world.embedded
    rows = {split: over_time(frames_BTD, statistics) for split, (frames_BTD, _) in seen.items()}
    scores = []
    for strength in PROBE_STRENGTHS:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
        classifier.fit(rows["train"], seen["train"][1])
        guesses = {split: np.eye(len(world.labels))[classifier.predict(rows[split])] for split in JUDGED}
        scores.append(tuple(_waf(guesses[split], seen[split][1]) for split in JUDGED))
    return _by_key(max(scores, key=itemgetter(0)))


def over_time(frames_BTD: np.ndarray, statistics: Sequence[str]) -> np.ndarray:
    """Statistics over T of each dimension, side by side: (B, D times their number)."""
    time_T = np.linspace(-1, 1, frames_BTD.shape[1])
    made = {
        "mean": frames_BTD.mean(axis=1),
        "deviation": frames_BTD.std(axis=1),
        "slope": np.einsum("btd,t->bd", frames_BTD, time_T) / (time_T**2).sum(),
    }
    return np.concatenate([made[name] for name in statistics], axis=1)


@torch.inference_mode()
def embedded(config: Config, splits: Mapping[str, WorldBatch]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each split, the frozen CLIP's normalised embeddings (B, T, D) of the clips with video, and their labels."""
    clip, result = load_clip(config), {}
    mean, std = pixel_statistics(clip)
    for split, batch in splits.items():
        batch = _with(batch, "video")
        parts = batch.frames_BTCHW.flatten(0, 1).split(8 * _CHUNK)
        frames = torch.cat([clip.encode_image((part / 255 - mean) / std, normalize=True) for part in parts])
        result[split] = frames.unflatten(0, (len(batch), -1)).numpy(), batch.label_B.numpy()
    return result


def video(world: World, config: Config) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """EmoVCLIP trained as `config.emovclip` says: its scores, and the features of every split's clips."""
    model = emovclip.build(config, world.labels)
    train, validation, test = (_with(world.splits[split], "video") for split in SPLITS)
    best = in_memory.fit(model, train, validation, config.emovclip, config, len(world.labels))
    guess, label = loop.predict(model, in_memory.chunks(test))
    model.eval()
    with torch.inference_mode():
        features = {
            split: torch.cat([model.encode_video(part) for part in batch.frames_BTCHW.split(_CHUNK)]).numpy()
            for split, batch in world.splits.items()
        }
    return _by_key((best["score"], _waf(guess, label))), features


def fusion(
    world: World, video_features: Mapping[str, np.ndarray], config: Config, given: Sequence[str] = MODALITIES
) -> dict[str, float]:
    """A fusion head trained on the modalities `given`: the score of every subset of them on both splits ("test/VA").

    All subsets are measured on the same clips: those that have all three modalities.
    """
    given_M = torch.tensor([name in given for name in MODALITIES])
    splits, complete = {}, {}
    for split, batch in world.splits.items():
        whole = fused(replace(batch, present_BM=batch.present_BM & given_M), video_features[split])
        usable_B = whole.present_BM.any(dim=1)
        splits[split] = whole.rows(usable_B)
        complete[split] = batch.present_BM.all(dim=1)[usable_B]
    head = in_memory.fit_head(splits["train"], splits["validation"], config, len(world.labels))
    scores = {}
    for split in JUDGED:
        judged = splits[split].rows(complete[split])
        for key, names in SUBSETS.items():
            if set(names) <= set(given):
                scores[f"{split}/{key}"] = _waf(shown_only(head, judged, names), judged.label_B.numpy())
    return scores


def fused(batch: WorldBatch, video_features: np.ndarray) -> FeatureBatch:
    """The clips as a fusion head takes them: with features of video in the place of frames."""
    features = {**batch.features, "video": torch.from_numpy(video_features)}
    return FeatureBatch(clip_ids=batch.clip_ids, present_BM=batch.present_BM, label_B=batch.label_B, features=features)


def _batch(rows: pa.Table, features: pa.Table, label_of: Mapping[str, int]) -> WorldBatch:
    label = pa.array([label_of[clip_id] for clip_id in rows["clip_id"].to_pylist()], pa.int64())
    batch = from_features(features.append_column("label", label))
    seen_B = torch.from_numpy(rows["video_status"].to_numpy() == "ok")
    decoded = video_from_shards(rows.filter(pa.array(seen_B.numpy()))).frames_BTCHW
    frames_BTCHW = torch.zeros((len(batch), *decoded.shape[1:]), dtype=torch.uint8)
    frames_BTCHW[seen_B] = decoded
    present_BM = batch.present_BM.clone()
    present_BM[:, MODALITIES.index("video")] = seen_B
    return WorldBatch(
        clip_ids=batch.clip_ids,
        present_BM=present_BM,
        label_B=batch.label_B,
        features=batch.features,
        frames_BTCHW=frames_BTCHW,
    )


def _with(batch: WorldBatch, modality: str) -> WorldBatch:
    return batch.rows(batch.present_BM[:, MODALITIES.index(modality)])


def _by_key(scores: Sequence[float]) -> dict[str, float]:
    return {f"{split}/V": score for split, score in zip(JUDGED, scores, strict=True)}


def _waf(guess_BK: np.ndarray, label_B: np.ndarray) -> float:
    return metrics(guess_BK, label_B)["waf"]
