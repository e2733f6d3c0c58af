"""What a fusion head's compiled training steps are given, as NumPy's arrays.

Arrays are float32 unless said. S: steps, R: at most so many rows of clips in a step, C: clips, M: modalities, D:
features of a modality, H: hidden units, K: classes, P: parameters of a head, V: rows of noise, N: its columns.
"""

from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """Where in a head's row of P parameters each lies; weights of linear layers lie there as (in, out)."""

    hidden: int
    classes: int
    width_M: np.ndarray  # int64: D, or 0 for a modality that no clip has or the head does not know
    project_4M: np.ndarray  # int64: weight, bias, shift and scale of each projection
    mix_4: np.ndarray  # int64: the same of the mix
    absent: int
    classify_2: np.ndarray  # int64: weight and bias
    decaying: int  # so many parameters decay, and come first


class Trained(NamedTuple):
    """What a step changes, each (P,)."""

    parameters: np.ndarray
    gradients: np.ndarray
    means: np.ndarray  # AdamW's first moments
    squares: np.ndarray  # AdamW's second moments


class Settings(NamedTuple):
    """How a head is trained; numbers are float32, too."""

    dropout: np.float32
    smoothing: np.float32
    max_norm: np.float32
    class_weight_K: np.ndarray
    logit_shift_K: np.ndarray


class Clips(NamedTuple):
    """The clips that steps show."""

    features: tuple[np.ndarray, np.ndarray, np.ndarray]  # (C, D) of each modality, standardised
    target_CK: np.ndarray
    weight_C: np.ndarray


class Steps(NamedTuple):
    """What S steps show to a head, and how far they go."""

    rows_S: np.ndarray  # int64: how many of R are clips; 0: the head takes no step
    clip_SR: np.ndarray  # int64
    draw_SR: np.ndarray  # int64: the clip's row of the noise
    shown_SRM: np.ndarray  # bool
    noise_VN: np.ndarray  # uniform: M + 1 columns for modalities, then H for each projection and the mix, then features
    column_M: np.ndarray  # int64: where the noise for a modality's features begins
    feature_rate_M: np.ndarray  # of dropout of features
    rate_S: np.ndarray  # AdamW's learning rate over its first bias correction
    shrink_S: np.ndarray  # what weights are multiplied by
    correction_S: np.ndarray  # one over AdamW's second bias correction
