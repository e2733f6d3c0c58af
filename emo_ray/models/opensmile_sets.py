"""Feature sets of the package opensmile (audEERING's openSMILE), which is not installed with emo_ray.

Its licence allows non-commercial use alone, so it is an extra that a user asks for: `pip install 'emo_ray[opensmile]'`.
"""

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from emo_ray.config.media_settings import RATE_HZ
from emo_ray.config.model_settings import OPENSMILE, Audio
from emo_ray.data.batch import AudioBatch
from emo_ray.models.identity import opensmile_version


class OpenSmile(nn.Module):
    """The functionals of one of openSMILE's feature sets: 88 of eGeMAPSv02, 6,373 of ComParE_2016."""

    def __init__(self, config: Audio):
        super().__init__()
        opensmile_version(config.encoder)  # one clear message where it is not installed
        import opensmile

        self.smile: Any = opensmile.Smile(
            feature_set=opensmile.FeatureSet[config.encoder.removeprefix(OPENSMILE)],
            feature_level=opensmile.FeatureLevel.Functionals,
        )
        self.dim = self.smile.num_features

    @torch.inference_mode()
    def forward(self, batch: AudioBatch) -> torch.Tensor:
        """float32 features_BD; NaN for sound under 60 ms, of which openSMILE makes nothing."""
        clips = zip(batch.audio_BS.cpu().numpy(), batch.audio_lengths_B.tolist(), strict=True)
        features_BD = np.stack([self._features(wave_S[:length]) for wave_S, length in clips])
        return torch.from_numpy(features_BD).to(batch.audio_BS.device)

    def _features(self, wave_S: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Segment too short")
            return self.smile.process_signal(wave_S, RATE_HZ).to_numpy(np.float32)[0]
