"""A fusion head's training steps as machine code: numba compiles them at their first call, and keeps the result.

A step of one head is less than a millisecond of matrix products, and torch's other operators take longer than these:
each is a call, and a pass over memory. Here one call trains a head for all steps of an epoch, with its parameters and
moments in the processor's cache. `FusionHead` and the training loop are the definition, and tests hold this module to
them.

`compiled_arrays` names the axes. All that is compiled stands in this file, for numba looks into no other to see whether
what it kept is outdated.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401 - numba's matrix products, whose threads `one_thread` limits from here on
from numba import njit
from numpy import float32

from emo_ray.training.compiled_arrays import Clips, Layout, Settings, Steps, Trained

_MODALITIES = 3
_ZERO, _HALF, _ONE = float32(0), float32(0.5), float32(1)
_INFINITE = float32(np.inf)
_EPSILON = float32(1e-5)  # of torch's layer norm
_MEAN_RATE, _SQUARE_RATE, _ADAM_EPSILON = float32(1 - 0.9), float32(1 - 0.999), float32(1e-8)  # of torch's AdamW
_NORM_EPSILON = float32(1e-6)  # of torch's clipping of gradients
# Sums may be added in another order, by which they fit a processor's vectors; NaN and infinity keep their meaning.
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz"}}
# Inlined, for a process that compiles would call functions as they are compiled alone, and one that loads as they are
# compiled for `train`: their sums would be added in different orders.
_compiled = njit(**_OPTIONS, forceinline=True)


def _kept(function: Callable[..., Any]) -> Any:
    """The function as machine code, which is kept beside this file or in the user's cache of numba."""
    try:
        return njit(**_OPTIONS, cache=True)(function)
    except RuntimeError:  # numba's, where it may write into neither
        warnings.warn(
            "found no folder to keep compiled heads in, so that each process compiles them for ten seconds: set "
            "NUMBA_CACHE_DIR to one that can be written to",
            stacklevel=2,
        )
        return njit(**_OPTIONS)(function)


class _Block(NamedTuple):
    """What passes through a block (GELU, layer norm, dropout), of n rows or fewer, and its linear layer's input."""

    row_n: np.ndarray  # int64: which of the step's rows
    draw_n: np.ndarray  # int64: its row of the noise
    input_nD: np.ndarray
    linear_nH: np.ndarray  # the linear layer's output, on the way back its gradient
    slope_nH: np.ndarray  # GELU's derivative
    normed_nH: np.ndarray
    scale_n: np.ndarray  # one over the layer norm's deviation


class _Work(NamedTuple):
    """What a step works in."""

    blocks: Any  # of the modalities, then of the mix
    shown_MnH: np.ndarray  # the mix's input of each modality: of the n rows that show it, then the absent modality's
    count_M: np.ndarray  # int64: n of each modality
    mixed_nH: np.ndarray  # what the mix's linear layer makes of them, or the gradient of that
    fused_RH: np.ndarray
    logits_RK: np.ndarray  # on the way back their gradients


@_kept
def train(trained: Trained, layout: Layout, settings: Settings, clips: Clips, steps: Steps) -> np.ndarray:
    """Take S steps, in place; the loss of each (S,), before it. Steps without rows have a loss of 0."""
    most, hidden, width_M = steps.clip_SR.shape[1], layout.hidden, layout.width_M
    work = _Work(
        (_block(most, width_M[0], hidden), _block(most, width_M[1], hidden), _block(most, width_M[2], hidden),
         _block(most, 0, hidden)),
        np.empty((_MODALITIES, most + 1, hidden), float32), np.empty(_MODALITIES, np.int64),
        np.empty((most + 1, hidden), float32), np.empty((most, hidden), float32),
        np.empty((most, layout.classes), float32),
    )  # fmt: skip
    loss_S = np.zeros(len(steps.rows_S), float32)
    for s in range(len(steps.rows_S)):
        if steps.rows_S[s]:
            _forward(trained.parameters, layout, settings.dropout, clips, steps, s, work)
            loss_S[s] = _classify(trained, layout, settings, clips, steps.clip_SR[s], steps.rows_S[s], work)
            _backward(trained, layout, settings.dropout, steps, s, work)
            _update(trained, layout.decaying, settings.max_norm, steps, s)
    return loss_S


@_compiled
def _block(most: int, width: int, hidden: int) -> _Block:
    return _Block(
        np.empty(most, np.int64), np.empty(most, np.int64), np.empty((most, width), float32),
        np.empty((most + 1, hidden), float32), np.empty((most, hidden), float32), np.empty((most, hidden), float32),
        np.empty(most, float32),
    )  # fmt: skip


@_compiled
def _matrix(values_P: np.ndarray, first: int, rows: int, columns: int) -> np.ndarray:
    return values_P[first : first + rows * columns].reshape(rows, columns)


@_compiled
def _vectors(values_P: np.ndarray, place_4: np.ndarray, hidden: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A block's bias, shift and scale (H,)."""
    bias, shift, scale = place_4[1], place_4[2], place_4[3]
    return values_P[bias : bias + hidden], values_P[shift : shift + hidden], values_P[scale : scale + hidden]


@_compiled
def _noise_column(block: int, hidden: int) -> int:
    return _MODALITIES + 1 + block * hidden


@_compiled
def _forward(parameters: Any, layout: Any, dropout: Any, clips: Any, steps: Any, s: int, work: Any) -> None:
    """From the clips of step s to their fused features.

    The mix's first layer is linear: it is computed for each shown modality and for the absent one, then added up.
    """
    hidden, rows, mix, count_M = layout.hidden, steps.rows_S[s], work.blocks[3], work.count_M
    vectors = _vectors(parameters, layout.mix_4, hidden)
    for r in range(rows):
        _copy(mix.linear_nH[r], vectors[0])
        mix.draw_n[r] = steps.draw_SR[s, r]
    for m in range(_MODALITIES):
        block, width, shown_nH = work.blocks[m], layout.width_M[m], work.shown_MnH[m]
        n = _gather(block, width, clips.features[m], steps, s, m)
        if n:
            project_vectors = _vectors(parameters, layout.project_4M[:, m], hidden)
            weight_DH = _matrix(parameters, layout.project_4M[0, m], width, hidden)
            np.dot(block.input_nD[:n], weight_DH, block.linear_nH[:n])
            for i in range(n):
                _add(block.linear_nH[i], project_vectors[0])
            _activate(block, n, steps.noise_VN, _noise_column(m, hidden), dropout, project_vectors, shown_nH)
        first = layout.absent + m * hidden
        _copy(shown_nH[n], parameters[first : first + hidden])
        weight_HH = _matrix(parameters, layout.mix_4[0] + m * hidden * hidden, hidden, hidden)
        np.dot(shown_nH[: n + 1], weight_HH, work.mixed_nH[: n + 1])
        count_M[m], i = n, 0
        for r in range(rows):
            is_shown = i < n and block.row_n[i] == r
            _add(mix.linear_nH[r], work.mixed_nH[i if is_shown else n])
            i += is_shown
    _activate(mix, rows, steps.noise_VN, _noise_column(_MODALITIES, hidden), dropout, vectors, work.fused_RH)


@_compiled
def _add(sum_H: Any, values_H: Any) -> None:
    for h in range(len(sum_H)):
        sum_H[h] += values_H[h]


@_compiled
def _copy(target_H: Any, values_H: Any) -> None:
    for h in range(len(target_H)):
        target_H[h] = values_H[h]


@_compiled
def _gather(block: Any, width: int, features_CD: Any, steps: Any, s: int, m: int) -> int:
    """Put the features of the n rows that show modality m into its block, with dropout of features; n."""
    n, rate, column = 0, steps.feature_rate_M[m], steps.column_M[m]
    kept = _ONE / (_ONE - rate)
    for r in range(steps.rows_S[s] if width else 0):
        if steps.shown_SRM[s, r, m]:
            clip, draw = steps.clip_SR[s, r], steps.draw_SR[s, r]
            block.row_n[n], block.draw_n[n] = r, draw
            input_D, features_D = block.input_nD[n], features_CD[clip]
            if rate > 0:
                noise_D = steps.noise_VN[draw, column : column + width]
                for d in range(width):
                    input_D[d] = features_D[d] * (kept if noise_D[d] >= rate else _ZERO)
            else:
                _copy(input_D, features_D)
            n += 1
    return n


@_compiled
def _activate(block: Any, n: int, noise_VN: Any, column: int, dropout: Any, vectors: Any, output_nH: Any) -> None:
    """GELU, layer norm and dropout of a block's n rows.

    GELU's normal distribution is formula 7.1.26 of Abramowitz and Stegun (1964), whose error is at most 1.5e-7. Its
    exponential, and all else here, is arithmetic alone, which fits a processor's vectors.
    """
    hidden = output_nH.shape[1]
    _, shift_H, scale_H = vectors
    kept = _ONE / (_ONE - dropout)
    for i in range(n):
        linear_H, slope_H, normed_H, output_H = block.linear_nH[i], block.slope_nH[i], block.normed_nH[i], output_nH[i]
        noise_H, total, variance = noise_VN[block.draw_n[i], column : column + hidden], _ZERO, _ZERO
        for h in range(hidden):
            value = linear_H[h]
            size = abs(value)
            power = float32(-0.5 / 32) * size * size
            bell = float32(1 / 720) + power * float32(1 / 5040)
            bell = float32(1 / 6) + power * (float32(1 / 24) + power * (float32(1 / 120) + power * bell))
            bell = _ONE + power * (_ONE + power * (_HALF + power * bell))
            for _ in range(5):  # e to the power / 32, to the 32
                bell *= bell
            bell = bell if size < 9 else _ZERO  # further out the distribution is 0 or 1 to the last digit
            t = _ONE / (_ONE + float32(0.3275911 * 0.5**0.5) * size)
            tail = float32(1.421413741) + t * (float32(-1.453152027) + t * float32(1.061405429))
            tail = _HALF * bell * t * (float32(0.254829592) + t * (float32(-0.284496736) + t * tail))
            share = tail if value < 0 else _ONE - tail
            slope_H[h] = share + value * bell * float32((2 * np.pi) ** -0.5)
            normed_H[h] = value * share
            total += value * share
        mean = total / float32(hidden)
        for h in range(hidden):
            variance += (normed_H[h] - mean) ** 2
        scale = _ONE / np.sqrt(variance / float32(hidden) + _EPSILON)
        scale = scale if variance < _INFINITE else float32(np.nan)  # so that what diverges is seen, as by torch
        block.scale_n[i] = scale
        for h in range(hidden):
            normed_H[h] = (normed_H[h] - mean) * scale
            output_H[h] = (shift_H[h] + normed_H[h] * scale_H[h]) * (kept if noise_H[h] >= dropout else _ZERO)


@_compiled
def _classify(trained: Any, layout: Any, settings: Any, clips: Any, clip_R: Any, rows: int, work: Any) -> Any:
    """The loss of a step, as `loss.losses` has it; puts the gradients of the classifier and of the fused features."""
    hidden, classes, fused_RH, logits_RK = layout.hidden, layout.classes, work.fused_RH[:rows], work.logits_RK[:rows]
    weight, bias = layout.classify_2[0], layout.classify_2[1]
    weight_HK = _matrix(trained.parameters, weight, hidden, classes)
    bias_grad_K = trained.gradients[bias : bias + classes]
    class_weight_K, uniform = settings.class_weight_K, _ONE / float32(classes)
    np.dot(fused_RH, weight_HK, logits_RK)
    mass, loss = _ZERO, _ZERO
    for r in range(rows):
        for k in range(classes):
            mass += clips.weight_C[clip_R[r]] * clips.target_CK[clip_R[r], k] * class_weight_K[k]
    if mass == 0:
        mass = _ONE
    bias_grad_K.fill(_ZERO)
    for r in range(rows):
        target_K, share = clips.target_CK[clip_R[r]], clips.weight_C[clip_R[r]] / mass
        highest, total, weights = -_INFINITE, _ZERO, _ZERO
        for k in range(classes):
            logits_RK[r, k] += trained.parameters[bias + k] + settings.logit_shift_K[k]
            highest = max(highest, logits_RK[r, k])
        for k in range(classes):
            total += np.exp(logits_RK[r, k] - highest)
            weights += (target_K[k] + settings.smoothing * (uniform - target_K[k])) * class_weight_K[k]
        log_total = np.log(total) + highest
        for k in range(classes):
            weighted = (target_K[k] + settings.smoothing * (uniform - target_K[k])) * class_weight_K[k]
            log_probability = logits_RK[r, k] - log_total
            loss -= share * weighted * log_probability
            logits_RK[r, k] = (np.exp(log_probability) * weights - weighted) * share
            bias_grad_K[k] += logits_RK[r, k]
    np.dot(fused_RH.T, logits_RK, _matrix(trained.gradients, weight, hidden, classes))
    np.dot(logits_RK, weight_HK.T, work.blocks[3].linear_nH[:rows])
    return loss


@_compiled
def _backward(trained: Any, layout: Any, dropout: Any, steps: Any, s: int, work: Any) -> None:
    """Put the gradients of all parameters but the classifier's, from that of the fused features in the mix's block."""
    hidden, rows, mix, grad_nH = layout.hidden, steps.rows_S[s], work.blocks[3], work.mixed_nH
    parameters, gradients, noise_VN = trained.parameters, trained.gradients, steps.noise_VN
    vectors, grads = _vectors(parameters, layout.mix_4, hidden), _vectors(gradients, layout.mix_4, hidden)
    _activate_back(mix, rows, noise_VN, _noise_column(_MODALITIES, hidden), dropout, vectors[2], grads)
    for m in range(_MODALITIES):
        block, width, n, i = work.blocks[m], layout.width_M[m], work.count_M[m], 0
        grad_nH[n].fill(_ZERO)
        for r in range(rows):
            if i < n and block.row_n[i] == r:
                _copy(grad_nH[i], mix.linear_nH[r])
                i += 1
            else:
                _add(grad_nH[n], mix.linear_nH[r])
        first = layout.mix_4[0] + m * hidden * hidden
        weight_HH = _matrix(parameters, first, hidden, hidden)
        np.dot(work.shown_MnH[m, : n + 1].T, grad_nH[: n + 1], _matrix(gradients, first, hidden, hidden))
        np.dot(grad_nH[: n + 1], weight_HH.T, block.linear_nH[: n + 1])
        first = layout.absent + m * hidden
        _copy(gradients[first : first + hidden], block.linear_nH[n])
        if width:
            place_4 = layout.project_4M[:, m]
            vectors, grads = _vectors(parameters, place_4, hidden), _vectors(gradients, place_4, hidden)
            _activate_back(block, n, noise_VN, _noise_column(m, hidden), dropout, vectors[2], grads)
            weight_grad_DH = _matrix(gradients, place_4[0], width, hidden)
            if n:
                np.dot(block.input_nD[:n].T, block.linear_nH[:n], weight_grad_DH)
            else:
                weight_grad_DH.fill(_ZERO)


@_compiled
def _activate_back(block: Any, n: int, noise_VN: Any, column: int, dropout: Any, scale_H: Any, grads: Any) -> None:
    """The way back through `_activate`: in `linear_nH`, the gradient of a block's output becomes its linear layer's.

    Puts the gradients of the block's bias, shift and scale.
    """
    hidden = block.slope_nH.shape[1]
    bias_grad_H, shift_grad_H, scale_grad_H = grads
    kept = _ONE / (_ONE - dropout)
    for vector_grad_H in grads:
        vector_grad_H.fill(_ZERO)
    for i in range(n):
        grad_H, normed_H, slope_H = block.linear_nH[i], block.normed_nH[i], block.slope_nH[i]
        noise_H, total, product = noise_VN[block.draw_n[i], column : column + hidden], _ZERO, _ZERO
        for h in range(hidden):
            grad = grad_H[h] * (kept if noise_H[h] >= dropout else _ZERO)
            shift_grad_H[h] += grad
            scale_grad_H[h] += grad * normed_H[h]
            grad *= scale_H[h]
            grad_H[h] = grad
            total += grad
            product += grad * normed_H[h]
        mean, slope, scale = total / float32(hidden), product / float32(hidden), block.scale_n[i]
        for h in range(hidden):
            grad = (grad_H[h] - mean - normed_H[h] * slope) * scale * slope_H[h]
            grad_H[h] = grad
            bias_grad_H[h] += grad


@_compiled
def _update(trained: Any, decaying: int, max_norm: Any, steps: Any, s: int) -> None:
    """Clip the gradients and take AdamW's step, as torch does; the first `decaying` parameters decay."""
    rate, correction = steps.rate_S[s], steps.correction_S[s]
    gradients, square = trained.gradients, _ZERO
    for p in range(len(gradients)):
        square += gradients[p] * gradients[p]
    clip = min(max_norm / (np.sqrt(square) + _NORM_EPSILON), _ONE)
    _adamw(trained, 0, decaying, clip, rate, steps.shrink_S[s], correction)
    _adamw(trained, decaying, len(trained.parameters), clip, rate, _ONE, correction)


@_compiled
def _adamw(trained: Any, first: int, last: int, clip: Any, rate: Any, shrink: Any, correction: Any) -> None:
    """AdamW's step of the parameters from `first` to `last`."""
    parameters, gradients = trained.parameters[first:last], trained.gradients[first:last]
    means, squares = trained.means[first:last], trained.squares[first:last]
    for p in range(last - first):
        gradient = gradients[p] * clip
        mean = means[p] + _MEAN_RATE * (gradient - means[p])
        square = squares[p] + _SQUARE_RATE * (gradient * gradient - squares[p])
        means[p], squares[p] = mean, square
        parameters[p] = shrink * parameters[p] - rate * mean / (np.sqrt(square * correction) + _ADAM_EPSILON)
