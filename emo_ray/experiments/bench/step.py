"""The speed of EmoVCLIP's train step against the plain formulation of the same mathematics, on any device.

`python -m emo_ray.experiments.bench.step [RECIPE] [key=value ...]` prints it as JSON where there is no Ray.
"""

import json
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emo_ray.config import Config, load, override, parse_overrides
from emo_ray.data.batch import VideoBatch
from emo_ray.experiments.bench.timing import Comparison, Figure, compared, rounds, timed
from emo_ray.models import emovclip, reference
from emo_ray.models.clip_source import image_size
from emo_ray.models.emovclip import EmoVCLIP
from emo_ray.models.trainable_state import cast_frozen

PART = "step"
LABELS = ("neutral", "happy", "sad", "angry", "worried", "surprised")
PLAIN, OURS, BF16 = "plain fp32", "fp32", "bf16"
PLAIN_FORWARD, OURS_FORWARD = "plain fp32, forward", "fp32, forward"
WAYS = 5


def model_config(config: Config) -> Config:
    """The config with the architecture that `bench` names, random weights, and six classes."""
    return override(
        config,
        {
            **{"emovclip.clip": config.bench.clip, "emovclip.weights": None, "media.image_size": None},
            **{"media.frames": config.bench.frames, "emovclip.global_prompts": config.bench.global_prompts},
            "data.labels": LABELS,
        },
    )


def step(config: Config, done: Callable[[float], None] = lambda steps: None) -> tuple[list[Figure], list[Comparison]]:
    """Figures and comparisons for every batch size of `bench.batch_sizes`; `done` is called after every step."""
    config, device = model_config(config), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = emovclip.build(config, LABELS).train().to(device)
    half = deepcopy(model)
    cast_frozen(half, torch.bfloat16)
    peak = {OURS: product_flops(device, torch.float32), BF16: product_flops(device, torch.bfloat16)}
    figures, comparisons = [], []
    for size in config.bench.batch_sizes:
        batch = random_batch(config, size).to(device)
        flops = step_flops(model, batch)
        ways = {
            PLAIN: partial(_train, model, batch, plain=True),
            OURS: partial(_train, model, batch),
            BF16: partial(_train, half, batch, bf16=True),
            PLAIN_FORWARD: partial(_forward, model, batch, plain=True),
            OURS_FORWARD: partial(_forward, model, batch),
        }
        cpu_s = dict.fromkeys(ways, 0.0)
        seconds = rounds({name: partial(timed, way, cpu_s, name, _wait(device)) for name, way in ways.items()},
                         config.bench.pairs, done)  # fmt: skip
        title = f"{config.emovclip.clip}, batch {size}"
        for name in ways:
            took_s = median(seconds[name])
            rate = flops / took_s / peak[name] if name in peak else None
            own = ways[name]
            memory = _peak_bytes(own, device) if device.type == "cuda" else _peak_in_child(config, size, name)
            spent_s = cpu_s[name] / (config.bench.pairs + 1) / size
            figures.append(Figure(PART, f"{title}, {name}", size / took_s, spent_s, None, memory, None, rate))
        comparisons += [
            compared(PART, f"{title}: train, fp32 / plain", seconds[PLAIN], seconds[OURS], 1.25),
            compared(PART, f"{title}: train, bf16 / plain fp32", seconds[PLAIN], seconds[BF16], 2.0),
            compared(PART, f"{title}: forward, fp32 / plain", seconds[PLAIN_FORWARD], seconds[OURS_FORWARD], 1.1),
        ]
    return figures, comparisons


def random_batch(config: Config, size: int) -> VideoBatch:
    """A labelled batch of noise in the shape that the model of this config takes."""
    side, generator = image_size(config), torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (size, config.media.frames, 3, side, side), dtype=torch.uint8, generator=generator)
    present_BM = torch.tensor([[True, False, False]] * size)
    label_B = torch.arange(size) % len(LABELS)
    return VideoBatch(
        clip_ids=tuple(map(str, range(size))), present_BM=present_BM, label_B=label_B, frames_BTCHW=frames
    )


def step_flops(model: EmoVCLIP, batch: VideoBatch) -> int:
    """Floating-point operations of our train step, counted from its matrix products (attention's too)."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _train(model, batch)
    return counter.get_total_flops()


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: what this device gives in practice, whatever its data sheet says."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(timed(lambda: a @ b, {"": 0.0}, "", _wait(device)) for _ in range(6))


def _encode(model: EmoVCLIP, batch: VideoBatch, plain: bool) -> torch.Tensor:
    features_BD = reference.encode_video(model, batch.frames_BTCHW) if plain else model.encode_video(batch.frames_BTCHW)
    return model.classify(features_BD).logits_BK


def _train(model: EmoVCLIP, batch: VideoBatch, plain: bool = False, bf16: bool = False) -> None:
    """Forward and backward."""
    with torch.autocast(batch.label_B.device.type, torch.bfloat16, enabled=bf16):
        logits_BK = _encode(model, batch, plain)
    F.cross_entropy(logits_BK, batch.label_B).backward()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def _forward(model: EmoVCLIP, batch: VideoBatch, plain: bool = False) -> None:
    _encode(model, batch, plain)


def _wait(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def _peak_bytes(way: Callable[[], object], device: torch.device) -> float:
    torch.cuda.reset_peak_memory_stats(device)
    way()
    return torch.cuda.max_memory_allocated(device)


def _peak_in_child(config: Config, size: int, name: str) -> float | None:
    """Peak memory of one step on the CPU, in a process of its own: what an allocator keeps would count for the next."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_here, config, size, name, torch.get_num_threads()).result()


def _peak_here(config: Config, size: int, name: str, threads: int) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():  # only Linux tells
        return None
    torch.set_num_threads(threads)
    model, batch = emovclip.build(config, LABELS).train(), random_batch(config, size)
    if name == BF16:
        cast_frozen(model, torch.bfloat16)
    Path("/proc/self/clear_refs").write_text("5")  # building the model is no part of it
    plain = name in (PLAIN, PLAIN_FORWARD)
    if name in (PLAIN_FORWARD, OURS_FORWARD):
        _forward(model, batch, plain)
    else:
        _train(model, batch, plain, bf16=name == BF16)
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * float(peak.split()[1])


if __name__ == "__main__":
    words = sys.argv[1:]
    recipe = words.pop(0) if words and "=" not in words[0] else "mini"
    figures, comparisons = step(load(recipe, parse_overrides(words)))
    print(json.dumps({"figures": [asdict(f) for f in figures], "comparisons": [asdict(c) for c in comparisons]}))
