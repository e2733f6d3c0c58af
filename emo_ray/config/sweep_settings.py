"""The section of the configuration that belongs to jobs/tune.py: what is searched, how, and by what it is judged."""

from typing import Any, Literal

from pydantic import field_validator

from emo_ray.config.model_settings import METRICS
from emo_ray.config.setting import NOTHING, Section, by_value, setting
from emo_ray.config.train_settings import checked_objective


def _is_range_or_choice(name: str, values: list[Any]) -> bool:
    """Whether these are the ends of a uniform, loguniform or randint range, or the values of a choice."""
    if name == "choice":
        return len(values) > 0 and len({repr(value) for value in values}) == len(values)
    kinds = (int,) if name == "randint" else (int, float)
    numbers = all(isinstance(value, kinds) and not isinstance(value, bool) for value in values)
    if not numbers or len(values) != 2 or not values[0] < values[1]:
        return False
    return name in ("uniform", "randint") or (name == "loguniform" and values[0] > 0)


class Tune(Section, decides=by_value("sweep"), in_recipe=False):
    """A sweep: trials of the train stage with some keys changed, judged on validation clips."""

    space: dict[str, dict[str, list[Any]]] = setting(
        {
            "fusion.modality_dropout": {"uniform": [0.0, 0.8]},
            "fusion.dropout": {"uniform": [0.0, 0.6]},
            "fusion.label_smoothing": {"uniform": [0.0, 0.3]},
            "fusion.lr": {"loguniform": [1e-4, 1e-2]},
            "emovclip.global_prompts": {"choice": [0, 4, 8, 16]},
            "emovclip.context_tokens": {"choice": [0, 4, 8, 16]},
        },
        "Dotted key -> {uniform: [low, high]}, {loguniform: [low, high]}, {randint: [low, high]} or "
        "{choice: [a, b, ...]}, ends included. null takes a key out.",
    )
    trials: int = setting(20, "Number of trials. The first is the recipe as it is, where the space holds it.", ge=1)
    search: Literal["tpe", "random", "pbt"] = setting(
        "tpe", "How points of the space are chosen. pbt: population-based training."
    )
    scheduler: Literal["asha", "none"] = setting(
        "asha", "How hopeless trials are stopped early. pbt is a scheduler by itself."
    )
    grace_epochs: int = setting(2, "Epochs of each trial before it may be stopped, or perturbed by pbt.", ge=1)
    reduction_factor: int = setting(3, "One of so many trials goes on at each of ASHA's rungs.", ge=2)
    objective: str = setting(
        "mean/waf",
        "What is maximised on validation clips, as WHERE/METRIC: WHERE is a subset such as VAT, mean (over all seven) "
        f"or available (what each clip has); METRIC is one of {', '.join(METRICS)}.",
    )
    folds: int | None = setting(
        None, "Folds of training and validation clips together, in place of their split. null: the split.", ge=2
    )
    curves: bool = setting(
        False,
        "Whether heads in folds are measured after every epoch, for learning curves; else where trials are compared.",
    )
    bulk: Literal["auto", "no"] = setting(
        "auto", "auto: trials that change the head alone are trained many at a time. no: each is a trial of Ray Tune."
    )
    max_concurrent: int | None = setting(
        None, "Trials at once. null: as many as the cluster has room for.", decides=NOTHING, ge=1
    )
    max_failures: int = setting(1, "Restarts of a trial before it has failed.", decides=NOTHING, ge=0)

    @field_validator("space", mode="before")
    @classmethod
    def _without_nulls(cls, space: Any) -> Any:
        if not isinstance(space, dict):
            return space
        return {key: form for key, form in space.items() if form is not None}

    @field_validator("space")
    @classmethod
    def _forms(cls, space: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        for key, form in space.items():
            if len(form) != 1 or not _is_range_or_choice(*next(iter(form.items()))):
                raise ValueError(
                    f"found {key}: {form}, expected {{uniform: [low, high]}}, {{loguniform: [low, high]}} above 0, "
                    "{randint: [low, high]} of whole numbers or {choice: [different values]}"
                )
        return space

    @field_validator("objective")
    @classmethod
    def _objective(cls, objective: str) -> str:
        return checked_objective(objective)
