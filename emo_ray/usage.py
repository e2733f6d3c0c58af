"""What a person is told about jobs: their help, and the commands that come next."""

import os
import shlex
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from emo_ray import config as configuration
from emo_ray.commands import COMMANDS, COMMON, CONSOLE
from emo_ray.config import explain

_PLACE = ("store.", "tracking.", "cluster.", "train.use_gpu=", "train.num_workers=")  # keys of where a job runs
_ACCESS = ("data.outside_root=", "data.schemes=")  # keys of what a corpus may name
_FOLDS = "data.folds="
_USAGE = """\
{run}
       {program} --help [SECTION | KEY ...]
       {program} --version"""
_WORDS = """\
RECIPE is {recipes} (default: mini), or the path of a YAML file with the keys that differ from the defaults. KEY=VALUE
changes a key of it; VALUE is YAML, so quote what the shell would take: 'data.labels=[happy, sad]'. Words may stand in
any order. Standard output is one line, the path of the result, or with --json its content; progress and tables go to
standard error. What is made already is not made again. STORE is the folder store.root, `artifacts` by default."""


def program(name: str) -> str:
    """How a job is started, in the form in which this process was."""
    if Path(sys.argv[0]).stem in (CONSOLE, "__main__"):
        return f"{CONSOLE} {name}"
    return f"python jobs/{name}.py"


def next_commands(name: str, words: Sequence[str], path: str, model: str | None, media: str | None = None) -> list[str]:
    """The commands that people run after the job `name` of these words; `path`: its result, `model`: its checkpoint.

    They keep the words that the next job reads; with a new corpus or recipe, and for a server, which reads no corpus,
    only those that say where it runs, and for utterances, which are a new table of the same media, what may be read.
    `media`: the folder that the media lie in.
    """
    lines = []
    for template in COMMANDS[name].then:
        following, *additions = template.split()
        if following == "train" and name != "crossvalidate" and any(word.startswith(_FOLDS) for word in words):
            following = "crossvalidate"
        if "{model}" in template and model is None:
            continue
        added = [word.format(path=path, model=model, media=media) for word in additions]
        is_recipe_new = any("=" not in word for word in added)
        recipes = [] if is_recipe_new else [word for word in words if "=" not in word]
        is_new = is_recipe_new or following == "serve" or any(word.startswith("data.manifest=") for word in added)
        place = (*_PLACE, *_ACCESS) if "{media}" in template else _PLACE
        keys = {*(word.partition("=")[0] for word in added), *COMMANDS[following].refused}
        kept = [word for word in words if word.partition("=")[0] not in keys]
        kept = [word for word in kept if (word.startswith(place) if is_new else _reads(following, word))]
        lines.append(f"{_started(following)} {shlex.join([*recipes, *added, *kept])}".rstrip())
    return lines


def _reads(name: str, word: str) -> bool:
    """Whether a job reads the key of a KEY=VALUE word."""
    if "=" not in word:
        return False
    section = word.partition("=")[0].rpartition(".")[0].split(".")[0]
    return section in (*COMMANDS[name].sections, *COMMON, "")


def _started(name: str) -> str:
    """How to start a job from this folder, as this process was started."""
    if Path(sys.argv[0]).stem in (CONSOLE, "__main__"):
        return f"{CONSOLE} {name}"
    return shlex.join([shown_path(sys.executable), shown_path(str(Path(sys.argv[0]).with_stem(name)))])


def shown_path(path: str) -> str:
    """A path as it is typed in this folder."""
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


def overview() -> str:
    """The help of the command `emo-ray`: the jobs with a line each."""
    lines = {name: command.about.split("\n\n")[0] for name, command in COMMANDS.items()}
    parts = [
        _filled("Multimodal emotion recognition on video, sound and text, on a laptop or on a Ray cluster."),
        f"usage: {CONSOLE} JOB [RECIPE] [KEY=VALUE ...] [--json]\n       {CONSOLE} JOB --help [SECTION | KEY ...]\n"
        f"       {CONSOLE} --version\n       {CONSOLE} completion bash | zsh",
        "Jobs:\n" + _lines(lines),
        _filled(
            f"The script {CONSOLE} completion bash prints completes jobs, recipes and keys: "
            f'eval "$({CONSOLE} completion bash)" in ~/.bashrc.'
        ),
    ]
    return "\n\n".join(parts)


def help_of(name: str) -> str:
    """What a job is for, how it is called, and the sections of its keys with a line each."""
    command = COMMANDS[name]
    values = configuration.choices(command.choice) if command.choice else ()
    part = f"[{' | '.join(values)}] " if values else ""
    run = f"usage: {program(name)} {part}[RECIPE] [KEY=VALUE ...] [--json]"
    others = [name for name in configuration.sections() if name and name not in (*command.sections, *COMMON)]
    plain = [key for key in configuration.leaves() if "." not in key]
    example = f"example: {program(name)} {command.example}\nresult:  {command.result}"
    parts = [
        *(_filled(paragraph) for paragraph in command.about.split("\n\n")),
        "\n".join(textwrap.fill(line, explain.width(), subsequent_indent=" " * 9) for line in example.splitlines()),
        _USAGE.format(program=program(name), run=textwrap.fill(run, explain.width(), subsequent_indent=" " * 9)),
        _filled(_WORDS.format(recipes=" or ".join(configuration.recipe_names()))),
        *(["Keys of this job, listed by --help SECTION:\n" + _sections(command.sections)] if command.sections else []),
        "Keys that every job reads:\n" + _sections(COMMON) + "\n" + _lines({k: _description(k) for k in plain}),
        _filled(f"Other sections: {', '.join(others)}."),
    ]
    return "\n\n".join(parts)


def _filled(paragraph: str) -> str:
    return textwrap.fill(" ".join(paragraph.split()), explain.width())


def _sections(names: Sequence[str]) -> str:
    return _lines({name: explain.first_line(name) for name in names})


def _description(key: str) -> str:
    return configuration.field_of(key).description or ""


def _lines(about: dict[str, str]) -> str:
    """Names with what they are about beside them, in the width of the terminal."""
    columns = explain.width()
    return "\n".join(
        textwrap.fill(text, columns, initial_indent=f"  {name:<15}", subsequent_indent=" " * 17)
        for name, text in about.items()
    )
