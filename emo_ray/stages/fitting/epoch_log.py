"""The epochs of a training run, as its folder tells of them: whoever trains writes there, and the driver looks.

So a run tells the same in workers, in this process, and after a kill.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

from emo_ray import store
from emo_ray.progress import progress

METRICS, PROGRESS = "metrics.jsonl", "progress.json"
_POLL_S = 0.5
OnEpoch = Callable[[str, dict[str, float]], None]  # (phase, metrics of an epoch)


class ProgressFile:
    """The step under way, written down for who looks, at most twice a second."""

    def __init__(self, folder: Path):
        self.path, self.written_s = folder / PROGRESS, 0.0

    def __call__(self, epoch: int, step: int, steps: int) -> bool:
        """Whether it was written."""
        now_s = time.monotonic()
        if due := now_s - self.written_s > _POLL_S:
            self.written_s = now_s
            store.write_text(self.path, json.dumps([epoch, step, steps]))
        return due


def append(folder: Path, metrics: dict[str, float]) -> None:
    """Write an epoch's metrics down."""
    with (folder / METRICS).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(metrics) + "\n")


@contextmanager
def epoch_progress(folder: Path, phase: str, epochs: int, on_epoch: OnEpoch) -> Iterator[Callable[[], None]]:
    """A progress bar, and a function that tells it and `on_epoch` what the folder says that they have not heard."""
    told: set[int] = set()
    with progress(f"training {phase}", epochs, "epochs") as advance:

        def tell() -> None:
            for metrics in history(folder):
                if metrics["epoch"] in told:
                    continue
                told.add(metrics["epoch"])
                score = f"validation WAF {metrics['val_waf']:.3f}" if "val_waf" in metrics else ""
                advance(1, f"loss {metrics['train_loss']:.3f} {score}")
                on_epoch(phase, metrics)
            with suppress(OSError, ValueError):
                epoch, step, steps = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
                if epoch not in told:
                    advance(0, f"epoch {epoch + 1}, step {step} of {steps}")

        tell()
        yield tell


@contextmanager
def poll(look: Callable[[], None]) -> Iterator[None]:
    """While the block runs, and at its end, look at what others write."""
    stop = Event()

    def follow() -> None:
        while not stop.wait(_POLL_S):
            look()

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        look()


def history(folder: Path) -> list[dict[str, float]]:
    """Every epoch's metrics in order; an epoch that ran twice (before and after a crash) counts once, as last."""
    if not (folder / METRICS).exists():
        return []
    by_epoch: dict[int, dict[str, float]] = {}
    for line in (folder / METRICS).read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # a line that is still being written
            metrics = json.loads(line)
            by_epoch[int(metrics["epoch"])] = metrics
    return [by_epoch[epoch] for epoch in sorted(by_epoch)]
