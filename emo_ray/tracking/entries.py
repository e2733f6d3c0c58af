"""What a job tells MLflow, entry by entry, and how each is written; writing one again changes nothing."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ALIAS = "champion"  # of the version of a registered model that was registered last
KEY_TAG, _PARENT_TAG = "emo_ray.key", "mlflow.parentRunId"
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # that a server takes at once


@dataclass(frozen=True)
class Entry:
    """One thing to write to the run with a key; `values` is what the function of this kind in `Writer` takes."""

    kind: str
    run_key: str
    experiment: str
    values: Mapping[str, Any]
    time_ms: int = field(default_factory=lambda: int(time.time() * 1000))

    def as_json(self) -> dict[str, Any]:
        """JSON-able values, of which `Entry(**values)` is an equal entry."""
        return asdict(self)


class Writer:
    """Writes entries to MLflow. `artifact_location`: of a new experiment; None where the server knows its own."""

    def __init__(self, client: Any, artifact_location: str | None):
        self.client, self.artifact_location = client, artifact_location
        self._run_ids: dict[str, str | None] = {}
        self._last_epochs: dict[tuple[str, str], int] = {}  # (run id, phase) -> the last that is logged
        self._kinds: dict[str, Callable[[Entry, str], None]] = {
            "params": self._params,
            "dataset": self._dataset,
            "epochs": self._epochs,
            "tag": self._tag,
            "metrics": self._metrics,
            "artifacts": self._artifacts,
            "model": self._model,
            "finish": self._finish,
        }

    def write(self, entry: Entry) -> None:
        """Write an entry; nothing where MLflow refused to open its run, which has been said."""
        if entry.kind == "open":
            self._open(entry)
        elif (run_id := self.run_id(entry.run_key, entry.experiment)) is not None:
            self._kinds[entry.kind](entry, run_id)

    def _open(self, entry: Entry) -> None:
        """Find the run with this key and set it running, or create it."""
        key, parent = entry.run_key, entry.values["parent"]
        self._run_ids.pop(key, None)
        run_id = self.run_id(key, entry.experiment)
        if run_id is not None:
            self.client.update_run(run_id, status="RUNNING")
            return
        parent_id = self.run_id(parent, entry.experiment) if parent else None
        # Entries that wait since an earlier version have no tags.
        tags = entry.values.get("tags", {}) | {KEY_TAG: key} | ({_PARENT_TAG: parent_id} if parent_id else {})
        experiment_id = self._experiment_id(entry.experiment)
        name = entry.values["name"]
        run = self.client.create_run(experiment_id, start_time=entry.time_ms, tags=tags, run_name=name)
        self._run_ids[key] = run.info.run_id

    def run_id(self, key: str, experiment: str) -> str | None:
        """The id of the run with this key; None where there is none."""
        if key not in self._run_ids:
            experiment_id = self._experiment_id(experiment)
            runs = self.client.search_runs([experiment_id], f"tags.`{KEY_TAG}` = '{key}'", max_results=1)
            self._run_ids[key] = runs[0].info.run_id if runs else None
        return self._run_ids[key]

    def _experiment_id(self, name: str) -> str:
        experiment = self.client.get_experiment_by_name(name)
        if experiment is not None:
            return experiment.experiment_id
        return self.client.create_experiment(name, artifact_location=self.artifact_location)

    def _params(self, entry: Entry, run_id: str) -> None:
        """Log parameters; those logged already (by the run that this one resumes) stay as they are."""
        from mlflow.entities import Param

        logged = self.client.get_run(run_id).data.params
        params = [Param(name, value) for name, value in entry.values.items() if name not in logged]
        for i in range(0, len(params), _MOST_PARAMS):
            self.client.log_batch(run_id, params=params[i : i + _MOST_PARAMS])

    def _dataset(self, entry: Entry, run_id: str) -> None:
        """Log a corpus as the run's input; one that is logged already is not logged again."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        name, digest, counts = (entry.values[key] for key in ("name", "digest", "counts"))
        source = json.dumps({"uri": f"prepared/{digest}"})  # in the store
        dataset = Dataset(name, digest, "store", source, profile=json.dumps(counts))
        self.client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "corpus")])])

    def _epochs(self, entry: Entry, run_id: str) -> None:
        """Log metrics of epochs, without those that are logged already and without values that are not finite."""
        from mlflow.entities import Metric

        values = []
        for phase, metrics in entry.values["epochs"]:
            epoch = int(metrics["epoch"])
            if epoch > self._last_epoch(phase, run_id):
                self._last_epochs[run_id, phase] = epoch
                named = ((f"{phase}/{name}", float(value)) for name, value in metrics.items() if name != "epoch")
                finite = ((name, value) for name, value in named if math.isfinite(value))
                values += [Metric(name, value, entry.time_ms, epoch) for name, value in finite]
        try:
            for i in range(0, len(values), _MOST_METRICS):
                self.client.log_batch(run_id, metrics=values[i : i + _MOST_METRICS])
        except Exception:
            self._last_epochs.clear()  # the server may have some of them or none: it is asked before the next attempt
            raise

    def _last_epoch(self, phase: str, run_id: str) -> int:
        if (run_id, phase) not in self._last_epochs:
            history = self.client.get_metric_history(run_id, f"{phase}/train_loss")
            self._last_epochs[run_id, phase] = max((metric.step for metric in history), default=-1)
        return self._last_epochs[run_id, phase]

    def _tag(self, entry: Entry, run_id: str) -> None:
        self.client.set_tag(run_id, entry.values["name"], entry.values["value"])

    def _metrics(self, entry: Entry, run_id: str) -> None:
        """Log metrics without an epoch, once, and again when they have changed."""
        from mlflow.entities import Metric

        values = [Metric(name, float(value), entry.time_ms, 0) for name, value in entry.values.items()]
        logged = self.client.get_run(run_id).data.metrics
        changed = [metric for metric in values if logged.get(metric.key) != metric.value]
        self.client.log_batch(run_id, metrics=changed)

    def _artifacts(self, entry: Entry, run_id: str) -> None:
        """Copy a folder's files to the run, once."""
        folder, name = entry.values["folder"], entry.values["name"]
        if not self.client.list_artifacts(run_id, name):
            self.client.log_artifacts(run_id, folder, name)

    def _model(self, entry: Entry, run_id: str) -> None:
        """Register a model's folder, once, as a model of the run and a version that the alias names."""
        folder, name, key = (entry.values[part] for part in ("folder", "name", "key"))
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        versions = self.client.search_model_versions(f"name = '{name}'")
        version = next((version for version in versions if version.tags.get(KEY_TAG) == key), None)
        if version is None:
            run = self.client.get_run(run_id)
            logged = self.client.create_logged_model(run.info.experiment_id, name, source_run_id=run_id)
            self.client.log_model_artifacts(logged.model_id, folder)
            logged = self.client.finalize_logged_model(logged.model_id, "READY")
            version = self.client.create_model_version(
                name, logged.artifact_location, run_id, tags={KEY_TAG: key}, model_id=logged.model_id
            )
        self.client.set_registered_model_alias(name, ALIAS, version.version)

    def _finish(self, entry: Entry, run_id: str) -> None:
        self.client.set_terminated(run_id, entry.values["status"], end_time=entry.time_ms)


def size_bytes(entry: Entry) -> int:
    """The size of the files that an entry has copied."""
    if entry.kind not in ("artifacts", "model"):
        return 0
    return sum(path.stat().st_size for path in Path(entry.values["folder"]).rglob("*") if path.is_file())
