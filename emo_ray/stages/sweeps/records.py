"""The records of a sweep's trials while it runs: a file for each in the store, and a run for each in MLflow.

A killed sweep goes on from the files, and its report is made of them.
"""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from emo_ray import durable, store, tracking
from emo_ray.config import Config
from emo_ray.training.search import Params, applied

COMPLETE, PRUNED, FAILED = "complete", "pruned", "failed"
_MLFLOW_STATUS = {COMPLETE: "FINISHED", PRUNED: "FINISHED", FAILED: "FAILED"}  # the tag "state" tells the pruned ones
PhaseEpoch = tuple[str, Mapping[str, float]]  # (phase, metrics of an epoch)


class Records:
    """The trials of one sweep, by name, each a dict as `sweep_report` takes it; `folder` may hold earlier ones."""

    def __init__(self, config: Config, root: Path, folder: Path, parent: tracking.Run):
        self.config, self.root, self.folder, self.parent = config, root, folder, parent
        folder.mkdir(parents=True, exist_ok=True)
        self.trials = {Path(name).stem: store.read_json(folder / name) for name in store.names(folder, "*.json")}
        self._runs: dict[str, tracking.Run] = {}
        self._begun_s: dict[str, float] = {}

    def begin(self, name: str, params: Params) -> None:
        """Record a trial that starts, or goes on."""
        now_s = time.monotonic()
        fresh = {
            "number": len(self.trials),
            "params": params,
            "state": None,
            "value": None,
            "epochs": 0,
            "seconds": 0.0,
        }
        record = self.trials.setdefault(name, fresh | {"history": [], "error": None})
        self._begun_s[name] = now_s - record["seconds"]
        key = store.digest(self.parent.key, name)
        config = applied(self.config, params)
        run = tracking.open_run(config, self.root, key, f"trial-{record['number']}", parent=self.parent)
        self._runs[name] = run

    def epoch(self, name: str, epoch: int, value: float, reached: float, params: Params | None = None) -> None:
        """Record a trial's epoch: its number from 1, the objective so far, by which it is judged, and at this epoch.

        An epoch that was recorded before counts once.

        `params`: its settings now, where they may change on the way.
        """
        record = self.trials[name]
        record |= {"params": params} if params else {}
        if epoch > record["epochs"]:
            record |= {"epochs": epoch, "value": value, "history": [*record["history"], [epoch, value]]}
            record["curve"] = [*record.get("curve", []), [epoch, reached]]  # not in records of earlier versions
            record["seconds"] = time.monotonic() - self._begun_s[name]
            self._write(name, lasting=False)  # a sweep has many thousands of epochs

    def log(self, name: str, epochs: Iterable[PhaseEpoch]) -> None:
        """Log metrics of a trial's epochs to MLflow."""
        self._runs[name].epochs(epochs)

    def end(self, name: str, state: str, error: str | None = None, seconds: float | None = None) -> None:
        """Record that a trial is complete, was stopped early, or has failed."""
        record = self.trials[name]
        record |= {"state": state, "error": error}
        if seconds is not None:
            record["seconds"] = seconds
        self._write(name)
        run = self._runs.pop(name)
        run.tag("state", state)
        if record["value"] is not None:
            run.metrics({"objective": record["value"]})
        run.finish(_MLFLOW_STATUS[state])

    def forget(self, names: Iterable[str]) -> None:
        """Drop trials that a killed sweep had begun and that are begun anew under another name."""
        for name in names:
            record = self.trials.pop(name)
            store.remove(self.folder / f"{name}.json")
            run = tracking.open_run(
                applied(self.config, record["params"]),
                self.root,
                store.digest(self.parent.key, name),
                name,
                self.parent,
            )
            run.tag("state", "given up")
            run.finish("KILLED")

    def table(self) -> list[dict]:
        """All trials, in the order in which they began."""
        ordered = sorted(self.trials.values(), key=lambda record: record["number"])
        return [record | {"number": number} for number, record in enumerate(ordered)]

    def _write(self, name: str, lasting: bool = True) -> None:
        durable.write_text(self.folder / f"{name}.json", json.dumps(self.trials[name], ensure_ascii=False), lasting)
