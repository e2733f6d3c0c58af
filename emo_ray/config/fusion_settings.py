"""The section of the configuration that makes the fusion head."""

from typing import Literal

from pydantic import field_validator, model_validator

from emo_ray.config.model_settings import MODALITIES, SMALL, Optimisation
from emo_ray.config.setting import Condition, Section, by_content, by_value, setting

WITH_CONTEXT = Condition("fusion.context is set", lambda config: bool(config.fusion.context.offsets))


class Context(Section, decides=by_value("fusion", "folds", only_if=WITH_CONTEXT)):
    """Neighbours in a dialogue that the head sees beside a clip: docs/conversations.md. None of both: no context."""

    before: int = setting(0, "Clips before, the nearest first. They are known while people talk.", ge=0, le=32)
    after: int = setting(0, "Clips after. 0 where a clip is predicted before the next one is there.", ge=0, le=32)

    @property
    def offsets(self) -> tuple[int, ...]:
        """The places of the neighbours, from the clip: such as (-2, -1, 1)."""
        return (*range(-self.before, 0), *range(1, self.after + 1))


CLASSICAL = Condition("fusion.kind is linear or svm", lambda config: config.fusion.is_classical)


class Fusion(Optimisation, decides=by_value("fusion", "folds")):
    """The fusion head over the features of video, audio and text."""

    kind: Literal["mlp", "linear", "svm"] = setting(
        "mlp",
        "What the head is. mlp: a network that is trained with modality dropout; linear: logistic regression, svm: a "
        "support vector machine (RBF), one for each subset of the modalities, of scikit-learn, which none of the other "
        "settings of fusion concerns.",
        decides=by_value("fusion", "folds", only_if=CLASSICAL),
    )
    hidden: int = setting(128, "Width of the head.", ge=1)
    dropout: float = setting(0.3, "Probability of each hidden unit to be dropped in training.", ge=0, lt=1)
    feature_dropout: float | None = setting(
        None,
        "Probability of each feature to be hidden in training. null: D / (D + n) for a modality with D features that n "
        "training clips have, so that a wide one does not overfit.",
        ge=0,
        lt=1,
    )
    modality_dropout: float | dict[str, float] = setting(
        0.5,
        "Probability that a training clip is shown without some of its modalities; or modality -> the probability "
        "that it is dropped.",
    )
    auto: bool | None = setting(
        None,
        "Whether inner folds of the training clips choose between the head as it is, one of dropout 0.6, and one three "
        f"times as wide. null: where they are fewer than {SMALL:,}. jobs/train.py does so where train.refit holds.",
    )
    passes_per_epoch: int = setting(
        4,
        "Passes over the features in an epoch. The head is tiny and a report to Ray is not, so one pass is too short.",
        ge=1,
    )
    start_from: str | None = setting(
        None,
        "Checkpoint folder of a model of the same classes whose head training starts from. null: a new head.",
        decides=by_content("fusion", "self_training"),
        path=True,
    )

    context: Context = Context()

    @property
    def is_classical(self) -> bool:
        """Whether the head is one of scikit-learn's classifiers."""
        return self.kind != "mlp"

    def searches(self, clips: int) -> bool:
        """Whether settings are searched on so many training clips."""
        if self.is_classical:
            return False
        return clips < SMALL if self.auto is None else self.auto

    @model_validator(mode="after")
    def _only_of_networks(self) -> "Fusion":
        others = {"fusion.start_from": self.start_from, "fusion.context": self.context.offsets or None}
        for key, value in others.items():
            if self.is_classical and value is not None:
                raise ValueError(
                    f"found fusion.kind={self.kind} with {key}={value}, expected none: that is for fusion.kind=mlp"
                )
        return self

    @field_validator("modality_dropout")
    @classmethod
    def _rates(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        rates = value if isinstance(value, dict) else dict.fromkeys(MODALITIES, value)
        for name, rate in rates.items():
            if name not in MODALITIES or not 0 <= rate <= 1:
                raise ValueError(f"found {name}: {rate}, expected rates in [0, 1] for {', '.join(MODALITIES)}")
        return value
