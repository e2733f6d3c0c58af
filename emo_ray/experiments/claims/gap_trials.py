"""Which trials tell what to train across a gap: EmoVCLIP's parts, on candid clips and a CLIP of posed stills.

Sizes were decided before any reported world was filmed, for a share of one core: 60, 200 or 600 labels, 60 validation
and 150 test clips of 4 frames; 6 epochs of 24 to 38 steps, so that fewer clips are seen more often. Learning rates, of
two, are those that are best on validation clips of a fourth world with 200 labels, which is not reported. Nothing is
chosen on test clips.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emo_ray.config import Config
from emo_ray.experiments.claims.trials import NOTHING, PROBES, WHOLE, ZERO_SHOT, Scores

MIDDLE, COUNTS = 200, (60, 200, 600)  # labelled clips
VALIDATION, TEST = 60, 150  # clips of a world
EPOCHS, STEPS = 6, 24  # of training; of an epoch, at least
RATES = (1e-3, 3e-3)
_ATTENTION = NOTHING | {"emovclip.pooling": "attention"}
_LORA = {"emovclip.lora.rank": 8}
FROZEN = "attention over frozen frames"
DESCRIBED = "prompts as described: mean over frames"
PROMPTS, LORA, BOTH = "prompts + attention", "LoRA + attention", "prompts + LoRA + attention"
BLOCKS = "all blocks trained + attention"
TRAINED: dict[str, dict[str, Any]] = {
    FROZEN: _ATTENTION,
    DESCRIBED: WHOLE | {"emovclip.pooling": "mean"},
    PROMPTS: WHOLE,
    LORA: _ATTENTION | _LORA,
    BOTH: WHOLE | _LORA,
}
_AUGMENT = {f"augment.{name}": 0.5 for name in ("flip", "crop", "brightness", "colour")}
AUGMENTED = {f"{name}, augmented": name for name in (FROZEN, PROMPTS, LORA)}
MORE = {name: TRAINED[plain] | _AUGMENT for name, plain in AUGMENTED.items()}  # at the middle count alone
MORE[BLOCKS] = _ATTENTION | {"emovclip.unfreeze_blocks": 4}
VARIANTS = TRAINED | MORE
TUNED = (FROZEN, PROMPTS, LORA)
RATE_OF = {DESCRIBED: PROMPTS, BOTH: LORA, **AUGMENTED}  # whose learning rate the others take
ALL_STATISTICS = list(PROBES)[-1]
UNTRAINED = (ZERO_SHOT, next(iter(PROBES)), ALL_STATISTICS)
FIRST_WORLD, TUNING_WORLD = 101, -1  # seeds of worlds count from the first


@dataclass(frozen=True)
class GapTrial:
    """A measurement: which variant, on how many labels, in which world, with which seed and learning rate."""

    variant: str
    labelled: int
    world: int
    seed: int
    rate: float | None = None  # None: nothing is trained by steps

    @property
    def name(self) -> str:
        """What is measured, in words."""
        return f"{self.variant}, {self.labelled} labelled, world {self.world}, seed {self.seed}, rate {self.rate}"


AllScores = dict[GapTrial, Scores]


def tuning_trials(config: Config) -> list[GapTrial]:
    """The variants that are tuned with every learning rate, in the world that is not reported."""
    return [GapTrial(name, MIDDLE, TUNING_WORLD, config.seed, rate) for name in TUNED for rate in RATES]


def best_rates(tuned: AllScores) -> dict[str, float]:
    """The learning rate of each variant: the best on validation clips, its own or that of the one it is most like."""
    rate_of: dict[str, tuple[float, float]] = {}
    for trial, scores in tuned.items():
        assert trial.rate is not None, "tuning trials have rates"
        rate_of[trial.variant] = max(rate_of.get(trial.variant, (-1.0, 0.0)), (scores["validation/V"], trial.rate))
    rates = {name: rate for name, (_, rate) in rate_of.items()}
    return rates | {name: rates[tuned] for name, tuned in RATE_OF.items()} | {BLOCKS: min(RATES)}


def planned_trials(config: Config, rate_of: Mapping[str, float]) -> list[GapTrial]:
    """All reported trials, the most telling first: every world once, then more labels and fewer, then other seeds."""

    def trials(names: Sequence[str], labelled: int, seed: int) -> list[GapTrial]:
        worlds = range(config.claims.worlds)
        return [GapTrial(n, labelled, world, config.seed + seed, rate_of.get(n)) for world in worlds for n in names]

    planned = trials([*UNTRAINED, *TRAINED], MIDDLE, 0) + trials([*MORE], MIDDLE, 0)
    for count in (600, 60):
        planned += trials([*UNTRAINED, *TRAINED], count, 0)
    for seed in range(1, config.claims.seeds):
        planned += trials([*UNTRAINED, *VARIANTS], MIDDLE, seed)
    return planned
