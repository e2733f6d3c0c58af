"""The command line of every job: `python jobs/NAME.py [RECIPE] [KEY=VALUE ...] [--json]`, and `--help`."""

import importlib
import json
import os
import sys
import textwrap
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

from emo_ray import config as configuration
from emo_ray import failures, redaction
from emo_ray.config import Config, explain
from emo_ray.progress import console, say

COMMON = ("data", "synthetic", "media", "tables", "store", "tracking", "cluster")  # sections that every job reads
_USAGE = """\
usage: python jobs/{name} {choice}[RECIPE] [KEY=VALUE ...] [--json]
       python jobs/{name} --help [SECTION | KEY ...]"""
_WORDS = """\
RECIPE is {recipes} (default: mini), or the path of a YAML file with the keys that differ from the defaults. KEY=VALUE
changes a key of it; VALUE is YAML, so quote what the shell would take: 'data.labels=[happy, sad]'. Standard output is
one line, the path of the result, or with --json its content; progress and tables go to standard error. What is made
already is not made again. STORE is the folder store.root, `artifacts` by default."""


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


def main(stage: str, about: str, sections: Sequence[str] = (), choice: str | None = None) -> None:
    """Run a stage, such as "stages.train", on the command line's config.

    `about`: the job's docstring, with an example and where the result lies. `sections`: of the config, beside COMMON.
    With `choice`, a word in front is that key's value.

    All of stdout is one line: the path of the result, or with --json its content. What the user can mend is printed as
    one message, with exit status 2; Ctrl-C and SIGTERM end with a line, and status 130 or 143. Secrets are starred out.
    """
    words = sys.argv[1:]
    redaction.hide({secret for word in words for secret in redaction.secrets_in(word)})
    answer, sys.stderr = sys.stdout, redaction.RedactedStream(sys.stderr)
    sys.stdout = sys.stderr  # where Ray tells of killed workers, at any moment and to the very end
    job = Job(stage, choice)
    try:
        failures.catch_signals()
        if any(word in ("-h", "--help") for word in words):
            _print(_help(words, about, sections, choice), answer)
            return
        result = job.run([word for word in words if word != "--json"])
        if "--json" in words:
            _print(json.dumps({"path": str(result.path), **result.content}, ensure_ascii=False), answer)
        else:
            result.show()
            _print(str(result.path), answer)
        job.end(keep_logs=False)
    except BaseException as error:
        failure = failures.failure_of(error, job.root)
        if failure is None:  # a bug
            raise
        console.print(failure.message, style="red", markup=False, soft_wrap=True)
        job.end(keep_logs=failure.status == failures.USER_ERROR)
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
    """One run of a stage; `root` is its store, once the config is known."""

    def __init__(self, stage: str, choice: str | None):
        self.stage, self.choice = stage, choice
        self.root: Path | None = None

    def run(self, words: list[str]) -> JobResult:
        """The stage's result for these words. Stages take seconds to import, so that comes when the config is known."""
        choices = configuration.choices(self.choice) if self.choice else ()
        chosen = [f"{self.choice}={words.pop(0)}"] if words and words[0] in choices else []
        recipe = words.pop(0) if words and "=" not in words[0] else "mini"
        config: Config = configuration.load(recipe, configuration.parse_overrides(chosen + words))
        from emo_ray import cluster, tracking  # they import what --help does without

        redaction.hide(cluster.secrets())
        self.root = cluster.store_root(config)
        function = getattr(importlib.import_module(f"emo_ray.{self.stage}"), self.stage.rpartition(".")[2])
        config = configuration.absolute_paths(config)
        result = mending(partial(function, config), self.root, [Path(path) for path in configuration.inputs(config)])
        tracking.deliver(config, self.root)
        return result

    def end(self, keep_logs: bool) -> None:
        """End the local Ray, if this job started one, and drop its logs unless somebody may want to read them."""
        if self.root is not None:
            from emo_ray import cluster

            cluster.leave(keep_logs)


def _help(words: Sequence[str], about: str, sections: Sequence[str], choice: str | None) -> str:
    """The help on what follows --help, or on the whole job."""
    asked = words[next(i for i, word in enumerate(words) if word in ("-h", "--help")) + 1 :]
    return "\n\n".join(
        [explain.explain(word, explain.width()) for word in asked] or [job_help(about, sections, choice)]
    )


def _print(text: str, stream: TextIO) -> None:
    """Print to a stream whose reader may have closed it, as `head` does: that is no error."""
    try:
        print(text, file=stream, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # else Python complains once more at its end


def job_help(about: str, sections: Sequence[str], choice: str | None = None) -> str:
    """What a job is for, how it is called, and the sections of its keys with a line each."""
    values = configuration.choices(choice) if choice else ()
    recipes = " or ".join(sorted(path.stem for path in configuration.RECIPES.glob("*.yaml")))
    part = f"[{'|'.join(values)}] " if values else ""
    others = [name for name in configuration.sections() if name and name not in (*sections, *COMMON)]
    plain = [key for key in configuration.leaves() if "." not in key]
    parts = [
        *(_filled(paragraph) for paragraph in about.strip().split("\n\n")),
        _USAGE.format(name=Path(sys.argv[0]).name, choice=part),
        _filled(_WORDS.format(recipes=recipes)),
        "Keys of this job, listed by --help SECTION:\n" + _overview(sections),
        "Keys that every job reads:\n" + _overview(COMMON) + "\n" + _lines({k: _description(k) for k in plain}),
        _filled(f"Other sections: {', '.join(others)}."),
    ]
    return "\n\n".join(parts)


def _filled(paragraph: str) -> str:
    """A paragraph in the width of the terminal; lines such as "example: ..." stay lines."""
    if paragraph.startswith("example: "):
        lines = paragraph.splitlines()
        return "\n".join(textwrap.fill(line, explain.width(), subsequent_indent=" " * 9) for line in lines)
    return textwrap.fill(" ".join(paragraph.split()), explain.width())


def _overview(sections: Sequence[str]) -> str:
    return _lines({name: explain.first_line(name) for name in sections})


def _description(key: str) -> str:
    return configuration.field_of(key).description or ""


def _lines(about: dict[str, str]) -> str:
    columns = explain.width()
    return "\n".join(
        textwrap.fill(text, columns, initial_indent=f"  {name:<15}", subsequent_indent=" " * 17)
        for name, text in about.items()
    )


def mending(job: Callable[[], JobResult], root: Path, inputs: Collection[Path] = ()) -> JobResult:
    """The job's result. Where it meets a damaged file of the store, it sets that file aside and runs again.

    So the file is made again where its source is there; what is whole is not. Files in `inputs`, which the user names,
    are left alone: this job does not make them. Raises DamagedFile for them, and where running again is in vain.
    """
    from emo_ray.store import DAMAGED, DamagedFile, set_aside  # needs pyarrow, which --help does without

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
