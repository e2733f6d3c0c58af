"""Sound encoders, all frozen: `(batch) -> features_BD`, with D as `dim`. `identity.audio_digest` names their output.

A row of NaN means that the encoder has no feature for that clip, because its sound is shorter than one frame.
`functionals` needs no download, `opensmile:SET` the package opensmile. Any other name is a transformers speech model
(HuBERT, wav2vec2, WavLM or Whisper's encoder), pooled as the field's baseline does: mean over time of the mean of the
last four hidden layers.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import nn

from emo_ray.config.media_settings import RATE_HZ
from emo_ray.config.model_settings import OFFLINE_AUDIO, OPENSMILE, Audio
from emo_ray.data.batch import AudioBatch
from emo_ray.models import pretrained
from emo_ray.models.functionals import Functionals
from emo_ray.models.hidden_states import masked_sum, mean_of_layers
from emo_ray.models.opensmile_sets import OpenSmile

# Models whose attention mask was shown to undo padding; for others a batch holds sound of one length.
_MASKED = {"hubert", "wav2vec2", "wavlm"}


@dataclass(frozen=True)
class Frames:
    """The positions of a model's frames, in samples: frame f exists from `first + f * stride` samples on."""

    first: int
    stride: int
    centre: int  # of frame 0
    shortest: int  # shorter sound has no frame

    def count(self, samples: int) -> int:
        """The number of frames in this many samples."""
        return 1 + (samples - self.first) // self.stride if samples >= self.shortest else 0


@dataclass(frozen=True)
class Window:
    """A stretch of a clip's sound, and which of its frames count."""

    clip: int
    wave_S: np.ndarray
    kept: range


class SpeechModel(nn.Module):
    """A transformers speech encoder by hub name or folder, in evaluation mode."""

    def __init__(self, config: Audio):
        from transformers import AutoFeatureExtractor, AutoModel  # seconds to import

        super().__init__()
        self.config = config
        self.extract = pretrained.load(AutoFeatureExtractor, config.encoder, revision=config.revision)
        if self.extract.sampling_rate != RATE_HZ:
            raise ValueError(
                f"{config.encoder}: found a model of {self.extract.sampling_rate} Hz sound, expected {RATE_HZ} Hz, "
                "which is what shards hold: choose another model"
            )
        self.extract.padding_side = "right"  # frames are counted from a clip's beginning
        # Loaded in fp32; `forward` casts it, because `auto` depends on the device.
        self.model = pretrained.load_body(AutoModel, config.encoder, revision=config.revision, dtype=torch.float32)
        self.dim = self.model.config.hidden_size
        self.frames = _frames(config, self.model.config, self.extract)
        self.whisper = self.model.config.model_type == "whisper"
        self.masked = not self.whisper and self.extract.return_attention_mask and _mask_is_exact(self.model.config)

    @torch.inference_mode()
    def forward(self, batch: AudioBatch) -> torch.Tensor:
        """float32 features_BD: the mean over layers, then over frames; NaN for a clip without a frame.

        Every moment of a clip counts once, and neighbours never matter. Raises ValueError for layers that do not exist.
        """
        pretrained.cast(self.model, self.config.dtype)
        sums_BD = torch.zeros(len(batch), self.dim, device=self.model.device)
        frames_B1 = torch.zeros(len(batch), 1, device=self.model.device)
        for group in self._groups(self._windows(batch)):
            for window, sum_D in zip(group, self._sums(group), strict=True):
                sums_BD[window.clip] += sum_D
                frames_B1[window.clip] += len(window.kept)
        has_B = frames_B1.flatten() > 0
        names = tuple(name for name, has in zip(batch.clip_ids, has_B.tolist(), strict=True) if has)
        pretrained.check_finite(sums_BD[has_B], names, "audio")
        return sums_BD / frames_B1  # without a frame 0 / 0, which is NaN

    def _windows(self, batch: AudioBatch) -> Iterator[Window]:
        """The windows of all clips; a clip that is too short has none."""
        size, overlap = round(self.config.window_s * RATE_HZ), round(self.config.overlap_s * RATE_HZ)
        clips = zip(batch.audio_BS.cpu(), batch.audio_lengths_B.tolist(), strict=True)
        for clip, (audio_S, length) in enumerate(clips):
            for start, stop, first, last in windows(length, size, overlap):
                centres = start + self.frames.centre + self.frames.stride * np.arange(self.frames.count(stop - start))
                kept = range(*np.searchsorted(centres, [first, last]).tolist())
                if len(kept):
                    yield Window(clip, audio_S[start:stop].numpy(), kept)

    def _groups(self, all_windows: Iterable[Window]) -> Iterator[list[Window]]:
        """Batches of windows; similar lengths are put together, which needs less padding."""
        ordered = sorted(all_windows, key=_samples)
        may_pad = self.masked or self.whisper
        parts = [ordered] if may_pad else [list(part) for _, part in groupby(ordered, key=_samples)]
        size = self.config.batch_size
        yield from (part[i : i + size] for part in parts for i in range(0, len(part), size))

    def _sums(self, group: Sequence[Window]) -> torch.Tensor:
        """The sum over kept frames of the mean over layers, (windows, D)."""
        padding = {} if self.whisper else {"padding": True}  # Whisper pads to a fixed length by itself
        inputs = self.extract(
            [window.wave_S for window in group],
            sampling_rate=RATE_HZ,
            return_attention_mask=self.masked,
            return_tensors="pt",
            **padding,
        ).to(self.model.device, self.model.dtype)
        with warnings.catch_warnings():  # WavLM gives torch a boolean mask and a float position bias
            warnings.filterwarnings("ignore", "Support for mismatched key_padding_mask")
            states = pretrained.hidden_states(self.model, **inputs)
        values_BFD = mean_of_layers(states, self.config.layers)
        if values_BFD.shape[1] < max(window.kept.stop for window in group):
            raise ValueError(
                f"{self.config.encoder}: found fewer frames than its convolutions make, expected a model that keeps "
                "them all, as hubert, wav2vec2 and wavlm do"
            )
        frame_F = torch.arange(values_BFD.shape[1])
        kept_BF = torch.stack([(frame_F >= w.kept.start) & (frame_F < w.kept.stop) for w in group])
        return masked_sum(values_BFD, kept_BF)


def _samples(window: Window) -> int:
    return len(window.wave_S)


def windows(samples: int, size: int, overlap: int) -> list[tuple[int, int, int, int]]:
    """Overlapping windows over a sound as (start, stop, first, last), in samples.

    Of each window only first..last counts, and these parts lie side by side: where two windows meet, half the overlap
    of each is left out, because a model has least context there. The last window may be shorter than the others.
    """
    hop, half = size - overlap, overlap // 2
    starts = [i * hop for i in range(1 + max(0, math.ceil((samples - size) / hop)))]
    edges = [0, *(start + half for start in starts[1:]), samples]
    return [(s, min(s + size, samples), edges[i], edges[i + 1]) for i, s in enumerate(starts)]


def _frames(config: Audio, architecture: Any, extract: Any) -> Frames:
    """The frames of a model. Raises ValueError for one that takes sound in another way than HuBERT or Whisper do."""
    if architecture.model_type == "whisper":
        longest_s = extract.n_samples / RATE_HZ
        if config.window_s > longest_s:
            raise ValueError(
                f"found audio.window_s={config.window_s:g} for a model of {longest_s:g} s, expected at most that"
            )
        return Frames(first=1, stride=2 * extract.hop_length, centre=0, shortest=extract.n_fft)
    if not hasattr(architecture, "conv_kernel"):
        raise ValueError(
            f"{config.encoder}: found a model of type {architecture.model_type}, expected one that takes waveforms as "
            "hubert, wav2vec2 and wavlm do, or whisper"
        )
    receptive, stride = 1, 1
    for kernel, step in zip(architecture.conv_kernel, architecture.conv_stride, strict=True):
        receptive, stride = receptive + (kernel - 1) * stride, stride * step
    return Frames(first=receptive, stride=stride, centre=receptive // 2, shortest=receptive)


def _mask_is_exact(architecture: Any) -> bool:
    """Whether a padded clip with a mask gives the same values as the clip alone.

    It does not with group norm, whose statistics over time include the padding, nor with batch norm, which turns the
    zeros of the padding into other values than those that a convolution sees beyond a clip's end.
    """
    if architecture.model_type not in _MASKED:
        return False
    return architecture.feat_extract_norm == "layer" and not getattr(architecture, "conv_pos_batch_norm", False)


ENCODERS: dict[str, type[nn.Module]] = {
    "functionals": Functionals,
    **{name: OpenSmile for name in OFFLINE_AUDIO if name.startswith(OPENSMILE)},
}


def build(config: Audio) -> nn.Module:
    """The encoder that `audio.encoder` names."""
    return ENCODERS.get(config.encoder, SpeechModel)(config)
