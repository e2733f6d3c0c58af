"""The section of the configuration that says how both phases are trained, and what an objective is."""

from typing import Any, Literal

from pydantic import field_validator

from emo_ray.config.model_settings import METRICS, SMALL, SUBSETS, VIDEO_TRAINED
from emo_ray.config.setting import NOTHING, Condition, Section, by_content, by_value, setting

# Training towards pseudo-labels decides a model by the targets and weights that the labels are given. What makes and
# trains on its own pseudo-labels, or may be told to search over them, has no labels yet to take a digest of.
_PSEUDO = by_content("emovclip", "fusion") + by_value("self_training", "sweep", "claims")

WITH_AVERAGE = Condition(
    "train.ema is set and tables.video is not",
    lambda config: config.train.ema > 0 and VIDEO_TRAINED.holds(config),
)
JOINT = Condition("train.joint_epochs is set", lambda config: config.train.joint_epochs > 0)
AUGMENTED = Condition(
    "a rate of augment is above 0 and tables.video is not set",
    lambda config: config.augment.is_used and VIDEO_TRAINED.holds(config),
)

ELASTIC = Condition("train.min_workers is set", lambda config: config.train.min_workers is not None)
ELASTIC_VIDEO = Condition(
    "train.min_workers is set and tables.video is not",
    lambda config: config.train.min_workers is not None and VIDEO_TRAINED.holds(config),
)


VOTED = Condition("train.targets is votes", lambda config: config.train.targets == "votes")
VOTED_VIDEO = Condition(
    "train.targets is votes and tables.video is not set",
    lambda config: VOTED.holds(config) and VIDEO_TRAINED.holds(config),
)
_VOTED = by_value("emovclip", only_if=VOTED_VIDEO) + by_value("fusion", "folds", only_if=VOTED)


def checked_objective(objective: str) -> str:
    """An objective such as VAT/waf, mean/uar or available/accuracy. Raises ValueError for anything else."""
    where, _, metric = objective.partition("/")
    if where not in (*SUBSETS, "mean", "available") or metric not in METRICS:
        places, metrics = ", ".join((*SUBSETS, "mean", "available")), ", ".join(METRICS)
        raise ValueError(f"found {objective!r}, expected one of {places}, a slash, and one of {metrics}")
    return objective


def shares(num_workers: int) -> int:
    """How many processes share the clips of a step. Training in the job's own process gives what one worker gives."""
    return max(1, num_workers)


class Train(Section):
    """How both phases, EmoVCLIP's and the fusion head's, are trained."""

    num_workers: int = setting(
        1,
        "Ray Train workers. 0: train, encode and predict in the job's own process, on its GPU or on one core. Without "
        f"a cluster or a GPU, that process trains a head on fewer than {SMALL:,} clips at 1, too: to the same bytes.",
        decides=by_value("emovclip", only_if=VIDEO_TRAINED) + by_value("fusion"),
        normalised=shares,
        ge=0,
    )
    min_workers: int | None = setting(
        None,
        "Fewest Ray Train workers with which training goes on where machines leave; it grows to num_workers again. "
        "A step's batch stays as large, but its clips differ from run to run. null: always num_workers.",
        decides=by_value("emovclip", only_if=ELASTIC_VIDEO) + by_value("fusion", only_if=ELASTIC),
        ge=1,
    )
    epochs: int = setting(
        10,
        "Epochs of each phase.",
        decides=by_value("emovclip", only_if=VIDEO_TRAINED) + by_value("fusion", "folds"),
        ge=1,
    )
    joint_epochs: int = setting(
        0,
        "Epochs in which EmoVCLIP and the trained head are trained on together, end to end, at a tenth of their rates. "
        "What they give is kept where it is better on validation clips.",
        decides=by_value("fusion", only_if=JOINT),
        ge=0,
    )
    heads: int | None = setting(
        None,
        "Fusion heads of different random starts whose probabilities are averaged. "
        f"null: 3 where fewer than {SMALL:,} clips are trained on, otherwise 1.",
        decides=by_value("fusion", "folds"),
        ge=1,
    )
    objective: str = setting(
        "available/waf",
        "What the best epoch of the head has most of on validation clips (then the least loss), said as in "
        "tune.objective. A sweep sets it to its own.",
        decides=by_value("fusion"),
    )
    refit: bool | None = setting(
        None,
        "Whether the head is trained on training and validation clips together, for as many epochs as inner folds of "
        f"them say. null: where they are fewer than {SMALL:,}, no EmoVCLIP is trained on their labels, and there is a "
        "test split.",
        decides=by_value("fusion"),
    )
    use_gpu: Literal["auto", "yes", "no"] = setting(
        "auto", "Whether workers take a GPU each. auto: where the cluster has enough.", decides=NOTHING, owner="caller"
    )
    placement: Literal["pack", "spread"] = setting(
        "pack",
        "Where workers run. pack: on as few machines as have room, so that little goes over the network. spread: on as "
        "many as there are.",
        decides=NOTHING,
        owner="caller",
    )
    precision: Literal["auto", "fp32", "bf16"] = setting(
        "auto",
        "Number format of EmoVCLIP's training. auto: bf16 on GPUs that have it, else fp32.",
        decides=by_value("emovclip", only_if=VIDEO_TRAINED),
    )
    max_failures: int = setting(3, "Restarts of the workers before a run is given up.", decides=NOTHING, ge=0)
    save_every_steps: int | None = setting(
        None,
        "Steps after which the state inside an epoch is saved, so that a run that is killed goes on from there. "
        "null: after epochs alone.",
        decides=NOTHING,
        ge=1,
    )
    shuffle_buffer: int = setting(
        512,
        "Clips in the buffer from which EmoVCLIP's batches are drawn.",
        decides=by_value("emovclip", only_if=VIDEO_TRAINED),
        ge=1,
    )
    ema: float = setting(
        0.0,
        "Decay of an exponential moving average of EmoVCLIP's trained weights, which is validated and kept in their "
        "place; it is lower in the first steps. 0: none.",
        decides=by_value("emovclip", only_if=WITH_AVERAGE),
        ge=0,
        lt=1,
    )
    targets: Literal["labels", "votes"] = setting(
        "labels",
        "What a labelled clip is trained towards. labels: its label. votes: the shares of its annotators' votes, where "
        "the manifest has some (columns votes.LABEL, or data.columns.votes).",
        decides=_VOTED,
    )
    vote_entropy_weight: float = setting(
        0.0,
        "How much less a clip counts on which annotators differ: its weight is 1 less this times the entropy of its "
        "votes, as a share of the largest entropy.",
        decides=_VOTED,
        ge=0,
        lt=1,
    )
    pseudo_labels: str | None = setting(
        None,
        "Round folder of jobs/pseudo_label.py whose accepted clips are trained on as well. null: labelled clips alone.",
        decides=by_content("emovclip", "fusion"),
        path=True,
    )
    pseudo_targets: Literal["soft", "hard"] = setting(
        "soft", "Target of an accepted clip. soft: its calibrated probabilities. hard: its class.", decides=_PSEUDO
    )
    pseudo_weight: float = setting(
        0.5, "Weight of an accepted clip in the loss, where a labelled one has 1.", decides=_PSEUDO, gt=0, le=1
    )
    pseudo_phases: Literal["fusion", "both"] = setting(
        "fusion",
        "Phases that train on accepted clips. A pseudo-label is what all modalities say together, often not what the "
        "face shows; and while EmoVCLIP stays as it is, no clip is encoded again, so a round costs seconds.",
        decides=_PSEUDO,
    )

    @property
    def worker_counts(self) -> range:
        """How many workers there may be at once."""
        return range(self.min_workers or self.shares, self.shares + 1)

    @property
    def shares(self) -> int:
        """How many processes share the clips of a step."""
        return shares(self.num_workers)

    def averaged_heads(self, clips: int) -> int:
        """How many fusion heads are trained on so many clips."""
        return self.heads or (3 if clips < SMALL else 1)

    @field_validator("objective")
    @classmethod
    def _objective(cls, objective: str) -> str:
        return checked_objective(objective)

    @field_validator("use_gpu", mode="before")
    @classmethod
    def _truth_values(cls, value: Any) -> Any:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value


class Augment(Section, decides=by_value("emovclip", only_if=AUGMENTED)):
    """How often training frames of EmoVCLIP are changed: anew in every epoch, and all frames of a clip alike."""

    flip: float = setting(0.0, "Share of the clips that are mirrored.", ge=0, le=1)
    crop: float = setting(
        0.0, "Share of the clips that are cropped, to half of the picture or more, and resized.", ge=0, le=1
    )
    brightness: float = setting(0.0, "Share of the clips that get brighter or darker, by half at most.", ge=0, le=1)
    colour: float = setting(0.0, "Share of the clips whose contrast, saturation and hue change.", ge=0, le=1)
    blur: float = setting(0.0, "Share of the clips that are blurred.", ge=0, le=1)
    grey: float = setting(0.0, "Share of the clips that lose their colours.", ge=0, le=1)
    erase: float = setting(0.0, "Share of the clips that lose a rectangle of up to a fifth of the picture.", ge=0, le=1)

    @property
    def is_used(self) -> bool:
        """Whether any frame is changed."""
        return any(self.model_dump().values())
