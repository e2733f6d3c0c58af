"""MLflow, and nothing else. One writer, in the driver; a run is found again by its tag, so none is doubled."""

import logging
import math
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emo_ray.config import Config, flatten

_LONGEST_VALUE = 500  # MLflow refuses longer parameter values
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # that a server takes at once
_KEY_TAG, _PARENT_TAG = "emo_ray.key", "mlflow.parentRunId"
_PRIVATE = {"tracking.uri"}  # may hold credentials


class Run:
    """One MLflow run that is being written to."""

    def __init__(self, client: Any, run_id: str, key: str):
        self.client, self.run_id, self.key = client, run_id, key
        self._logged: dict[str, int] = {}

    def params(self, config: Config) -> None:
        """The flattened config; what is logged already (by the run that this one resumes) is left as it is."""
        from mlflow.entities import Param

        there = self.client.get_run(self.run_id).data.params
        new = {k: _short(v) for k, v in flatten(config).items() if k not in there and k not in _PRIVATE}
        params = [Param(k, v) for k, v in new.items()]
        for i in range(0, len(params), _MOST_PARAMS):
            self.client.log_batch(self.run_id, params=params[i : i + _MOST_PARAMS])

    def epoch(self, phase: str, metrics: Mapping[str, float]) -> None:
        """An epoch's metrics as `<phase>/<name>`; an epoch that is logged already is not logged again."""
        self.epochs([(phase, metrics)])

    def epochs(self, several: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """The same of several, in order, at once."""
        from mlflow.entities import Metric

        values, now_ms = [], _now_ms()
        for phase, metrics in several:
            epoch = int(metrics["epoch"])
            if epoch > self._last_epoch(phase):
                self._logged[phase] = epoch
                named = ((f"{phase}/{k}", float(v)) for k, v in metrics.items() if k != "epoch")
                values += [Metric(name, value, now_ms, epoch) for name, value in named if math.isfinite(value)]
        for i in range(0, len(values), _MOST_METRICS):
            self.client.log_batch(self.run_id, metrics=values[i : i + _MOST_METRICS])

    def tag(self, name: str, value: str) -> None:
        """A word on the run."""
        self.client.set_tag(self.run_id, name, value)

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Metrics without an epoch, such as a report's; logged once, or when they have changed."""
        from mlflow.entities import Metric

        there = self.client.get_run(self.run_id).data.metrics
        new = [Metric(k, float(v), _now_ms(), 0) for k, v in metrics.items() if there.get(k) != float(v)]
        self.client.log_batch(self.run_id, metrics=new)

    def artifacts(self, folder: Path, name: str) -> None:
        """A folder's files, once."""
        if not self.client.list_artifacts(self.run_id, name):
            self.client.log_artifacts(self.run_id, str(folder), name)

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the block runs, so does the run; then it is finished, or has failed."""
        try:
            yield
        except BaseException:
            self.finish("FAILED")
            raise
        self.finish()

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(self.run_id, status)

    def _last_epoch(self, phase: str) -> int:
        if phase not in self._logged:
            history = self.client.get_metric_history(self.run_id, f"{phase}/train_loss")
            self._logged[phase] = max((metric.step for metric in history), default=-1)
        return self._logged[phase]


def uri(config: Config, root: Path) -> str:
    """The tracking URI: sqlite in the store unless `tracking.uri` names a server or database."""
    if config.tracking.uri is None:
        root.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{root}/mlflow.db"
    if "://" not in config.tracking.uri:
        raise ValueError(
            f"tracking.uri: found {config.tracking.uri!r}, expected sqlite:////path.db or http(s)://host:port: "
            "MLflow no longer keeps runs in plain folders"
        )
    return config.tracking.uri


def open_run(config: Config, root: Path, key: str, name: str, parent: Run | None = None) -> Run:
    """The run with this key, running again, or a new one. `key` is the digest of what the run makes.

    With a parent it is shown inside of it.
    """
    from mlflow import MlflowClient  # 1.4 s to import

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    client = MlflowClient(tracking_uri=uri(config, root))
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    if experiment is None:
        # A relative artifact root would start at wherever a process happens to stand; servers know their own.
        location = (root / "mlartifacts").as_uri() if config.tracking.uri is None else None
        experiment_id = client.create_experiment(config.tracking.experiment, artifact_location=location)
    else:
        experiment_id = experiment.experiment_id
    found = client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
    if found:
        run = Run(client, found[0].info.run_id, key)
        client.update_run(run.run_id, status="RUNNING")
    else:
        tags = {_KEY_TAG: key} | ({_PARENT_TAG: parent.run_id} if parent else {})
        run = Run(client, client.create_run(experiment_id, tags=tags, run_name=name).info.run_id, key)
    run.params(config)
    return run


def command(config: Config, root: Path) -> str:
    """The shell command that shows the runs, or where they are."""
    if config.tracking.uri is not None:
        return "on the tracking server of tracking.uri"
    mlflow = Path(sys.executable).with_name("mlflow")
    return shlex.join([str(mlflow), "ui", "--backend-store-uri", uri(config, root)])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _now_ms() -> int:
    return int(time.time() * 1000)
