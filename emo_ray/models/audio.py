"""Sound encoders, all frozen: `(batch) -> features_BD`, with `dim` and, from `digest`, what decides their output.

`functionals` needs no download; any other name is a transformers speech model (HuBERT family), pooled as the field's
baseline does: mean over valid time of the mean of the last four hidden layers.
"""

import torch
import torchaudio.functional as AF
from torch import nn
from torchaudio.transforms import MFCC

from emo_ray import store
from emo_ray.data.batch import Batch
from emo_ray.models.pooling import masked_mean, mean_of_layers, source_digest
from emo_ray.settings import Audio

VERSION = 1
RATE_HZ = 16_000
HOP = 160  # samples: 10 ms
_RECEPTIVE_SAMPLES = 400  # of the HuBERT family's convolutions; shorter sound is zero-padded to one frame
_MIN_SAMPLES = RATE_HZ // 2  # shorter sound is zero-padded to this: the pitch smoother needs 30 frames
_PITCH_HZ = (65.0, 500.0)
_VOICED_DB = 30.0  # frames within this of the loudest count as voiced


class Functionals(nn.Module):
    """Statistics over time of MFCC, their deltas, energy and pitch: the offline stand-in for a speech model."""

    dim = 20 * 4 + 6 + 7

    def __init__(self, config: Audio):
        super().__init__()
        mel = {"n_fft": 400, "hop_length": HOP, "n_mels": 40, "center": True}
        self.mfcc = MFCC(RATE_HZ, n_mfcc=20, melkwargs=mel)

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """float32 features_BD; each clip is taken at its own length, so neighbours cannot matter."""
        clips = zip(batch.audio_BS, batch.audio_lengths_B.tolist(), strict=True)
        return torch.stack([self._clip(audio_S[:length]) for audio_S, length in clips])

    def _clip(self, audio_S: torch.Tensor) -> torch.Tensor:
        audio_S = nn.functional.pad(audio_S, (0, max(0, _MIN_SAMPLES - len(audio_S))))
        mfcc_CF = self.mfcc(audio_S)
        delta_CF = AF.compute_deltas(mfcc_CF)
        power_F = audio_S.unfold(0, 400, HOP).square().mean(dim=1)
        energy_db_F = 10 * torch.log10(power_F + 1e-8)
        pitch_hz_F = AF.detect_pitch_frequency(
            audio_S, RATE_HZ, frame_time=HOP / RATE_HZ, freq_low=int(_PITCH_HZ[0]), freq_high=int(_PITCH_HZ[1])
        )
        frames = min(len(pitch_hz_F), len(energy_db_F))
        voiced_F = energy_db_F[:frames] > energy_db_F.max() - _VOICED_DB
        semitones_F = 12 * torch.log2(pitch_hz_F[:frames].clamp(*_PITCH_HZ) / 100)
        return torch.cat(
            [
                *(part.mean(dim=1) for part in (mfcc_CF, delta_CF)),
                *(part.std(dim=1) for part in (mfcc_CF, delta_CF)),
                _shape(energy_db_F),
                _shape(semitones_F[voiced_F]),
                voiced_F.float().mean()[None],
            ]
        )


def _shape(values_F: torch.Tensor) -> torch.Tensor:
    """Mean, deviation, three quantiles and the slope per second of a curve over time."""
    if len(values_F) == 0:
        return values_F.new_zeros(6)
    time_s = torch.arange(len(values_F), dtype=values_F.dtype, device=values_F.device) * (HOP / RATE_HZ)
    centred = time_s - time_s.mean()
    slope = (centred * values_F).sum() / centred.square().sum().clamp(min=1e-6)
    quantiles = values_F.quantile(values_F.new_tensor([0.1, 0.5, 0.9]))
    return torch.stack([values_F.mean(), values_F.std(correction=0), *quantiles, slope])


class SpeechModel(nn.Module):
    """A transformers speech encoder by hub name or folder, in evaluation mode."""

    def __init__(self, config: Audio):
        from transformers import AutoFeatureExtractor, AutoModel  # seconds to import

        super().__init__()
        self.layers = config.layers
        self.extract = AutoFeatureExtractor.from_pretrained(config.encoder, revision=config.revision)
        self.model = AutoModel.from_pretrained(config.encoder, revision=config.revision, dtype=torch.float32).eval()
        self.dim = self.model.config.hidden_size
        if self.extract.sampling_rate != RATE_HZ:
            raise ValueError(f"{config.encoder}: found {self.extract.sampling_rate} Hz, expected {RATE_HZ} Hz")
        # With group norm over time, padding changes a clip's values even under a mask: such models take clips singly.
        self.singly = getattr(self.model.config, "feat_extract_norm", "layer") == "group"

    @torch.inference_mode()
    def forward(self, batch: Batch) -> torch.Tensor:
        """float32 features_BD: hidden layers averaged, then time, over valid frames alone."""
        clips = zip(batch.audio_BS.cpu(), batch.audio_lengths_B.tolist(), strict=True)
        short = [audio_S[:n] for audio_S, n in clips]
        waves = [nn.functional.pad(s, (0, max(0, _RECEPTIVE_SAMPLES - len(s)))).numpy() for s in short]
        groups = [[wave] for wave in waves] if self.singly else [waves]
        return torch.cat([self._pooled(group) for group in groups])

    def _pooled(self, waves: list) -> torch.Tensor:
        inputs = self.extract(
            waves, sampling_rate=RATE_HZ, padding=True, return_attention_mask=True, return_tensors="pt"
        ).to(self.model.device)
        mask_BS = inputs.pop("attention_mask")
        kept = {} if self.singly else {"attention_mask": mask_BS}
        states = self.model(**inputs, **kept, output_hidden_states=True).hidden_states
        valid_BF = self.model._get_feature_vector_attention_mask(states[-1].shape[1], mask_BS)
        return masked_mean(mean_of_layers(states, self.layers), valid_BF)


ENCODERS = {"functionals": Functionals}


def build(config: Audio) -> nn.Module:
    """The encoder that `audio.encoder` names."""
    return ENCODERS.get(config.encoder, SpeechModel)(config)


def digest(config: Audio) -> str:
    """What decides the encoder's output, without loading it."""
    settings = config.model_dump(mode="json", exclude={"batch_size"})
    if config.encoder in ENCODERS:
        return store.digest("audio", config.encoder, VERSION)
    return store.digest("audio", settings, source_digest(config.encoder, config.revision), VERSION)
