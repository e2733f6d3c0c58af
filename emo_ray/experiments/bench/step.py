"""The speed of EmoVCLIP's train step against the plain formulation of the same mathematics, on any device.

Measured are prompts, low-rank updates and both, and beside them the same tower with all its blocks trained.

`python -m emo_ray.experiments.bench.step [RECIPE] [key=value ...]` prints the figures as JSON, without Ray.
"""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emo_ray.config import Config, load, override, parse_overrides
from emo_ray.data.batch import VideoBatch
from emo_ray.experiments.bench.timing import Comparison, Figure, Measured, compared, rounds, timed
from emo_ray.models import emovclip, reference
from emo_ray.models.clip_families import vision_shape
from emo_ray.models.clip_source import clip_source, image_size
from emo_ray.models.emovclip import EmoVCLIP
from emo_ray.models.trainable_state import cast_frozen

PART = "step"
LABELS = ("neutral", "happy", "sad", "angry", "worried", "surprised")
PROMPTS, LORA, BOTH, FULL = "prompts", "LoRA", "prompts + LoRA", "fully fine-tuned"
_UNPROMPTED = {"local_prompts": False, "summary_prompt": False, "time_embedding": False, "global_prompts": 0}
_RANK = {"lora.rank": 8}
_TRAINED: dict[str, dict[str, Any]] = {PROMPTS: {}, LORA: _UNPROMPTED | _RANK, BOTH: _RANK, FULL: _UNPROMPTED}


@dataclass(frozen=True)
class Way:
    """One way of taking a step: what is trained, by which formulation, in which precision, and whether it trains."""

    trained: str
    plain: bool = False
    bf16: bool = False
    forward_only: bool = False

    def __str__(self) -> str:
        words = f"{self.trained}, {'plain ' if self.plain else ''}{'bf16' if self.bf16 else 'fp32'}"
        return f"{words}, forward" if self.forward_only else words


_ADAPTED = (PROMPTS, LORA, BOTH)
WAYS = (
    *(Way(trained, plain, bf16) for trained in _ADAPTED for bf16 in (False, True) for plain in (True, False)),
    *(Way(FULL, bf16=bf16) for bf16 in (False, True)),
    *(Way(PROMPTS, plain, forward_only=True) for plain in (True, False)),
)


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
    config = model_config(config)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    models = {
        (trained, bf16): _model(config, trained, bf16).to(device) for trained in _TRAINED for bf16 in (False, True)
    }
    peak_flops = {bf16: product_flops(device, torch.bfloat16 if bf16 else torch.float32) for bf16 in (False, True)}
    figures: list[Figure] = []
    comparisons: list[Comparison] = []
    for size in config.bench.batch_sizes:
        batch, title = random_batch(config, size).to(device), f"{config.emovclip.clip}, batch {size}"
        runs = {way: partial(_run, way, models[way.trained, way.bf16], batch) for way in WAYS}
        cpu_s = dict.fromkeys(map(str, runs), 0.0)
        timed_runs = {way: partial(timed, run, cpu_s, str(way), _synchronise(device)) for way, run in runs.items()}
        seconds = rounds(timed_runs, config.bench.pairs, on_done)
        for way, run in runs.items():
            step_s, is_ours = median(seconds[way]), not (way.plain or way.forward_only)
            flops = step_flops(models[way.trained, False], batch) if is_ours else 0
            figures.append(
                Figure(
                    PART,
                    f"{title}, {way}",
                    clips_per_s=size / step_s,
                    cpu_s_per_clip=cpu_s[str(way)] / (config.bench.pairs + 1) / size,
                    peak_bytes=_peak_bytes(config, size, way, run, device),
                    utilisation=flops / step_s / peak_flops[way.bf16] if is_ours else None,
                )
            )
        comparisons += _compare(title, seconds)
    return figures, comparisons


def _model(config: Config, trained: str, bf16: bool) -> EmoVCLIP:
    """A model with random weights of which this is trained; its frozen part in the precision of the step."""
    changes: dict[str, Any] = {f"emovclip.{name}": value for name, value in _TRAINED[trained].items()}
    if trained == FULL:
        _, layers, _ = vision_shape(clip_source(config).architecture["vision_cfg"])
        changes["emovclip.unfreeze_blocks"] = layers
    model = emovclip.build(override(config, changes), LABELS).train()
    if bf16:
        cast_frozen(model, torch.bfloat16)
    return model


def _compare(title: str, seconds: Mapping[Way, Sequence[float]]) -> list[Comparison]:
    """Ratios of times: ours against the plain formulation, bf16 against fp32, and against training the whole tower."""

    def times_as_fast(what: str, slow: Way, fast: Way, at_least: float) -> Comparison:
        return compared(PART, f"{title}: {what}", seconds[slow], seconds[fast], at_least)

    comparisons = []
    for trained in _ADAPTED:
        plain, ours = Way(trained, plain=True), Way(trained)
        plain_bf16, ours_bf16 = Way(trained, plain=True, bf16=True), Way(trained, bf16=True)
        comparisons += [
            times_as_fast(f"{trained}, fp32 / plain", plain, ours, 1.25),
            times_as_fast(f"{trained}, bf16 / plain fp32", plain, ours_bf16, 2.0),
            times_as_fast(f"{trained}, bf16 / plain bf16", plain_bf16, ours_bf16, 1.5),
            times_as_fast(f"{trained} / {FULL}, fp32", Way(FULL), ours, 1.0),
        ]
    plain, ours = (Way(PROMPTS, plain, forward_only=True) for plain in (True, False))
    return [*comparisons, times_as_fast("prompts, forward, fp32 / plain", plain, ours, 1.1)]


def random_batch(config: Config, size: int) -> VideoBatch:
    """A labelled batch of noise in the shape that the model of this config takes."""
    side = image_size(config)
    generator = torch.Generator().manual_seed(0)
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


def _run(way: Way, model: EmoVCLIP, batch: VideoBatch) -> None:
    if way.forward_only:
        with torch.no_grad():
            _encode(model, batch, way.plain)
    else:
        _train(model, batch, way.plain, way.bf16)


def _synchronise(device: torch.device) -> Callable[[], None]:
    return torch.cuda.synchronize if device.type == "cuda" else lambda: None


def _peak_bytes(config: Config, size: int, way: Way, run: Callable[[], None], device: torch.device) -> float | None:
    """Peak memory of one step with one model.

    On the CPU a fresh process takes the step: an allocator keeps memory, which would count as the next way's.
    """
    if device.type == "cuda":
        model = run.args[1]  # type: ignore[attr-defined] # of a partial of `_run`
        others = torch.cuda.memory_allocated(device) - sum(
            tensor.nbytes for tensor in (*model.parameters(), *model.buffers())
        )
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - others
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_peak_in_this_process, config, size, way, torch.get_num_threads()).result()


def _peak_in_this_process(config: Config, size: int, way: Way, threads: int) -> float | None:
    """Peak memory of one step in bytes; None on systems other than Linux."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    torch.set_num_threads(threads)
    model, batch = _model(config, way.trained, way.bf16), random_batch(config, size)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak: building the model does not count
    _run(way, model, batch)
    peak = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * float(peak.split()[1])


if __name__ == "__main__":
    words = sys.argv[1:]
    recipe = words.pop(0) if words and "=" not in words[0] else "mini"
    figures, comparisons = step(load(recipe, parse_overrides(words)))
    print(json.dumps({"figures": [asdict(f) for f in figures], "comparisons": [asdict(c) for c in comparisons]}))
