"""What is logged: a run for each thing that is made, found again by its key, with parameters, metrics and files."""

import json
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any

from emo_ray import durable, store
from emo_ray.config import Config
from emo_ray.tracking import description
from emo_ray.tracking.entries import Entry
from emo_ray.tracking.outbox import outboxes
from emo_ray.tracking.server import Server

_DATABASE = "mlflow.db"  # in the store


class Run:
    """One MLflow run that is being written to; `server` is None where `tracking.enabled` is false."""

    def __init__(self, server: Server | None, experiment: str, key: str, parent: "Run | None" = None):
        self.server, self.experiment, self.key, self.parent = server, experiment, key, parent
        self.is_monitored = False  # whether it records the load of this machine while it runs

    def params(self, config: Config) -> None:
        """Log the settings that matter; those logged already, by the run that this one resumes, stay as they are."""
        self._write("params", description.params(config))

    def dataset(self, config: Config, digest: str, counts: Mapping[str, Any]) -> None:
        """Log the corpus that the run is about, under the digest of its prepared folder; `counts` are JSON-able."""
        self._write("dataset", {"name": description.corpus_of(config), "digest": digest, "counts": dict(counts)})

    def epoch(self, phase: str, metrics: Mapping[str, float]) -> None:
        """Log an epoch's metrics as `<phase>/<name>`; an epoch that is logged already is not logged again."""
        self.epochs([(phase, metrics)])

    def epochs(self, epochs: Iterable[tuple[str, Mapping[str, float]]]) -> None:
        """Log several epochs, in order, in one request."""
        self._write("epochs", {"epochs": [[phase, _floats(metrics)] for phase, metrics in epochs]})

    def tag(self, name: str, value: str) -> None:
        """Set a tag of the run."""
        self._write("tag", {"name": name, "value": value})

    def metrics(self, metrics: Mapping[str, float]) -> None:
        """Log metrics without an epoch, such as a report's; once, and again when they have changed."""
        self._write("metrics", _floats(metrics))

    def artifacts(self, folder: Path, name: str) -> None:
        """Copy a folder's files to the run, once."""
        store.local(folder)
        self._write("artifacts", {"folder": str(folder.absolute()), "name": name})

    def model(self, folder: Path, name: str, key: str) -> None:
        """Register a folder with an MLmodel as a version of a registered model, once, and point the alias to it."""
        self._write("model", {"folder": str(folder.absolute()), "name": name, "key": key})

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run the block; then the run has finished, or failed where the block did."""
        monitoring: AbstractContextManager[None] = nullcontext()
        if self.server is not None and self.is_monitored:
            monitoring = self.server.monitoring(self.key, self.experiment)
        try:
            with monitoring:
                yield
        except BaseException as error:
            if self.server is not None and not isinstance(error, Exception):
                self.server.hurry()
            self.finish("FAILED")
            raise
        self.finish()

    def finish(self, status: str = "FINISHED") -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self._write("finish", {"status": status})
        if self.parent is None and self.server is not None:
            self.server.flush()

    def _write(self, kind: str, values: Mapping[str, Any]) -> None:
        if self.server is not None:
            self.server.write(Entry(kind, self.key, self.experiment, values))


def uri(config: Config, root: Path) -> str:
    """The tracking URI: sqlite in the store unless `tracking.uri` names a server or database."""
    if config.tracking.uri is None:
        root.mkdir(parents=True, exist_ok=True)
        return f"sqlite:///{root}/{_DATABASE}"
    return config.tracking.uri


def check(config: Config, root: Path) -> None:
    """Ask the server for an answer, before anything is trained. Raises ValueError where none comes within seconds."""
    if (server := _server_of(config, root)) is not None:
        server.reach()


def open_run(config: Config, root: Path, key: str, name: str, parent: Run | None = None) -> Run:
    """The run with this key, running again, or a new one. `key` is the digest of what the run makes.

    With a parent it is shown inside of it. Nothing is recorded where `tracking.enabled` is false. A server that does
    not answer is no error: see `check`.
    """
    run = Run(_server_of(config, root), config.tracking.experiment, key, parent)
    run._write("open", {"name": name, "parent": parent and parent.key, "tags": description.tags(config)})
    run.params(config)
    run.is_monitored = config.tracking.system_metrics
    return run


def deliver(config: Config, root: Path) -> None:
    """At the end of a job: send what waits for the server, of earlier jobs as well, and say what could not be sent."""
    waits = any(outboxes(root).glob("*/*.jsonl")) or _server.cache_info().currsize > 0
    if waits and (server := _server_of(config, root)) is not None and server.is_waited_for:
        server.flush()
        server.say_missed()


def is_logged(config: Config, root: Path, folder: Path, key: str) -> bool:
    """Whether the run with this key holds an artefact already, as `note_logged` noted; also true without tracking."""
    if not config.tracking.enabled:
        return True
    is_kept = config.tracking.uri is not None or (root / _DATABASE).is_file()  # a server is believed to keep its runs
    return is_kept and _place(config, key) in _logged_places(folder)[1]


def note_logged(config: Config, run: Run, folder: Path) -> None:
    """Note beside an artefact that a run holds it, once everything was sent."""
    if run.server is not None and run.server.flush() == 0:
        note, places = _logged_places(folder)
        durable.write_text(note, json.dumps([*places, _place(config, run.key)]))


def _logged_places(folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """The note beside an artefact, and what it says."""
    note = folder.with_name(f".{folder.name}.tracked.json")
    return note, store.read_json(note) if note.exists() else []


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


def _server_of(config: Config, root: Path) -> Server | None:
    """The server of a config; None where `tracking.enabled` is false. Raises ValueError for an impossible address."""
    if not config.tracking.enabled:
        return None
    # A relative artifact root would start at the working folder of whichever process writes; servers know their own.
    location = (root / "mlartifacts").as_uri() if config.tracking.uri is None else None
    return _server(uri(config, root), root, location)


@cache
def _server(address: str, root: Path, artifact_location: str | None) -> Server:
    """One for all runs of this process, so that none waits for a server that another has found away."""
    return Server(address, root, artifact_location)


def _floats(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics as JSON takes them: of arrays' numbers, plain ones."""
    return {name: float(value) for name, value in metrics.items()}
