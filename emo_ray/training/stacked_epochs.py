"""The training loop's epochs for a fusion head, or an average of heads, in one stack.

Between epochs the weights are the model's and the moments the optimiser's. So the state of a run is that of the loop,
and each goes on from what the other has left.
"""

import time
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, cast

import torch
from torch import nn

from emo_ray.config.fusion_settings import Fusion
from emo_ray.data.batch import FeatureBatch
from emo_ray.models.fusion import FusionHead
from emo_ray.models.head_average import members
from emo_ray.models.trainable_state import trained_state
from emo_ray.training.loop import LoopSettings, Reporter
from emo_ray.training.run_state import RunState
from emo_ray.training.stacked_clips import Clips, TrainingClips
from emo_ray.training.stacked_heads import HeadConfig, StackedHeads
from emo_ray.training.stacked_noise import generator_after

_MOMENTS = "exp_avg", "exp_avg_sq"  # as AdamW names them
_MOST_BYTES = 256 * 2**20  # of features, of which it keeps a second copy


def is_usable(settings: LoopSettings, clips: FeatureBatch) -> bool:
    """Whether a run of one process can train on these clips so: batches are in one piece, and features not wide."""
    size = settings.optimisation.micro_batch_size
    is_whole = size is None or size >= settings.optimisation.batch_size
    batches = [clips] if clips.context is None else [clips, clips.context.clips]
    feature_bytes = sum(values_BD.nbytes for batch in batches for values_BD in batch.features.values())
    is_plain = not (settings.bf16 or settings.ema or settings.augment)
    return is_whole and is_plain and feature_bytes <= _MOST_BYTES


class StackedEpochs:
    """Trains epochs of one process as `loop.by_steps` would with the settings and the seed of the loop.

    `clips` are those of a pass, so with those repeated that balanced sampling repeats.
    """

    def __init__(self, clips: FeatureBatch, settings: Fusion):
        self.folds = [Clips(clips, None)]
        self.settings = settings.model_copy(update={"sampling": "natural"})
        self.head_of: dict[int, FusionHead] | None = None

    def __call__(
        self, model: nn.Module, settings: LoopSettings, state: RunState, reporter: Reporter
    ) -> dict[str, float]:
        """Train the epoch, or what is left of it; its metrics, as the loop names them."""
        heads, sums = cast(list[FusionHead], members(state.model)), state.sums
        begun_s = time.perf_counter() - sums.seconds
        taken = _steps_taken(state) - sums.steps  # before the epoch
        stacked = self._stacked(heads, settings, state, taken)
        for loss_TS, clips_TS in stacked.steps(sums.steps, settings.save_every or 0):
            for loss, clips in zip(loss_TS.sum(dim=0), clips_TS[0].tolist(), strict=True):
                sums.add(loss, clips)
                reporter.progress(state.epoch, sums.steps, settings.steps_per_epoch)
            if settings.save_every and sums.steps % settings.save_every == 0:
                sums.seconds = time.perf_counter() - begun_s
                _give_back(stacked, heads, state, taken)
                with state.written(trained_state(state.model), [self._share(heads, settings, state)]) as folder:
                    reporter.keep(folder)
        _give_back(stacked, heads, state, taken)
        return {
            "train_loss": float(sums.loss) / sums.clips / len(heads),
            "train_clips": sums.clips,
            "train_clips_per_s": sums.clips / (time.perf_counter() - begun_s),
            "train_waited": 0.0,
        }

    def _share(self, heads: Sequence[FusionHead], settings: LoopSettings, state: RunState) -> dict[str, Any]:
        """What a run goes on from inside the epoch, with the random generator where the loop would have it."""
        draws = state.sums.clips * len(heads)
        share = state.share()
        share["generators"]["cpu"] = generator_after(settings.seed, state.epoch, draws, heads[0].noise_columns)
        return share

    def _stacked(
        self, heads: Sequence[FusionHead], settings: LoopSettings, state: RunState, taken: int
    ) -> StackedHeads:  # fmt: skip
        """The heads, ready for the next step."""
        if self.head_of is None:
            self.head_of = {0: deepcopy(heads[0]).cpu()}  # for what does not change: scaling, and rates of dropout
            self.clips = TrainingClips(self.folds, self.head_of, self.settings, state.device)
        balance = settings.class_weight_K, settings.logit_shift_K
        configs = [
            HeadConfig(self.settings, settings.seed, member=number, members=len(heads), balance=balance)
            for number in range(len(heads))
        ]
        stacked = StackedHeads(heads, configs, self.folds, settings.epochs, self.clips, self.head_of)
        stacked.resume(state.epoch, taken, _moments(heads, state.optimizer))
        return stacked


def _moments(heads: Sequence[FusionHead], optimizer: torch.optim.Optimizer) -> list[list[dict[str, torch.Tensor]]]:
    """Each of AdamW's moments of every head by the names of its parameters; zeros where it has taken no step."""
    return [
        [
            {
                name: optimizer.state.get(value, {}).get(moment, torch.zeros_like(value))
                for name, value in head.named_parameters()
            }
            for head in heads
        ]
        for moment in _MOMENTS
    ]


def _steps_taken(state: RunState) -> int:
    """How many steps AdamW has taken."""
    return max((int(values["step"]) for values in state.optimizer.state.values() if "step" in values), default=0)


def _give_back(stacked: StackedHeads, heads: Sequence[FusionHead], state: RunState, taken: int) -> None:
    """Put weights and moments after the last step where the loop has them; `taken` are AdamW's before this epoch."""
    for place, head in enumerate(heads):
        head.load_state_dict(stacked.state(place), strict=False)  # buffers, such as the scaling, stay
        parameters = dict(head.named_parameters())
        for moment, values in zip(_MOMENTS, stacked.moments(place), strict=True):
            for name, value in values.items():
                parameter = parameters[name]
                step = torch.tensor(float(taken + state.sums.steps), device=parameter.device)
                state.optimizer.state[parameter] |= {moment: value.to(parameter.device), "step": step}
