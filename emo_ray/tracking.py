"""MLflow, and nothing else. One process writes, the driver; a run is found again by its tag, so none exists twice.

A server that does not answer when the first run is opened is an error, which comes before any training. One that stops
answering later costs no training: what it misses is kept in memory, and sent when it answers again.
"""

import json
import logging
import math
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

from emo_ray import store
from emo_ray.config import Config, flatten
from emo_ray.config.job_settings import CREDENTIALS, unusable_uri, without_credentials
from emo_ray.progress import say

_LONGEST_VALUE = 500  # MLflow refuses longer parameter values
_LONGEST_REASON = 200  # characters of an error that a message repeats
_MOST_PARAMS, _MOST_METRICS = 100, 1000  # that a server takes at once
_KEY_TAG, _PARENT_TAG = "emo_ray.key", "mlflow.parentRunId"
_DATABASE = "mlflow.db"  # in the store
_PRIVATE = {"tracking.uri"}  # may hold credentials
_SETTINGS = {
    # By default a failed request is repeated for four minutes, and every epoch would wait as long.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 2,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 20,  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,  # the address is printed with its credentials
}
_SHORTEST_PAUSE_S, _WAITING_SHARE = 30.0, 0.1  # between attempts to reach a server, and the time they may take
_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"}


class Server:
    """A tracking server or database. Writes that it misses are kept, and sent in order when it answers again."""

    def __init__(self, address: str):
        from mlflow import MlflowClient, environment_variables  # 1.4 s to import

        for name, value in _SETTINGS.items():
            setting = getattr(environment_variables, name)
            if not setting.is_set():  # a user's setting wins
                setting.set(value)
        logging.getLogger("mlflow").setLevel(logging.WARNING)
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns at every repeated request
        self.address, self.client = address, MlflowClient(tracking_uri=address)
        self.has_answered = False
        self._pending: deque[Callable[[], None]] = deque()
        self._is_away, self._pause_until_s = False, 0.0

    def write(self, call: Callable[[], None]) -> None:
        """Make a call that writes to MLflow, after those that are pending, or keep it while the server is away.

        A call that fails for another reason is dropped with a message: no training is lost to its tracking. A call may
        be repeated.
        """
        self._pending.append(call)
        if time.monotonic() >= self._pause_until_s:
            self.flush()

    def flush(self) -> int:
        """Try to make all pending calls; the number of those that remain."""
        begun_s = time.monotonic()
        while self._pending:
            try:
                self._pending[0]()
            except Exception as error:
                if _is_away(error):
                    now_s = time.monotonic()
                    self._pause_until_s = now_s + max(_SHORTEST_PAUSE_S, (now_s - begun_s) / _WAITING_SHARE)
                    self._say_away(error)
                    break
                say(f"MLflow refused an entry: {self._reason(error)}")
            self._pending.popleft()
        else:
            if self._is_away:
                say(f"{without_credentials(self.address)} answers again, and has what it missed")
            self._is_away = False
        return len(self._pending)

    def first(self, call: Callable[[], Any]) -> None:
        """Make the first call, which shows whether anything answers. Raises ValueError where nothing does."""
        try:
            call()
        except Exception as error:
            raise unusable(self.address, self._reason(error)) from None  # libraries' messages hold the credentials
        self.has_answered = True

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            say(
                f"tracking.uri: {without_credentials(self.address)} does not answer ({self._reason(error)}); the job "
                "goes on, and what is missed is sent when it answers again"
            )
        self._is_away = True

    def _reason(self, error: BaseException) -> str:
        return _reason(error, self.address)


class Nowhere(Server):
    """In the place of a server where `tracking.enabled` is false: it drops all entries."""

    def __init__(self) -> None:
        self.address, self.has_answered = "", True

    def write(self, call: Callable[[], None]) -> None:
        """Drop the call."""

    def flush(self) -> int:
        """0: nothing is kept."""
        return 0


class Run:
    """One MLflow run that is being written to."""

    def __init__(self, server: Server, key: str, parent: "Run | None" = None):
        self.server, self.key, self.parent = server, key, parent
        self.run_id: str | None = None  # unknown until the server has answered
        self._last_epochs: dict[str, int] = {}

    def open(self, config: Config, root: Path, name: str) -> None:
        """Find the run with this key and set it running, or create it."""
        client = self.server.client
        experiment_id = _experiment_id(client, config, root)
        runs = client.search_runs([experiment_id], f"tags.`{_KEY_TAG}` = '{self.key}'", max_results=1)
        if runs:
            self.run_id = runs[0].info.run_id
            client.update_run(self.run_id, status="RUNNING")
        else:
            parent_id = self.parent and self.parent.run_id
            tags = {_KEY_TAG: self.key} | ({_PARENT_TAG: parent_id} if parent_id else {})
            self.run_id = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id

    def params(self, config: Config) -> None:
        """Log the flattened config; parameters logged already (by the run that this one resumes) stay as they are."""
        from mlflow.entities import Param

        values = {name: _short(value) for name, value in flatten(config).items() if name not in _PRIVATE}

        def send(run_id: str) -> None:
            logged = self.server.client.get_run(run_id).data.params
            params = [Param(name, value) for name, value in values.items() if name not in logged]
            for i in range(0, len(params), _MOST_PARAMS):
                self.server.client.log_batch(run_id, params=params[i : i + _MOST_PARAMS])

        self._write(send)

    def epoch(self, phase: str, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics as `<phase>/<name>`; an epoch that is logged already is not logged again."""
        self.epochs([(phase, metrics)])

    def epochs(self, epochs: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Log several epochs, in order, in one request."""
        self._write(partial(self._send_epochs, list(epochs), _now_ms()))

    def _send_epochs(self, epochs: Iterable[tuple[str, Mapping[str, float]]], now_ms: int, run_id: str) -> None:
        from mlflow.entities import Metric

        values = []
        for phase, metrics in epochs:
            epoch = int(metrics["epoch"])
            if epoch > self._last_epoch(phase, run_id):
                self._last_epochs[phase] = epoch
                named = ((f"{phase}/{name}", float(value)) for name, value in metrics.items() if name != "epoch")
                values += [Metric(name, value, now_ms, epoch) for name, value in named if math.isfinite(value)]
        try:
            for i in range(0, len(values), _MOST_METRICS):
                self.server.client.log_batch(run_id, metrics=values[i : i + _MOST_METRICS])
        except Exception:
            self._last_epochs.clear()  # the server may have some of them or none: it is asked before the next attempt
            raise

    def _last_epoch(self, phase: str, run_id: str) -> int:
        if phase not in self._last_epochs:
            history = self.server.client.get_metric_history(run_id, f"{phase}/train_loss")
            self._last_epochs[phase] = max((metric.step for metric in history), default=-1)
        return self._last_epochs[phase]

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the run."""
        self._write(lambda run_id: self.server.client.set_tag(run_id, name, value))

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics without an epoch, such as a report's; once, and again when they have changed."""
        now_ms = _now_ms()

        def send(run_id: str) -> None:
            from mlflow.entities import Metric

            values = [Metric(name, float(value), now_ms, 0) for name, value in metrics.items()]
            logged = self.server.client.get_run(run_id).data.metrics
            changed = [metric for metric in values if logged.get(metric.key) != metric.value]
            self.server.client.log_batch(run_id, metrics=changed)

        self._write(send)

    def artifacts(self, folder: Path, name: str) -> None:
        """Copy a folder's files to the run, once."""

        def send(run_id: str) -> None:
            if not self.server.client.list_artifacts(run_id, name):
                self.server.client.log_artifacts(run_id, str(folder), name)

        self._write(send)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the block; then the run has finished, or failed where the block did."""
        try:
            yield
        except BaseException:
            self.finish("FAILED")
            raise
        self.finish()

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED. At the end of a job, say what could not be tracked."""
        self._write(lambda run_id: self.server.client.set_terminated(run_id, status))
        if self.parent is None and (missed := self.server.flush()):
            address = without_credentials(self.server.address)
            say(f"{address} has missed {missed} entries; the job's results are in its store")

    def _write(self, send: Callable[[str], Any]) -> None:
        def call() -> None:
            if self.run_id is not None:  # None where MLflow refused to open the run, which has been said
                send(self.run_id)

        self.server.write(call)


def uri(config: Config, root: Path) -> str:
    """The tracking URI: sqlite in the store unless `tracking.uri` names a server or database."""
    if config.tracking.uri is None:
        root.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{root}/{_DATABASE}"
    return config.tracking.uri


def check(config: Config, root: Path) -> None:
    """Raises ValueError where no run can be opened: for jobs that open theirs when everything is trained."""
    if config.tracking.enabled and not (server := _server_at(uri(config, root))).has_answered:
        server.first(lambda: server.client.search_experiments(max_results=1))


def open_run(config: Config, root: Path, key: str, name: str, parent: Run | None = None) -> Run:
    """The run with this key, running again, or a new one. `key` is the digest of what the run makes.

    With a parent it is shown inside of it. Nothing is recorded where `tracking.enabled` is false. Raises ValueError
    where `tracking.uri` has never answered in this process.
    """
    if not config.tracking.enabled:
        return Run(Nowhere(), key, parent)
    server = _server_at(uri(config, root))
    run = Run(server, key, parent)
    (server.write if server.has_answered else server.first)(partial(run.open, config, root, name))
    run.params(config)
    return run


def unusable(address: str, reason: str) -> ValueError:
    """The error of a tracking URI at which no run can be opened."""
    return ValueError(f"tracking.uri: {unusable_uri(address, reason)}")


def is_logged(config: Config, root: Path, folder: Path, key: str) -> bool:
    """Whether the run with this key holds an artefact already, as `note_logged` noted; also true without tracking."""
    if not config.tracking.enabled:
        return True
    is_kept = config.tracking.uri is not None or (root / _DATABASE).is_file()  # a server is believed to keep its runs
    return is_kept and _place(config, key) in _logged_places(folder)[1]


def note_logged(config: Config, run: Run, folder: Path) -> None:
    """Note beside an artefact that a run holds it, once everything was sent."""
    if config.tracking.enabled and run.server.flush() == 0:
        note, places = _logged_places(folder)
        store.write_text(note, json.dumps([*places, _place(config, run.key)]))


def _logged_places(folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """The note beside an artefact, and what it says."""
    note = folder.with_name(f".{folder.name}.tracked.json")
    return note, json.loads(note.read_text(encoding="utf-8")) if note.exists() else []


def _place(config: Config, key: str) -> dict[str, str]:
    return {"run": key, "uri": store.digest(config.tracking.uri), "experiment": config.tracking.experiment}


def command(config: Config, root: Path) -> str:
    """The shell command that shows the runs, or where they are."""
    if not config.tracking.enabled:
        return "none are recorded (tracking.enabled is false)"
    if config.tracking.uri is not None:
        return "on the tracking server of tracking.uri"
    mlflow = Path(sys.executable).with_name("mlflow")
    return shlex.join([str(mlflow), "ui", "--backend-store-uri", uri(config, root)])


def _server_at(address: str) -> Server:
    """The server at an address. Raises ValueError where MLflow knows no such kind."""
    try:
        return _server(address)
    except Exception as error:
        raise unusable(address, _reason(error, address)) from None


@cache
def _server(address: str) -> Server:
    """One for all runs of this process, so that none waits for a server that another has found away."""
    return Server(address)


def _experiment_id(client: Any, config: Config, root: Path) -> str:
    experiment = client.get_experiment_by_name(config.tracking.experiment)
    if experiment is not None:
        return experiment.experiment_id
    # A relative artifact root would start at the working folder of whichever process writes; servers know their own.
    location = (root / "mlartifacts").as_uri() if config.tracking.uri is None else None
    return client.create_experiment(config.tracking.experiment, artifact_location=location)


def _is_away(error: Exception) -> bool:
    """Whether an error says that nothing answers now, and not that an entry is wrong."""
    code = getattr(error, "error_code", None)  # MLflow's own errors have one
    return code in _AWAY if code else isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def _reason(error: BaseException, address: str) -> str:
    """The first cause of an error, in one short line without the credentials of the address."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    text = " ".join(str(error).split()) or type(error).__name__
    if credentials := CREDENTIALS.match(address):
        for secret in (credentials[2], credentials[2].partition(":")[2]):
            text = text.replace(secret, "***") if secret else text
    return text[:_LONGEST_REASON]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _now_ms() -> int:
    return int(time.time() * 1000)
