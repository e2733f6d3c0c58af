"""The command line of every job: `python jobs/NAME.py [RECIPE] [KEY=VALUE ...] [--json]`, and `--help`."""

import importlib
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from emo_ray import config as configuration
from emo_ray.config import Config, explain
from emo_ray.progress import console

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

    def show(self) -> None:
        """Print it for people."""


def main(stage: str, about: str, sections: Sequence[str] = (), choice: str | None = None) -> None:
    """Run a stage, such as "stages.train", on the command line's config.

    `about`: the job's docstring, with an example and where the result lies. `sections`: of the config, beside COMMON.
    With `choice`, a word in front is that key's value.

    All of stdout is one line: the path of the result, or with --json its content. What the user can mend (a ValueError)
    is printed as one message, with exit status 2.
    """
    words = sys.argv[1:]
    flag = next((word for word in words if word in ("-h", "--help")), None)
    answer, sys.stdout = sys.stdout, sys.stderr  # where Ray tells of killed workers, at any moment and to the very end
    try:
        if flag:
            asked = words[words.index(flag) + 1 :]
            shown = [explain.explain(word, explain.width()) for word in asked]
            _print("\n\n".join(shown or [job_help(about, sections, choice)]), answer)
            return
        result = _run(stage, [word for word in words if word != "--json"], choice)
    except Exception as error:
        message = _for_user(error)
        if message is None:
            raise
        console.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    if "--json" in words:
        content = {"path": str(result.path), **result.content}
        _print(json.dumps(content, ensure_ascii=False), answer)
        return
    result.show()
    _print(str(result.path), answer)


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


def _run(stage: str, words: list[str], choice: str | None) -> JobResult:
    """The stage's result for these words. Stages take seconds to import, so that comes when the config is known."""
    chosen = [f"{choice}={words.pop(0)}"] if choice and words and words[0] in configuration.choices(choice) else []
    recipe = words.pop(0) if words and "=" not in words[0] else "mini"
    config: Config = configuration.load(recipe, configuration.parse_overrides(chosen + words))
    function = getattr(importlib.import_module(f"emo_ray.{stage}"), stage.rpartition(".")[2])
    return function(configuration.absolute_paths(config))


def _for_user(error: BaseException | None) -> str | None:
    """The message of the ValueError that this error is, or that a Ray worker raised; None for anything else.

    Exactly ValueError: libraries derive theirs from it, and those are bugs that want their traceback.
    """
    while error is not None:
        if type(error) is ValueError:
            return str(error)
        failures = getattr(error, "worker_failures", None) or {}  # of Ray Train: one per rank
        error = next(iter(failures.values()), None) or getattr(error, "cause", None) or error.__cause__
    return None
