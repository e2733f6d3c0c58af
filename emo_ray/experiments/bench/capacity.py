"""What a corpus would take on a cluster, from the figures of one benchmark."""

from collections.abc import Sequence

from emo_ray.config import Config
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.media import RATE_HZ
from emo_ray.experiments.bench.timing import Figure

_SOUND_S = 4.0  # of a clip
_HOUR_S = 3600


def estimate_capacity(config: Config, figures: Sequence[Figure], on_gpu: bool) -> dict:
    """Hours and bytes of each stage for `bench.plan_clips`, and a verdict that names the stage that limits.

    Work is taken to spread evenly over `bench.plan_cpus`, and that of models over `bench.plan_gpus` where there are
    any. What was measured without a GPU (`on_gpu`) says nothing about one: such hours are None.
    """
    own, by_name = config.bench, {(f.part, f.what): f for f in figures}

    def model_hours(clips: int, figure: Figure) -> float | None:
        if on_gpu != bool(own.plan_gpus):
            return None
        if on_gpu:
            return clips / (figure.clips_per_s * own.plan_gpus) / _HOUR_S
        return clips * figure.cpu_s_per_clip / own.plan_cpus / _HOUR_S

    decoded, shard = by_name["decode", "720p mp4"], by_name["decode", "shards"]
    step = max((f for f in figures if f.utilisation is not None), key=lambda f: f.clips_per_s)  # our train steps
    epochs = config.train.epochs
    stages = [
        {
            "stage": "prepare (720p video to shards)",
            "hours": own.plan_clips * decoded.cpu_s_per_clip / own.plan_cpus / _HOUR_S,
            "bytes": own.plan_clips * (shard.bytes_per_clip + 2 * RATE_HZ * _SOUND_S),
        },
        {
            "stage": f"train EmoVCLIP ({own.plan_labelled} clips, {epochs} epochs; {step.what})",
            "hours": model_hours(own.plan_labelled * epochs, step),
            "bytes": None,
        },
    ]
    for name in MODALITIES:
        encoded = by_name["features", f"encode {name}"]
        stages.append(
            {
                "stage": f"encode {name}",
                "hours": model_hours(own.plan_clips, encoded),
                "bytes": own.plan_clips * encoded.bytes_per_clip,
            }
        )
    return {
        "clips": own.plan_clips,
        "cpus": own.plan_cpus,
        "gpus": own.plan_gpus,
        "stages": stages,
        "verdict": _verdict(stages),
    }


def _verdict(stages: Sequence[dict]) -> str:
    known = [stage for stage in stages if stage["hours"] is not None]
    slowest, whole = max(known, key=lambda stage: stage["hours"]), sum(stage["hours"] for stage in known)
    verdict = f"{slowest['stage']} limits: {slowest['hours']:.1f} of {whole:.1f} hours"
    if len(known) < len(stages):
        verdict += "; the other stages' figures were not measured on such a machine (with or without GPU)"
    return verdict
