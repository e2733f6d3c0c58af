"""Which trials the claims compare: changes to the config of a synthetic world. Nothing is trained or measured here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES, SUBSETS
from emo_ray.data.synthetic import LABELS

Kind = Literal["zero-shot", "probe", "EmoVCLIP", "model", "self-training"]
Scores = dict[str, float]  # "test/VAT" -> WAF, in [0, 1]

PROBES = {
    "linear probe, mean": ("mean",),
    "linear probe, mean + deviation": ("mean", "deviation"),
    "linear probe, mean + slope": ("mean", "slope"),
    "linear probe, mean + deviation + slope": ("mean", "deviation", "slope"),
}
OURS = "EmoVCLIP"
ZERO_SHOT = "zero-shot CLIP"
UNPROMPTED = "attention, no prompts"
AS_DESCRIBED = "+ text context"
ROUNDS = 3  # of self-training
HEADS = ("teacher", "longer", "student", "kept")  # see `self_training.self_training_scores`
JUDGED = ("validation", "test")
EVERYTHING = next(key for key in SUBSETS if len(key) == len(MODALITIES))
_GLOBAL, _CONTEXT = "emovclip.global_prompts", "emovclip.context_tokens"
NOTHING: dict[str, Any] = {
    _GLOBAL: 0,
    "emovclip.local_prompts": False,
    "emovclip.summary_prompt": False,
    "emovclip.time_embedding": False,
    _CONTEXT: 0,
    "emovclip.pooling": "mean",
}
WHOLE: dict[str, Any] = {
    _GLOBAL: 8,
    "emovclip.local_prompts": True,
    "emovclip.summary_prompt": True,
    "emovclip.time_embedding": True,
    _CONTEXT: 8,
    "emovclip.pooling": "attention",
}
_ROUNDS_ALL_PLAYED = {"rounds.most": ROUNDS, "rounds.patience": ROUNDS}
_LOCAL = {"emovclip.local_prompts": True, "emovclip.time_embedding": True}
# Each rung adds to the one above it: AS_DESCRIBED is all that DESIGN describes, the last is OURS.
LADDER = {
    "global prompts": NOTHING | {_GLOBAL: 8},
    "+ local prompts and time embedding": NOTHING | {_GLOBAL: 8} | _LOCAL,
    "+ summary prompt": WHOLE | {_CONTEXT: 0, "emovclip.pooling": "mean"},
    AS_DESCRIBED: WHOLE | {"emovclip.pooling": "mean"},
    "+ attention over frames": WHOLE,
}
LENGTHS = {
    f"{words} {count}": WHOLE | {key: count}
    for key, words in ((_GLOBAL, "global prompts:"), (_CONTEXT, "context tokens:"))
    for count in (2, 16)
}


@dataclass(frozen=True)
class Trial:
    """One training or measurement: what is measured, and with which changes to the config."""

    kind: Kind
    changes: Mapping[str, Any] = field(default_factory=dict)
    statistics: tuple[str, ...] = ()  # over time, that a probe sees
    labelled: int = 0  # training clips that keep their labels in self-training
    seeded: bool = True  # else with the first seed alone


def trials_of(config: Config) -> dict[str, Trial]:
    """Every trial of a world, by the name of its row. Whose checkpoints others use comes first."""
    ladder = {name: changes for name, changes in LADDER.items() if changes != WHOLE}
    complete = WHOLE | {"fusion.modality_dropout": 0.0}
    return {
        OURS: Trial("EmoVCLIP", WHOLE),
        ZERO_SHOT: Trial("zero-shot", seeded=False),
        **{name: Trial("probe", statistics=statistics, seeded=False) for name, statistics in PROBES.items()},
        UNPROMPTED: Trial("EmoVCLIP", NOTHING | {"emovclip.pooling": "attention"}),
        **{name: Trial("EmoVCLIP", changes) for name, changes in ladder.items()},
        **{name: Trial("EmoVCLIP", changes, seeded=False) for name, changes in LENGTHS.items()},
        **{subset_name(key): Trial("model", complete | {"modalities": names}) for key, names in SUBSETS.items()},
        **{
            dropout_name(rate): Trial("model", WHOLE | {"fusion.modality_dropout": rate})
            for rate in config.claims.dropout_rates
            if rate > 0
        },
        **{
            self_training_name(count): Trial("self-training", WHOLE | _ROUNDS_ALL_PLAYED, labelled=count)
            for count in labelled_counts(config)
        },
    }


def subset_name(key: str) -> str:
    """The trial of a model that is trained on a subset of the modalities, such as "VA"."""
    return f"only {key}"


def dropout_name(rate: float) -> str:
    """The trial of a model with this modality dropout."""
    return f"dropout {rate:g}" if rate else subset_name(EVERYTHING)


def self_training_name(labelled: int) -> str:
    """The trial of self-training with so many labelled clips."""
    return f"self-training, {labelled} labelled"


def seeds_of(trial: Trial, config: Config) -> int:
    """How often a trial is made in each world."""
    seeds = config.claims.self_training_seeds if trial.kind == "self-training" else config.claims.seeds
    return seeds if trial.seeded else 1


def labelled_counts(config: Config) -> tuple[int, int]:
    """How many training clips keep their labels in self-training: few, and plenty."""
    few, plenty = (max(len(LABELS), config.synthetic.train_clips // divisor) for divisor in (10, 2))
    return few, plenty
