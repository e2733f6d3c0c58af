"""The sections of the configuration that belong to one job, or to all: what is asked, selected, measured, and where."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from emo_ray.config.model_settings import METRICS, MODALITIES, SUBSETS, Section


class Annotate(Section):
    """A stronger model's reading of each transcript, asked of an OpenAI-compatible chat endpoint.

    The key is OPENAI_API_KEY of the environment and no setting, so that no file or run can hold it.
    """

    url: str | None = None  # e.g. http://127.0.0.1:8000/v1; None: no readings are made, and none are used
    model: str = "gpt-4"  # as the endpoint calls it
    prompt: str = (
        'Somebody says: "{transcript}"\n'
        "Describe the speaker's likely emotional state in one or two short sentences, and what in the words shows it. "
        "Answer in {language}."
    )
    language: str = "English"  # of the readings
    max_answer_tokens: int = Field(120, ge=1)
    request: dict[str, Any] = Field(
        {}
    )  # other fields of each request; null takes one of ours out: max_tokens, temperature
    concurrency: int = Field(8, ge=1)  # requests under way at once, over the whole job
    timeout_s: float = Field(60.0, gt=0)  # of one request
    max_attempts: int = Field(6, ge=1)  # requests for one transcript in one run
    backoff_s: float = Field(1.0, gt=0)  # before the second request for it; doubled before each one after
    max_wait_s: float = Field(60.0, gt=0)  # the longest of these; an endpoint that wants longer ends the run
    max_requests: int | None = Field(None, ge=1)  # of one run, failed ones included
    max_tokens: int | None = Field(None, ge=1)  # of one run: prompts and answers, as the endpoint counts them

    @field_validator("url")
    @classmethod
    def _endpoint(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://nowhere")
        if parts.username or parts.password or parts.query:  # and a URL is written to files
            raise ValueError("found credentials or a query in annotate.url, expected the key in OPENAI_API_KEY alone")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"found {url!r}, expected http://HOST:PORT/v1 or https://HOST/v1")
        return url

    @field_validator("request")
    @classmethod
    def _other_fields(cls, request: dict[str, Any]) -> dict[str, Any]:
        if taken := {"model", "messages", "stream", "n"} & set(request):
            raise ValueError(f"found {', '.join(sorted(taken))} in annotate.request, expected other fields")
        return request

    @field_validator("prompt", mode="before")
    @classmethod
    def _no_mapping(cls, prompt: Any) -> Any:
        if isinstance(prompt, dict):  # how YAML reads a bare {transcript}
            raise ValueError(f"found {prompt!r}, expected text in quotes that YAML sees: 'annotate.prompt=\"...\"'")
        return prompt

    @field_validator("prompt")
    @classmethod
    def _places(cls, prompt: str) -> str:
        places = re.findall(r"{(\w+)}", prompt)
        if places.count("transcript") != 1 or set(places) - {"transcript", "language"}:
            raise ValueError(f"found {prompt!r}, expected {{transcript}} once and of other such brackets {{language}}")
        return prompt


class Pseudo(Section):
    """Which pseudo-labels are kept, and whose: `checkpoint` is the teacher."""

    policy: Literal["quantile", "fixed", "per_class", "quota", "adaptive"] = "quantile"
    threshold: float = Field(0.9, ge=0, le=1)  # of fixed and adaptive; in per_class, of classes that thresholds lacks
    thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] = Field({})  # label -> its own, in per_class
    quota: int = Field(100, ge=1)  # clips of each class
    quantile: float = Field(0.5, ge=0, lt=1)  # share of the clips of each class that stays below
    floor: float = Field(0.5, ge=0, le=1)  # no threshold of quantile and adaptive is lower
    max_ratio: float = Field(3.0, gt=0)  # kept clips for each labelled training clip, at most
    teachers: tuple[str, ...] = ()  # further checkpoints; calibrated probabilities of all are averaged
    agreement: float = Field(1.0, ge=0, le=1)  # share of the teachers that must give the same class
    agreeing_modalities: int = Field(0, ge=0, le=len(MODALITIES))  # so many, each shown alone, must give it as well
    max_bad_fraction: float = Field(0.2, ge=0, le=1)  # of unlabelled clips with broken media; beyond it the job fails
    round: int = Field(0, ge=0)  # a number for the folder and its rows

    @model_validator(mode="after")
    def _used(self) -> "Pseudo":
        if self.thresholds and self.policy != "per_class":
            raise ValueError(f"found pseudo.thresholds with pseudo.policy={self.policy}, expected policy=per_class")
        return self


class Rounds(Section):
    """Self-training: a teacher labels, a student learns from it, and the better one teaches next."""

    most: int = Field(5, ge=1)  # a smaller number gives the state after that round, from what is there
    patience: int = Field(2, ge=1)  # rounds in a row without a rise of min_gain that end the job
    min_gain: float = Field(0.002, ge=0, lt=1)  # of validation WAF; a smaller rise is kept, but is no rise
    start: Literal["scratch", "warm"] = "scratch"  # a student's weights: new ones, or its teacher's


class Tune(Section):
    """A sweep: trials of the train stage with some keys changed, judged on validation clips."""

    # Dotted key -> {uniform: [low, high]}, {loguniform: [low, high]}, {randint: [low, high]} or {choice: [a, b, ...]},
    # ends included; null takes a key out.
    space: dict[str, dict[str, list[Any]]] = Field(
        {
            "fusion.modality_dropout": {"uniform": [0.0, 0.8]},
            "fusion.dropout": {"uniform": [0.0, 0.6]},
            "fusion.label_smoothing": {"uniform": [0.0, 0.3]},
            "fusion.lr": {"loguniform": [1e-4, 1e-2]},
            "emovclip.global_prompts": {"choice": [0, 4, 8, 16]},
            "emovclip.context_tokens": {"choice": [0, 4, 8, 16]},
        }
    )
    trials: int = Field(20, ge=1)  # the first is the recipe as it is, where the space holds it
    search: Literal["tpe", "random", "pbt"] = "tpe"
    scheduler: Literal["asha", "none"] = "asha"  # pbt is one by itself
    grace_epochs: int = Field(2, ge=1)  # of each trial before it may be stopped, or perturbed
    reduction_factor: int = Field(3, ge=2)  # one of so many goes on at each of ASHA's rungs
    objective: str = "mean/waf"  # SUBSET/METRIC of validation; a subset, the mean of all seven, or available
    folds: int | None = Field(None, ge=2)  # of training and validation clips together, in place of their split
    bulk: Literal["auto", "no"] = "auto"  # auto: trials that change the head alone are trained many at a time
    max_concurrent: int | None = Field(None, ge=1)  # trials at once; None: as many as the cluster has room for
    max_failures: int = Field(1, ge=0)  # restarts of a trial before it has failed

    @field_validator("bulk", mode="before")
    @classmethod
    def _yaml_words(cls, value: Any) -> Any:
        return {True: "auto", False: "no"}[value] if isinstance(value, bool) else value  # a bare no is false in YAML

    @field_validator("space", mode="before")
    @classmethod
    def _without_null(cls, space: Any) -> Any:
        return {k: v for k, v in space.items() if v is not None} if isinstance(space, dict) else space

    @field_validator("space")
    @classmethod
    def _forms(cls, space: dict[str, dict[str, list[Any]]]) -> dict[str, dict[str, list[Any]]]:
        for key, given in space.items():
            (form, values), *others = given.items() or [(None, [])]
            numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
            ends = numbers and len(values) == 2 and values[0] < values[1]
            if form == "choice":
                right = len(values) > 0 and len({repr(v) for v in values}) == len(values)
            elif form == "randint":
                right = ends and all(isinstance(v, int) for v in values)
            else:
                right = ends and (form == "uniform" or (form == "loguniform" and values[0] > 0))
            if others or not right:
                raise ValueError(
                    f"found {key}: {given}, expected {{uniform: [low, high]}}, {{loguniform: [low, high]}} above 0, "
                    "{randint: [low, high]} of whole numbers or {choice: [different values]}"
                )
        return space

    @field_validator("objective")
    @classmethod
    def _known(cls, objective: str) -> str:
        where, _, metric = objective.partition("/")
        if where not in (*SUBSETS, "mean", "available") or metric not in METRICS:
            places, metrics = ", ".join((*SUBSETS, "mean", "available")), ", ".join(METRICS)
            raise ValueError(f"found {objective!r}, expected one of {places}, a slash, and one of {metrics}")
        return objective


class Evaluate(Section):
    """What a report is made on."""

    split: Literal["auto", "train", "validation", "test"] = "auto"  # auto: test where it has labels, else validation


class Crossvalidate(Section):
    """How each fold is trained; how many folds there are is data.folds."""

    heads: int = Field(3, ge=1)  # of different seeds in each fold, whose probabilities are averaged


class Claims(Section):
    """How often the claims are measured."""

    worlds: int = Field(3, ge=1)
    seeds: int = Field(3, ge=1)  # of training, in each world
    self_training_seeds: int = Field(5, ge=1)  # likewise, of which labels are known as well
    dropout_rates: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.15, 0.3, 0.5, 0.7)


class Bench(Section):
    """What jobs/bench.py measures, and on how much."""

    part: Literal["all", "step", "decode", "stream", "train", "features", "predict", "sweep"] = "all"
    pairs: int = Field(5, ge=1)  # rounds in which every way of a comparison runs once
    clip: str = "ViT-B-16"  # of the step and the stream: an open_clip architecture with random weights
    frames: int = Field(8, ge=1)
    global_prompts: int = Field(8, ge=0)
    batch_sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field((2,), min_length=1)  # clips of a step
    clips: int = Field(2000, ge=8)  # of the small corpus that is read, encoded and predicted
    train_s: float = Field(60.0, gt=0)  # of steps, in each run that is compared
    trials: int = Field(50, ge=1)  # of the sweep
    plan_clips: int | None = Field(None, ge=1)  # a corpus to plan for, of which
    plan_labelled: int = Field(5030, ge=1)  # are trained on (MER2024's labelled set)
    plan_cpus: int = Field(16, ge=1)
    plan_gpus: int = Field(0, ge=0)


class Store(Section):
    """Where artefacts go: a folder that every node sees."""

    root: str = "artifacts"


class Tracking(Section):
    """MLflow."""

    uri: str | None = None  # None: sqlite in store.root; on a cluster an http(s) server
    experiment: str = "emo_ray"


class Cluster(Section):
    """Which Ray to use."""

    address: str | None = None  # None: the cluster this process was submitted to, else a local one
    num_cpus: int | None = Field(None, ge=1)  # logical CPUs of a local one; None: all
