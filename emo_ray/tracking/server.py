"""A tracking server or database. What it misses is kept, and sent in order when it answers again."""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emo_ray import store
from emo_ray.config.job_settings import unusable_uri, without_credentials
from emo_ray.failures import failure_of
from emo_ray.progress import say
from emo_ray.redaction import hide, redact_log_records, redacted, secrets_in
from emo_ray.tracking import database
from emo_ray.tracking.entries import Entry, Writer, size_bytes
from emo_ray.tracking.outbox import Outbox, outboxes

_LONGEST_REASON = 200  # characters of an error that a message repeats
_SETTINGS = {
    # By default a failed request is repeated for four minutes, and every epoch would wait as long.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": 2,
    "MLFLOW_HTTP_REQUEST_TIMEOUT": 20,  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": True,  # the address is printed with its credentials
}
# The longest that a job waits, whatever the server does: a request's own time-out begins anew with every byte.
_FIRST_ANSWER_S = {"http": 15.0, "https": 15.0, "databricks": 15.0}
_FIRST_DATABASE_ANSWER_S = 60.0  # a new one makes its tables first
_ANSWER_S, _UPLOAD_BYTES_PER_S = 30.0, 1e6
_LAST_WORD_S = 3.0  # of a job that is stopped
_SHORTEST_PAUSE_S, _WAITING_SHARE = 30.0, 0.1  # between attempts to reach a server, and the time they may take
_AWAY = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"}


class Courier:
    """Makes calls in a thread, so that nobody waits for one longer than a limit."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future[None], Callable[[], Any]]] = queue.SimpleQueue()
        self._last: Future[None] = Future()
        self._last.set_result(None)
        threading.Thread(target=self._work, name="tracking", daemon=True).start()

    def make(self, call: Callable[[], Any], limit_s: float) -> None:
        """Make a call, once the one before has ended. Raises its error, and TimeoutError after the limit."""
        begun_s = time.monotonic()
        if wait([self._last], limit_s).not_done:
            raise TimeoutError(f"no answer within {limit_s:g} s")
        self._last = Future()
        self._calls.put((self._last, call))
        if wait([self._last], limit_s - (time.monotonic() - begun_s)).not_done:
            raise TimeoutError(f"no answer within {limit_s:g} s")
        self._last.result()

    def _work(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(None)


class Server:
    """One for all runs of this process. `artifact_location`: of new experiments, None where a server knows its own.

    Raises ValueError where MLflow knows no such kind of address.
    """

    def __init__(self, address: str, root: Path, artifact_location: str | None):
        from mlflow import MlflowClient, environment_variables  # 1.4 s to import

        hide(secrets_in(address))
        redact_log_records()
        for name, value in _SETTINGS.items():
            setting = getattr(environment_variables, name)
            if not setting.is_set():  # a user's setting wins
                setting.set(value)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # its errors are raised as well, and told in a line
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns at every repeated request
        self.address, self.root, self.has_answered = address, root, False
        try:
            database.make(address)
            if artifact_location is not None:
                database.relocate(address, artifact_location)
            self._writer = Writer(MlflowClient(tracking_uri=address), artifact_location)
        except Exception as error:
            self._raise_trouble(error)
            raise self._unusable(error) from None  # libraries' messages hold the credentials
        self._courier, self._longest_s = Courier(), float("inf")
        self._pending: deque[Entry] = deque()
        self._outbox = Outbox(outboxes(root) / store.digest(without_credentials(address)))
        self._has_kept, self._is_away = False, False
        self._failed_s, self._pause_until_s = -float("inf"), -float("inf")
        self._said: set[str] = set()

    def reach(self) -> None:
        """Ask for an answer, unless one came before. Raises ValueError where none comes within seconds."""
        if not self.has_answered:
            try:
                self._make(lambda: self._writer.client.search_experiments(max_results=1))
            except Exception as error:
                self._raise_trouble(error)
                raise self._unusable(error) from None  # libraries' messages hold the credentials

    def write(self, entry: Entry) -> None:
        """Write an entry, after those that are pending, or keep it while the server is away.

        One that fails for another reason is dropped with a message: no training is lost to its tracking.
        """
        self._pending.append(entry)
        if self._is_away:
            self._keep([entry])
        if time.monotonic() >= self._pause_until_s:
            self._send()

    def flush(self) -> int:
        """Try to write all that is pending, unless that failed a moment ago; the number of entries that remain."""
        if time.monotonic() >= self._failed_s + _SHORTEST_PAUSE_S:
            self._send()
        return len(self._pending)

    @contextmanager
    def monitoring(self, key: str, experiment: str) -> Iterator[None]:
        """Record the load of this machine in the run with this key while the block runs; nothing where it has none.

        MLflow's own thread does so. It gives up by itself, without a word, where the server is away.
        """
        run_ids: list[str | None] = []
        if self.flush() == 0:
            self._make(lambda: run_ids.append(self._writer.run_id(key, experiment)))
        run_id = next(iter(run_ids), None)
        if run_id is None:
            yield
            return
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=self.address)
        monitor.start()
        try:
            yield
        finally:
            end = threading.Thread(target=monitor.finish, daemon=True)
            end.start()
            end.join(_LAST_WORD_S)

    def hurry(self) -> None:
        """Wait for no answer longer than a moment from now on: the job is being stopped."""
        self._longest_s = _LAST_WORD_S

    @property
    def is_waited_for(self) -> bool:
        """Whether this job or an earlier one has entries that the server lacks."""
        return bool(self._pending or self._outbox.left_behind())

    def say_missed(self) -> None:
        """Say what the server has missed, if it did."""
        if self._pending:
            place = f"wait in {self._outbox.folder}" if self._has_kept else "could not be kept"
            say(
                f"{without_credentials(self.address)} has missed {len(self._pending)} entries, which {place} and are "
                "sent by the next job with this store and tracking.uri; the job's results are in its store"
            )

    def _send(self) -> None:
        begun_s = time.monotonic()
        try:
            for path in self._outbox.left_behind():
                with self._outbox.taken(path) as entries:
                    for entry in entries:
                        self._write(entry)
            while self._pending:
                self._write(self._pending[0])
                self._pending.popleft()
        except Exception as error:
            if not is_away(error):
                raise
            self._failed_s = time.monotonic()
            self._pause_until_s = self._failed_s + max(_SHORTEST_PAUSE_S, (self._failed_s - begun_s) / _WAITING_SHARE)
            self._say_away(error)
            return
        if self._is_away:
            say(f"{without_credentials(self.address)} answers again, and has what it missed")
        self._outbox.clear()
        self._is_away = self._has_kept = False

    def _write(self, entry: Entry) -> None:
        """Write an entry; one that is refused is dropped with a message, once for each reason."""
        try:
            self._make(lambda: self._writer.write(entry), size_bytes(entry) / _UPLOAD_BYTES_PER_S)
        except Exception as error:
            if is_away(error):
                raise
            message = f"MLflow refused an entry: {reason_of(error)}"
            if message not in self._said:
                say(message)
            self._said.add(message)

    def _make(self, call: Callable[[], Any], upload_s: float = 0.0) -> None:
        limit_s = _ANSWER_S + upload_s
        if not self.has_answered:
            limit_s = _FIRST_ANSWER_S.get(self.address.partition(":")[0], _FIRST_DATABASE_ANSWER_S) + upload_s
        self._courier.make(call, min(limit_s, self._longest_s))
        self.has_answered = True

    def _say_away(self, error: Exception) -> None:
        if not self._is_away:
            self._keep(self._pending)
            say(
                f"tracking.uri: {without_credentials(self.address)} does not answer ({reason_of(error)}); the job goes "
                "on, and what is missed waits in the store until it answers again"
            )
        self._is_away = True

    def _keep(self, entries: Collection[Entry]) -> None:
        """Keep entries in the store; in memory alone where it cannot be written, which the job will say."""
        try:
            if entries:
                self._outbox.append(entries)
                self._has_kept = True
        except OSError:
            self._has_kept = False

    def _raise_trouble(self, error: Exception) -> None:
        """Raise an error of the store's own database that is trouble of the machine, such as a full disk."""
        is_in_store = self.address.startswith(f"sqlite:///{self.root}/")
        is_trouble = failure_of(error, self.root) is not None and not isinstance(error, ValueError)
        if is_in_store and is_trouble:
            raise error

    def _unusable(self, error: Exception) -> ValueError:
        return ValueError(f"tracking.uri: {unusable_uri(self.address, reason_of(error))}")


def is_away(error: Exception) -> bool:
    """Whether an error says that nothing answers now, and not that an entry is wrong."""
    code = getattr(error, "error_code", None)  # MLflow's own errors have one
    return code in _AWAY if code else isinstance(error, OSError) and not isinstance(error, FileNotFoundError)


def reason_of(error: BaseException) -> str:
    """The first cause of an error, in one short line without secrets."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return redacted(" ".join(str(error).split()) or type(error).__name__)[:_LONGEST_REASON]
