"""The epochs of a training run, in files of its folder: the process that trains writes them, and the driver reads them.

So progress looks the same for training in workers, in this process, and after a kill.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emo_ray import durable, store
from emo_ray.progress import measured, progress, repeated

METRICS, PROGRESS = "metrics.jsonl", "progress.json"
_POLL_S = 0.5
_GAUGES = {"train_clips_per_s": "clips_per_second", "train_waited": "waiting_share", "val_waf": "validation_waf"}
OnEpoch = Callable[[str, dict[str, float]], None]  # (phase, metrics of an epoch)


class ProgressFile:
    """The step under way, in a file that is written at most twice a second."""

    def __init__(self, folder: Path):
        self.path, self.written_s = folder / PROGRESS, 0.0  # a time of time.monotonic

    def write(self, epoch: int, step: int, steps: int) -> bool:
        """Write the step where half a second has passed since the last one; returns whether it was written."""
        now_s = time.monotonic()
        is_due = now_s - self.written_s > _POLL_S
        if is_due:
            self.written_s = now_s
            durable.write_text(self.path, json.dumps([epoch, step, steps]), lasting=False)
        return is_due


def append(folder: Path, metrics: dict[str, float]) -> None:
    """Add an epoch's metrics to the log."""
    durable.append_lines(folder / METRICS, [json.dumps(metrics)])


@contextmanager
def epoch_progress(folder: Path, phase: str, epochs: int, on_epoch: OnEpoch) -> Iterator[Callable[[], None]]:
    """Show a progress bar; the yielded function reports newly written epochs to it and to `on_epoch`."""
    reported: set[int] = set()
    with progress(f"training {phase}", epochs, "epochs") as advance:

        def report(earlier: bool = False) -> None:
            for metrics in history(folder):
                if int(metrics["epoch"]) in reported:
                    continue
                reported.add(int(metrics["epoch"]))
                score = f"validation WAF {metrics['val_waf']:.3f}" if "val_waf" in metrics else ""
                advance(1, f"loss {metrics['train_loss']:.3f} {score}", earlier)
                for name, gauge in _GAUGES.items():
                    if name in metrics:
                        measured(gauge, metrics[name], stage=f"training {phase}")
                on_epoch(phase, metrics)
            with suppress(OSError, ValueError):
                epoch, step, steps = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
                if epoch not in reported:
                    advance(0, f"epoch {epoch + 1}, step {step} of {steps}")

        report(earlier=True)
        yield report


@contextmanager
def poll(look: Callable[[], None]) -> Iterator[None]:
    """Call `look` every half second while the block runs, and once at its end."""
    try:
        with repeated(look, _POLL_S):
            yield
    finally:
        look()


def history(folder: Path) -> list[dict[str, float]]:
    """Every epoch's metrics in order; an epoch that ran twice (before and after a crash) counts once, as last."""
    log = store.latest(folder / METRICS)
    if not log.exists():
        return []
    by_epoch: dict[int, dict[str, float]] = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a line that is still being written
            metrics = json.loads(line)
            by_epoch[int(metrics["epoch"])] = metrics
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
