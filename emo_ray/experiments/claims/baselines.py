"""What needs no tuning of CLIP: captions, and linear probes on its frames. The product has neither.

Whatever is chosen (a caption, a probe's strength) is chosen on the validation split.
"""

from collections.abc import Sequence
from functools import partial
from operator import itemgetter

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from emo_ray import store
from emo_ray.config import Config, settings_of
from emo_ray.data.batch import VideoBatch, from_features
from emo_ray.data.prepared import Prepared
from emo_ray.experiments.claims.trials import JUDGED, Scores
from emo_ray.inference.encoders import EncoderSpec
from emo_ray.models.clip import load_clip, pixel_statistics, tokenizer
from emo_ray.models.emovclip import tower_of
from emo_ray.models.identity import frozen_digest
from emo_ray.stages.encoding.feature_tables import encode_corpus, load
from emo_ray.stages.encoding.labelled import labelled_rows
from emo_ray.training.metrics import metrics

VERSION = 1  # raise it when the same frames give other embeddings
SPLITS = ("train", "validation", "test")
CAPTIONS = ("{}", "a photo of a {} face", "a person who looks {}")
PROBE_STRENGTHS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)  # inverse, of the L2 penalty
_BATCH = 64  # clips
Embedded = dict[str, tuple[np.ndarray, np.ndarray]]  # split -> embeddings of frames (B, T, D), classes (B,)


class FrozenFrames(nn.Module):
    """A frozen CLIP's normalised embeddings of a clip's T frames, side by side: `(batch) -> features_BX`, X = T * D."""

    def __init__(self, config: Config):
        super().__init__()
        self.clip = load_clip(config)
        self.mean, self.std = pixel_statistics(self.clip)
        self.dim = config.media.frames * tower_of(self.clip).dim

    def forward(self, batch: VideoBatch) -> torch.Tensor:
        """All frames of a batch in one pass."""
        images = (batch.frames_BTCHW.flatten(0, 1) / 255 - self.mean) / self.std
        return self.clip.encode_image(images, normalize=True).unflatten(0, (len(batch), -1)).flatten(1)


def frames_encoder(config: Config) -> EncoderSpec:
    """The frozen CLIP as an encoder of video, whose features lie in the store as those of any encoder."""
    seen = settings_of(config, "video_features")
    digest = store.digest("frozen frames", VERSION, frozen_digest(config), *([seen] if seen else []))
    return EncoderSpec("video", digest, partial(FrozenFrames, config), _BATCH, frames=config.media.frames)


def embedded_frames(config: Config, prepared: Prepared) -> Embedded:
    """The embeddings of the clips with video, made where they are missing."""
    splits: Embedded = {}
    for split in SPLITS:
        label_of = prepared.labels_of(split)
        parts = prepared.parts_with(label_of)
        table = load(prepared, encode_corpus(config, prepared, [frames_encoder(config)], parts), parts, label_of)
        batch = from_features(labelled_rows(table, label_of))
        frames_BTD = batch.features["video"].unflatten(1, (config.media.frames, -1))
        splits[split] = frames_BTD.numpy(), batch.label_B.numpy()
    return splits


def zero_shot(config: Config, labels: Sequence[str], embedded: Embedded) -> Scores:
    """The frozen CLIP, by the cosine of a clip's mean embedding and a caption for each class."""
    clip = load_clip(config)
    tokenize = tokenizer(config)
    scores = []
    for caption in CAPTIONS:
        tokens_KL = tokenize([caption.format(label.replace("_", " ")) for label in labels])
        with torch.inference_mode():
            classes_KD = clip.encode_text(tokens_KL, normalize=True).numpy()
        guesses = {split: frames_BTD.mean(axis=1) @ classes_KD.T for split, (frames_BTD, _) in embedded.items()}
        scores.append({f"{split}/V": _waf(guesses[split], embedded[split][1]) for split in JUDGED})
    return max(scores, key=itemgetter("validation/V"))


def probe(labels: Sequence[str], embedded: Embedded, statistics: Sequence[str]) -> Scores:
    """A linear probe on statistics over time ("mean", "deviation", "slope") of the frames' embeddings."""
    rows = {split: over_time(frames_BTD, statistics) for split, (frames_BTD, _) in embedded.items()}
    scores = []
    for strength in PROBE_STRENGTHS:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
        classifier.fit(rows["train"], embedded["train"][1])
        guesses = {split: np.eye(len(labels))[classifier.predict(rows[split])] for split in JUDGED}
        scores.append({f"{split}/V": _waf(guesses[split], embedded[split][1]) for split in JUDGED})
    return max(scores, key=itemgetter("validation/V"))


def over_time(frames_BTD: np.ndarray, statistics: Sequence[str]) -> np.ndarray:
    """Statistics over T of each dimension, side by side: (B, D times their number)."""
    time_T = np.linspace(-1, 1, frames_BTD.shape[1])
    values_of = {
        "mean": frames_BTD.mean(axis=1),
        "deviation": frames_BTD.std(axis=1),
        "slope": np.einsum("btd,t->bd", frames_BTD, time_T) / (time_T**2).sum(),
    }
    return np.concatenate([values_of[name] for name in statistics], axis=1)


def _waf(guess_BK: np.ndarray, label_B: np.ndarray) -> float:
    return metrics(guess_BK, label_B)["waf"]
