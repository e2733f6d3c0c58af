"""The estimate against the same sums done by hand."""

import pytest

from emo_ray.config import load
from emo_ray.experiments.bench.capacity import estimate_capacity
from emo_ray.experiments.bench.timing import Figure

FIGURES = [
    Figure("decode", "720p mp4", clips_per_s=5, cpu_s_per_clip=0.2, bytes_per_clip=1e6),
    Figure("decode", "shards", clips_per_s=200, cpu_s_per_clip=0.005, bytes_per_clip=100_000),
    Figure("step", "ViT, plain fp32", clips_per_s=90),
    Figure("step", "ViT, fp32", clips_per_s=0.5, cpu_s_per_clip=4, utilisation=0.5),
    Figure("step", "ViT, bf16", clips_per_s=2, cpu_s_per_clip=1, utilisation=0.5),
    Figure("features", "encode video", clips_per_s=1, cpu_s_per_clip=2, bytes_per_clip=2048),
    Figure("features", "encode audio", clips_per_s=10, cpu_s_per_clip=0.1, bytes_per_clip=4096),
    Figure("sweep", "heads in bulk", clips_per_s=1e6, utilisation=0.5),
    Figure("features", "encode text", clips_per_s=20, cpu_s_per_clip=0.05, bytes_per_clip=512),
]
CLIPS = 36_000
SETTINGS = {"bench.plan_labelled": 3600, "bench.plan_cpus": 4, "train.epochs": 5}


def hours(plan):
    return [stage["hours"] for stage in plan["stages"]]


def test_hours_on_cpus():
    plan = estimate_capacity(load("mini", SETTINGS), CLIPS, FIGURES, on_gpu=False)
    assert hours(plan) == pytest.approx([0.5, 1.25, 5.0, 0.25, 0.125])
    assert plan["stages"][0]["bytes"] == 36_000 * (100_000 + 2 * 16_000 * 4)
    assert [s["bytes"] for s in plan["stages"][2:]] == [36_000 * n for n in (2048, 4096, 512)]
    assert plan["verdict"].startswith("encode video limits: 5.0 of 7.1 hours")


def test_hours_on_gpus():
    plan = estimate_capacity(load("mini", {**SETTINGS, "bench.plan_gpus": 2}), CLIPS, FIGURES, on_gpu=True)
    assert hours(plan) == pytest.approx([0.5, 1.25, 5.0, 0.5, 0.25])


@pytest.mark.parametrize(("gpus", "on_gpu"), [(2, False), (0, True)])
def test_what_was_not_measured_is_not_planned(gpus, on_gpu):
    plan = estimate_capacity(load("mini", {**SETTINGS, "bench.plan_gpus": gpus}), CLIPS, FIGURES, on_gpu=on_gpu)
    assert hours(plan) == [0.5, None, None, None, None]
    assert "not measured on such a machine" in plan["verdict"]
