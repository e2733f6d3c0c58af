"""The command line of every job: `python jobs/<stage>.py [RECIPE or path.yaml] [key=value ...] [--json]`."""

import importlib
import json
import sys
from typing import Protocol

from emo_ray import config as configuration
from emo_ray.progress import console, say


class Artefact(Protocol):
    """What a stage returns: where its result lies, and what is worth knowing of it."""

    path: object

    def summary(self) -> dict:
        """Plain values."""


def main(stage: str, usage: str, choice: str | None = None) -> None:
    """Run a stage, such as "stages.train", on the command line's config.

    With `choice`, a word in front is that key's value.

    All of stdout is one line: the artefact's path, with --json JSON. What the user can mend (a ValueError) is printed
    as one message, with exit status 2. Stages take seconds to import, so that comes last.
    """
    words = sys.argv[1:]
    if {"-h", "--help"} & set(words):
        print(f"{usage.strip()}\n\n{__doc__}\n\nKeys and defaults:\n{configuration.dump(configuration.Config())}")
        return
    answer, sys.stdout = sys.stdout, sys.stderr  # where Ray tells of killed workers, at any moment and to the very end
    as_json = "--json" in words
    words = [word for word in words if word != "--json"]
    chosen = [f"{choice}={words.pop(0)}"] if choice and words and words[0] in configuration.choices(choice) else []
    recipe = words.pop(0) if words and "=" not in words[0] else "mini"
    try:
        config = configuration.absolute_paths(configuration.load(recipe, configuration.parse_overrides(chosen + words)))
        artefact: Artefact = getattr(importlib.import_module(f"emo_ray.{stage}"), stage.rpartition(".")[2])(config)
    except Exception as error:
        message = _for_user(error)
        if message is None:
            raise
        console.print(f"error: {message}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
    if as_json:
        content = {"path": str(artefact.path), **artefact.summary()}
        print(json.dumps(content, ensure_ascii=False), file=answer, flush=True)
        return
    if hasattr(artefact, "show"):
        artefact.show()
    else:
        say(json.dumps(artefact.summary(), indent=1, ensure_ascii=False))
    print(artefact.path, file=answer, flush=True)


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
