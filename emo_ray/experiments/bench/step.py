"""The speed of EmoVCLIP's train step against the plain formulation of the same mathematics, on any device.

`python -m emo_ray.experiments.bench.step [RECIPE] [key=value ...]` prints the figures as JSON, without Ray.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
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
from emo_ray.experiments.bench.timing import Comparison, Figure, Measured, compared, rounds, timed
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
            "emovclip.clip": config.bench.clip,
            "emovclip.weights": None,
            "emovclip.global_prompts": config.bench.global_prompts,
            "media.image_size": None,
            "media.frames": config.bench.frames,
            "data.labels": LABELS,
        },
    )


def step(config: Config, on_done: Callable[[float], None] = lambda steps: None) -> Measured:
    """Measure every batch size of `bench.batch_sizes`; `on_done(1)` is called after every step."""
    config, device = model_config(config), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = emovclip.build(config, LABELS).train().to(device)
    bf16_model = deepcopy(model)
    cast_frozen(bf16_model, torch.bfloat16)
    peak_flops = {OURS: product_flops(device, torch.float32), BF16: product_flops(device, torch.bfloat16)}
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    for size in config.bench.batch_sizes:
        batch, title = random_batch(config, size).to(device), f"{config.emovclip.clip}, batch {size}"
        ways = _ways(model, bf16_model, batch)
        cpu_s = dict.fromkeys(ways, 0.0)
        timed_ways = {name: partial(timed, way, cpu_s, name, _synchronise(device)) for name, way in ways.items()}
        seconds = rounds(timed_ways, config.bench.pairs, on_done)
        flops = step_flops(model, batch)
        for name, way in ways.items():
            step_s = median(seconds[name])
            figures.append(
                Figure(
                    PART,
                    f"{title}, {name}",
                    clips_per_s=size / step_s,
                    cpu_s_per_clip=cpu_s[name] / (config.bench.pairs + 1) / size,
                    peak_bytes=_peak_bytes(config, size, name, way, device),
                    utilisation=flops / step_s / peak_flops[name] if name in peak_flops else None,
                )
            )
        comparisons += _compare(title, seconds)
    return figures, comparisons


def _ways(model: EmoVCLIP, bf16_model: EmoVCLIP, batch: VideoBatch) -> dict[str, Callable[[], None]]:
    return {
        PLAIN: partial(_train, model, batch, plain=True),
        OURS: partial(_train, model, batch),
        BF16: partial(_train, bf16_model, batch, bf16=True),
        PLAIN_FORWARD: partial(_forward, model, batch, plain=True),
        OURS_FORWARD: partial(_forward, model, batch),
    }


def _compare(title: str, seconds: Mapping[str, Sequence[float]]) -> list[Comparison]:
    return [
        compared(PART, f"{title}: train, fp32 / plain", seconds[PLAIN], seconds[OURS], 1.25),
        compared(PART, f"{title}: train, bf16 / plain fp32", seconds[PLAIN], seconds[BF16], 2.0),
        compared(PART, f"{title}: forward, fp32 / plain", seconds[PLAIN_FORWARD], seconds[OURS_FORWARD], 1.1),
    ]


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
    """Floating-point operations of our train step, counted from its matrix products, those of attention included."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _train(model, batch)
    return counter.get_total_flops()


def product_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product: what this device reaches in practice, whatever its data sheet says."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    return 2 * n**3 / min(timed(lambda: a @ b, {"": 0.0}, "", _synchronise(device)) for _ in range(6))


def _encode(model: EmoVCLIP, batch: VideoBatch, plain: bool) -> torch.Tensor:
    features_BD = reference.encode_video(model, batch.frames_BTCHW) if plain else model.encode_video(batch.frames_BTCHW)
    return model.classify(features_BD).logits_BK


def _train(model: EmoVCLIP, batch: VideoBatch, plain: bool = False, bf16: bool = False) -> None:
    """One step forward and backward, without an optimiser."""
    with torch.autocast(batch.label_B.device.type, torch.bfloat16, enabled=bf16):
        logits_BK = _encode(model, batch, plain)
    F.cross_entropy(logits_BK, batch.label_B).backward()
    model.zero_grad(set_to_none=True)


@torch.no_grad()
def _forward(model: EmoVCLIP, batch: VideoBatch, plain: bool = False) -> None:
    _encode(model, batch, plain)


def _synchronise(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def _peak_bytes(config: Config, size: int, name: str, way: Callable[[], None], device: torch.device) -> float | None:
    """Peak memory of one step.

    On the CPU a fresh process takes the step: an allocator keeps memory, which would count as the next way's.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        way()
        return torch.cuda.max_memory_allocated(device)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_in_this_process, config, size, name, torch.get_num_threads()).result()


def _peak_in_this_process(config: Config, size: int, name: str, threads: int) -> float | None:
    """Peak memory of one step in bytes; None on systems other than Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    torch.set_num_threads(threads)
    model, batch = emovclip.build(config, LABELS).train(), random_batch(config, size)
    if name == BF16:
        cast_frozen(model, torch.bfloat16)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: building the model does not count
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
