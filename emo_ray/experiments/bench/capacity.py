"""Hours and bytes that a corpus would take on a cluster, estimated from the figures of one benchmark."""

from collections.abc import Sequence
from typing import TypedDict

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.media import RATE_HZ
from emo_ray.experiments.bench.timing import Figure

_SOUND_S = 4.0  # of a clip
_HOUR_S = 3600


class Stage(TypedDict):
    """The estimate for one stage."""

    stage: str
    hours: float | None  # None: not measured on such a machine
    bytes: float | None  # None: it stores next to nothing


class Capacity(TypedDict):
    """The estimate for a whole corpus."""

    clips: int
    cpus: int
    gpus: int
    stages: list[Stage]
    verdict: str


def estimate_capacity(config: Config, clips: int, figures: Sequence[Figure], on_gpu: bool) -> Capacity:
    """Estimate hours and bytes of each stage for so many clips, and name the stage that limits.

    Work is taken to spread evenly over `bench.plan_cpus`; the work of models is on `bench.plan_gpus` where there are
    any. Figures measured without a GPU (`on_gpu` false) say nothing about one: such hours are None.
    """
    bench = config.bench
    figure_of = {(figure.part, figure.what): figure for figure in figures}

    def cpu_hours(work_clips: int, figure: Figure) -> float:
        return work_clips * _measured(figure.cpu_s_per_clip) / bench.plan_cpus / _HOUR_S

    def model_hours(work_clips: int, figure: Figure) -> float | None:
        if on_gpu != bool(bench.plan_gpus):
            return None
        if on_gpu:
            return work_clips / (figure.clips_per_s * bench.plan_gpus) / _HOUR_S
        return cpu_hours(work_clips, figure)

    decoded, shard = figure_of["decode", "720p mp4"], figure_of["decode", "shards"]
    train_steps = [figure for figure in figures if figure.part == "step" and figure.utilisation is not None]
    fastest_step = max(train_steps, key=lambda figure: figure.clips_per_s)
    labelled, epochs = bench.plan_labelled, config.train.epochs
    stages: list[Stage] = [
        {
            "stage": "prepare (720p video to shards)",
            "hours": cpu_hours(clips, decoded),
            "bytes": clips * (_measured(shard.bytes_per_clip) + 2 * RATE_HZ * _SOUND_S),
        },
        {
            "stage": f"train EmoVCLIP ({labelled} clips, {epochs} epochs; {fastest_step.what})",
            "hours": model_hours(labelled * epochs, fastest_step),
            "bytes": None,
        },
    ]
    for name in MODALITIES:
        encoded = figure_of["features", f"encode {name}"]
        stored_bytes = clips * _measured(encoded.bytes_per_clip)
        stages.append({"stage": f"encode {name}", "hours": model_hours(clips, encoded), "bytes": stored_bytes})
    return {
        "clips": clips,
        "cpus": bench.plan_cpus,
        "gpus": bench.plan_gpus,
        "stages": stages,
        "verdict": _verdict(stages),
    }


def _measured(value: float | None) -> float:
    assert value is not None, "the parts that a plan needs measure it"
    return value


def _verdict(stages: Sequence[Stage]) -> str:
    hours_of = {stage["stage"]: stage["hours"] for stage in stages if stage["hours"] is not None}
    slowest = max(hours_of, key=lambda name: hours_of[name])
    verdict = f"{slowest} limits: {hours_of[slowest]:.1f} of {sum(hours_of.values()):.1f} hours"
    if len(hours_of) < len(stages):
        verdict += "; the other stages' figures were not measured on such a machine (with or without GPU)"
    return verdict
