"""The training steps of T fusion heads on a CPU, one head after the other: each takes many of them in one call."""

from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from emo_ray.config.model_settings import MODALITIES
from emo_ray.models.fusion import FusionHead, hidden_columns
from emo_ray.training import compiled_arrays, compiled_head
from emo_ray.training.stacked_adamw import Schedule
from emo_ray.training.stacked_clips import Epochs, TrainingClips, Visits
from emo_ray.training.stacked_parameters import StackedParameters, StackedSettings

_THREADS = ThreadpoolController()  # looks for libraries once


class CompiledSteps:
    """Trains T heads without neighbours on what they visit."""

    def __init__(self, stack: StackedParameters, settings: StackedSettings, epochs: Epochs):
        self.stack, self.epochs, self.layout = stack, epochs, _layout(stack)
        self.settings_T = [_settings(settings, t) for t in range(len(stack.flat_TP))]
        self.clips = _clips(epochs.clips)
        self.gradients_P = np.empty(stack.flat_TP.shape[1], np.float32)
        noise_of = {fold: _feature_noise(head) for fold, head in epochs.head_of.items()}
        self.feature_noise_T = [noise_of[epochs.sources[source][0]] for source in epochs.source_T.tolist()]

    def train(self, visits: Visits, numbers: range, schedule: Schedule) -> torch.Tensor:
        """Take these of the steps; the loss_TS of each."""
        seed_T = self.epochs.seed_T.tolist()
        parameters_TP, means_TP, squares_TP = (
            rows_TP.numpy() for rows_TP in (self.stack.flat_TP, *self.stack.moments_TP)
        )
        part, steps = (
            slice(numbers.start - visits.first, numbers.stop - visits.first),
            slice(numbers.start, numbers.stop),
        )
        rows_TS, clip_TSR, draw_TSR, shown_TSRM = (
            _by_head(values[part]) for values in (visits.rows_ST, visits.clip_STR, visits.draw_STR, visits.shown_STRM)
        )
        rate_TS, shrink_TS, correction_TS = (
            _by_head(values_ST1[steps, :, 0])
            for values_ST1 in (schedule.rate_ST1, schedule.shrink_ST1, schedule.correction_ST1)
        )
        loss_TS = np.empty(rows_TS.shape, np.float32)
        with _THREADS.limit(limits=1, user_api="blas"):
            for t, (column_M, rate_M) in enumerate(self.feature_noise_T):
                trained = compiled_arrays.Trained(parameters_TP[t], self.gradients_P, means_TP[t], squares_TP[t])
                taken = compiled_arrays.Steps(
                    rows_S=rows_TS[t],
                    clip_SR=clip_TSR[t],
                    draw_SR=draw_TSR[t],
                    shown_SRM=shown_TSRM[t],
                    noise_VN=visits.noises[seed_T[t]].numpy(),
                    column_M=column_M,
                    feature_rate_M=rate_M,
                    rate_S=rate_TS[t],
                    shrink_S=shrink_TS[t],
                    correction_S=correction_TS[t],
                )
                loss_TS[t] = _train(trained, self.layout, self.settings_T[t], self.clips, taken)
        return torch.from_numpy(loss_TS)


def _train(*arguments: Any) -> np.ndarray:
    """`compiled_head.train`. Raises ValueError where the compiled code that was kept is damaged, as by a power cut."""
    try:
        return compiled_head.train(*arguments)
    except (EOFError, UnpicklingError) as error:
        raise ValueError(
            f"found damaged files of compiled heads in {compiled_head.train.stats.cache_path}, expected what numba had "
            "put there: delete compiled_head.train-*.nb* in it"
        ) from error


def _by_head(values: torch.Tensor) -> np.ndarray:
    """What is of S steps and T heads, as (T, S, ...)."""
    return values.transpose(0, 1).contiguous().numpy()


def _settings(settings: StackedSettings, t: int) -> compiled_arrays.Settings:
    return compiled_arrays.Settings(
        dropout=np.float32(settings.dropout_T11[t, 0, 0]),
        smoothing=np.float32(settings.smoothing_T11[t, 0, 0]),
        max_norm=np.float32(settings.max_norm_T1[t, 0]),
        class_weight_K=settings.class_weight_T1K[t, 0].numpy(),
        logit_shift_K=settings.logit_shift_T1K[t, 0].numpy(),
    )


def _clips(clips: TrainingClips) -> compiled_arrays.Clips:
    nothing_CD = torch.empty(0, 0)
    video_CD, audio_CD, text_CD = (clips.features.get(name, nothing_CD).numpy() for name in MODALITIES)
    return compiled_arrays.Clips((video_CD, audio_CD, text_CD), clips.target_CK.numpy(), clips.weight_C.numpy())


def _layout(stack: StackedParameters) -> compiled_arrays.Layout:
    """Where the parameters of each head lie."""
    place_of, modalities = stack.places(), stack.modalities
    hidden, classes = stack.shapes["classify.weight"]
    vectors = ("0.weight", "0.bias", "2.bias", "2.weight")
    return compiled_arrays.Layout(
        hidden=hidden,
        classes=classes,
        width_M=np.array(
            [stack.shapes[f"project.{name}.0.weight"][0] if name in modalities else 0 for name in MODALITIES]
        ),
        project_4M=np.array(
            [[place_of.get(f"project.{name}.{vector}", 0) for name in MODALITIES] for vector in vectors]
        ),
        mix_4=np.array([place_of[f"mix.{vector}"] for vector in vectors]),
        absent=place_of["absent_MH"],
        classify_2=np.array([place_of["classify.weight"], place_of["classify.bias"]]),
        decaying=stack.decaying,
    )


def _feature_noise(head: FusionHead) -> tuple[np.ndarray, np.ndarray]:
    """For each modality the column of noise where that for its features begins, and the rate of their dropout."""
    column_M, rate_M = np.zeros(len(MODALITIES), np.int64), np.zeros(len(MODALITIES), np.float32)
    column = hidden_columns(head.hidden)
    for name, rate in head.feature_rates.items():
        m = MODALITIES.index(name)
        column_M[m], rate_M[m] = column, rate
        column += head.get_buffer(f"scaling_{name}").shape[1]
    return column_M, rate_M
