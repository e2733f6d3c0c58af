"""The command line: `emo-ray JOB [RECIPE] [KEY=VALUE ...] [--json]`, or `python jobs/JOB.py` and the same words."""

import difflib
import importlib
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TextIO

from emo_ray import commands, completion, failures, redaction, usage
from emo_ray import config as configuration
from emo_ray.config import Config, explain
from emo_ray.progress import console, say
from emo_ray.store import DAMAGED, DamagedFile, set_aside

if TYPE_CHECKING:
    from emo_ray.job_log import JobLog

HELP = ("-h", "--help")


class JobResult(Protocol):
    """What a job returns: where its result lies, and what is worth knowing of it."""

    @property
    def path(self) -> Path:
        """The result's file or folder."""

    @property
    def content(self) -> dict[str, Any]:
        """JSON-able values."""

    @property
    def status(self) -> int:
        """The exit status of the job."""

    def show(self) -> None:
        """Print it for people."""


def console_script() -> None:
    """The command `emo-ray`: its first word is a job, or asks about the command itself."""
    words = sys.argv[1:]
    if not words or words[0] in HELP:
        _print(usage.overview(), sys.stdout)
    elif words[0] == "--version":
        _print(_version(), sys.stdout)
    elif words[0] in commands.COMMANDS:
        main(words[0], words[1:])
    else:
        try:
            _print(_completion(words), sys.stdout)
        except ValueError as error:
            console.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
            _exit(failures.USER_ERROR)


def main(name: str, words: Sequence[str] | None = None) -> None:
    """Run the job `name` of `commands.COMMANDS` on the config that words name (default: those of the command line).

    All of stdout is one line: the path of the result, or with --json its content. What the user can mend is printed as
    one message, with exit status 2; Ctrl-C and SIGTERM end with a line, and status 130 or 143. Secrets are starred out.
    """
    words = sys.argv[1:] if words is None else words
    redaction.hide({secret for word in words for secret in redaction.secrets_in(word)})
    answer, sys.stderr = sys.stdout, redaction.RedactedStream(sys.stderr)
    sys.stdout = sys.stderr  # where Ray tells of killed workers, at any moment and to the very end
    job = Job(name)
    try:
        failures.catch_signals()
        if "--version" in words:
            _print(_version(), answer)
            return
        if any(word in HELP for word in words):
            _print(_help(name, words), answer)
            return
        result = job.run([word for word in words if word != "--json"])
        if "--json" in words:
            content = {"path": str(result.path), **result.content, "warnings": job.warnings}
            answer_line = json.dumps(content, ensure_ascii=False)
        else:
            result.show()
            for line in job.warnings:
                if line not in result.content.get("notes", ()):  # which were shown
                    say(line)
            for line in job.next_commands(result):
                say(f"next: {line}")
            answer_line = str(result.path)
        job.end(keep_logs=False)  # takes seconds, in which a signal may come: then there is no answer
        _print(answer_line, answer)
    except BaseException as error:
        failure = failures.failure_of(error, job.root)
        if failure is None:  # a bug
            raise
        console.print(failure.message, style="red", markup=False, soft_wrap=True)
        job.end(keep_logs=failure.status == failures.USER_ERROR, is_stopped=failure.status > failures.SIGNALLED)
        _exit(failure.status)
    _exit(result.status)


def _exit(status: int) -> NoReturn:
    """End this process without Python's own clean-up.

    Threads of Ray that were stopped in the midst of a task crash in it, and a signal that comes while it lasts would
    end the process without a word.
    """
    with suppress(BrokenPipeError):
        sys.stderr.flush()
    os._exit(status)


class Job:
    """One run of a job; `root` is its store, once the config is known."""

    def __init__(self, name: str):
        self.name, self.command = name, commands.COMMANDS[name]
        self.root: Path | None = None
        self.words: list[str] = []
        self.notes: list[str] = []  # on its encoders
        self.checkpoint: str | None = None  # that the config names
        self.media: str | None = None  # the folder of the corpus' media, or its address

    def run(self, words: list[str]) -> JobResult:
        """The job's result for these words. Stages take seconds to import, so that comes when the config is known."""
        self.words = configuration.joined_words(words)
        parsed = configuration.parse_words(self.words, self.command.choice)
        config: Config = configuration.load(parsed.recipe, parsed.changes)
        if self.command.is_remote:
            return self._function()(config)
        self.checkpoint = config.checkpoint
        from emo_ray import bucket, cluster, tracking  # they import what --help does without
        from emo_ray.data.inputs import fetched
        from emo_ray.data.roots import root_of

        redaction.hide(cluster.secrets())
        self.root = cluster.store_root(config)
        config = fetched(config)
        self._check(config)
        tracking.began(parsed.recipe)
        function = self._function()
        config = configuration.absolute_paths(config)
        media = root_of(config.data)
        self.media = bucket.address_of(media) or usage.shown_path(str(media))
        inputs = [Path(path) for path in configuration.inputs(config)]
        with self._observed(self.root) as log:
            result = mending(partial(function, config), self.root, inputs)
            tracking.deliver(config, self.root)
            if log is not None or config.verify.mend:
                from emo_ray.stages.report import refresh

                refresh(self.root)
            if log is not None:
                log.write("ended", {"status": result.status, "path": str(result.path)})
        return result

    @contextmanager
    def _observed(self, root: Path) -> Iterator["JobLog | None"]:
        """Log the job in its store and publish its gauges; a job that only reads the store leaves no trace there."""
        if self.command.only_reads:
            yield None
            return
        from emo_ray.gauges import published
        from emo_ray.job_log import recorded

        with recorded(root, self.name, self.words) as log, published(self.name):
            yield log

    def _function(self) -> Callable[[Config], JobResult]:
        """What does the job; its module is imported only now."""
        function: Callable[[Config], JobResult] = getattr(
            importlib.import_module(f"emo_ray.{self.command.module}"), self.name
        )
        return function

    @property
    def warnings(self) -> list[str]:
        """What must be known of the result's worth."""
        return [note for note in self.notes if note.startswith("warning: ")]

    def _check(self, config: Config) -> None:
        """Find what is missing before anything is done. Raises ValueError for it."""
        from emo_ray import preflight  # it needs pyarrow, as the files of a model do

        self.notes = preflight.check(config, self.command.sections)
        for note in self.notes:
            say(note)

    def next_commands(self, result: JobResult) -> list[str]:
        """What people do next with the result; nothing after a job that found fault."""
        labels = result.content.get("labels")  # of a corpus, which trains nothing with fewer than two
        if result.status or self.root is None or (labels is not None and len(labels) < 2):
            return []
        model = result.path if self.name == "train" else result.content.get("checkpoint")
        if self.name == "evaluate" and model is not None:  # a folder of the store, or the one of the config
            model = self.checkpoint or self.root / "checkpoints" / str(model)
        shown_model = usage.shown_path(str(model)) if model else None
        return usage.next_commands(self.name, self.words, usage.shown_path(str(result.path)), shown_model, self.media)

    def end(self, keep_logs: bool, is_stopped: bool = False) -> None:
        """End the local Ray, if this job started one, and drop its logs unless somebody may want to read them."""
        if self.root is not None:
            from emo_ray import cluster

            cluster.leave(keep_logs, is_stopped)


def _help(name: str, words: Sequence[str]) -> str:
    """The help on what follows --help, or on the whole job."""
    subjects = words[next(i for i, word in enumerate(words) if word in HELP) + 1 :]
    return "\n\n".join([explain.explain(word, explain.width()) for word in subjects] or [usage.help_of(name)])


def _version() -> str:
    try:
        version = metadata.version("emo_ray")
    except metadata.PackageNotFoundError:  # a copy of the files that nobody installed
        version = "(not installed)"
    return f"emo_ray {version}"


def _completion(words: Sequence[str]) -> str:
    """The script that `completion SHELL` asks for. Raises ValueError for any other words."""
    if words[0] != "completion":
        near = difflib.get_close_matches(words[0], commands.COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the jobs are {', '.join(commands.COMMANDS)}"
        raise ValueError(f"found no job {words[0]!r}: {hint}")
    return completion.script(words[1] if len(words) > 1 else "").rstrip()


def _print(text: str, stream: TextIO) -> None:
    """Print to a stream whose reader may have closed it, as `head` does: that is no error."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python complains once more at its end


def mending(job: Callable[[], JobResult], root: Path, inputs: Collection[Path] = ()) -> JobResult:
    """The job's result. Where it meets a damaged file of the store, it sets that file aside and runs again.

    So the file is made again where its source is there; what is whole is not. Files in `inputs`, which the user names,
    are left alone: this job does not make them. Raises DamagedFile for them, and where running again is in vain.
    """
    met: dict[Path, DamagedFile] = {}
    while True:
        try:
            return job()
        except Exception as error:
            causes = list(failures.causes(error))
            damage = next((cause for cause in causes if isinstance(cause, DamagedFile)), None)
            if damage is None:
                lost = next((damage for path, damage in met.items() if not path.exists()), None)
                if lost is not None and any(isinstance(cause, FileNotFoundError) for cause in causes):
                    raise lost from error  # this job reads the file, and another one makes it
                raise
            path = damage.path
            if path in met or not path.is_relative_to(root) or any(path.is_relative_to(folder) for folder in inputs):
                raise
            met[path] = damage
            set_aside(path, root)
            say(
                f"{path}: found a damaged file ({damage.reason}): set aside as {path.name}{DAMAGED}, and made again "
                "where its source is there"
            )
