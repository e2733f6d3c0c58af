"""The step benchmark on a tiny model: every way has its row, and operations are counted right."""

import json

import pytest
import torch

from emo_ray.config import load
from emo_ray.experiments.bench.step import LABELS, WAYS, model_config, product_flops, random_batch, step, step_flops
from emo_ray.models import emovclip


@pytest.fixture
def config(tmp_path):
    """A tiny tower, two frames."""
    clip = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 8},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    path = tmp_path / "tiny_clip.json"
    path.write_text(json.dumps(clip))
    return load("mini", {"bench.clip": str(path), "bench.frames": 2, "bench.pairs": 2})


@pytest.mark.slow  # it starts a process for the memory of every way
def test_every_way_and_every_comparison_has_its_row(config):
    steps = []
    figures, comparisons = step(config, steps.append)
    assert [figure.what.split(", ", 2)[2] for figure in figures] == [str(way) for way in WAYS]
    assert sum(steps) == len(WAYS) * (config.bench.pairs + 1)
    assert len(comparisons) == 3 * 4 + 1
    assert all(f.clips_per_s > 0 and f.cpu_s_per_clip > 0 and f.peak_bytes > 50e6 for f in figures)
    measured = [not (way.plain or way.forward_only) for way in WAYS]
    assert [f.utilisation is not None for f in figures] == measured
    assert all(c.low <= c.ratio <= c.high for c in comparisons)


def test_flops_grow_with_clips_and_count_both_passes(config):
    config = model_config(config)
    model = emovclip.build(config, LABELS)
    one, two = (step_flops(model, random_batch(config, size)) for size in (1, 2))
    text = two - 2 * (two - one)  # the classes are encoded once a step, whatever the batch
    assert 0 <= text < one
    # By hand, a frame's blocks: 5 rows attend over 5 + 8 + 2 + 1; width 32; the MLP is 4 times as wide.
    rows, keys, D = 5, 16, 32
    products = 2 * rows * D * D * (1 + 2 + 1 + 8) + 2 * 2 * rows * keys * D
    assert two - one > 2 * 2 * products  # 2 frames, forward and backward, less than 2 whole blocks


def test_a_matrix_product_reaches_a_rate():
    assert 1e8 < product_flops(torch.device("cpu"), torch.float32) < 1e14
