"""What a person reads of a run: its name, tags, description, and the parameters that matter."""

import getpass
import subprocess
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import emo_ray
from emo_ray.config import Config, flatten

MAIN = ("seed", "emovclip.clip", "emovclip.weights", "audio.encoder", "text.encoder", "fusion.lr", "train.epochs")
_LONGEST_VALUE = 500  # MLflow refuses longer parameter values
_ELSEWHERE = ("tracking.", "store.", "cluster.")  # where a job ran; addresses may hold credentials
_COMMON_NAMES = ("clips", "data", "index", "labels", "manifest", "metadata")  # of tables, which tell no corpus
_recipe = ""


def began(recipe: str) -> None:
    """Name the recipe of this process's job in the runs that it opens from now on."""
    global _recipe
    _recipe = Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe


def title(config: Config, job: str, key: str) -> str:
    """The name of a new run: job, recipe, corpus, day and the first digits of its key."""
    day = time.strftime("%Y-%m-%d")
    return " ".join(filter(None, (job, _recipe, corpus_of(config), day, key[:6])))


def corpus_of(config: Config) -> str:
    """What the corpus is called: its table or folder, without the way there."""
    if config.data.is_synthetic:
        return "synthetic"
    path = Path(str(config.data.manifest).rstrip("/"))
    is_common = path.suffix and path.stem.lower() in _COMMON_NAMES and path.parent.name
    return path.parent.name if is_common else path.stem


def tags(config: Config) -> dict[str, str]:
    """Recipe, corpus, who ran it, and which code; none names a place on this machine."""
    corpus = corpus_of(config)
    version = _version()
    with_recipe = f"with the recipe {_recipe} " if _recipe else ""
    values = {
        "emo_ray.corpus": corpus,
        "emo_ray.recipe": _recipe,
        "mlflow.user": _user(),
        "mlflow.source.name": version,
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": _commit(),
        "mlflow.note.content": f"Made {with_recipe}on the corpus {corpus} by {version}. Parameters are the main ones "
        "and those that differ from the defaults; config.yaml of the checkpoint has all.",
    }
    return {name: value for name, value in values.items() if value}


def params(config: Config) -> dict[str, str]:
    """The main settings, those that a sweep changes, and those that differ from the defaults; of paths, the name."""
    defaults = flatten(Config())
    chosen = {*MAIN, *config.tune.space}
    return {
        name: _short(_without_folders(value))
        for name, value in flatten(config).items()
        if (name in chosen or value != defaults[name]) and not name.startswith(_ELSEWHERE)
    }


def _without_folders(value: Any) -> Any:
    """The value with the last name of each absolute path in it."""
    if isinstance(value, str):
        return Path(value).name if Path(value).is_absolute() else value
    return type(value)(map(_without_folders, value)) if isinstance(value, list | tuple) else value


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # in a container, a number may have no name
        return ""


def _version() -> str:
    try:
        return f"emo_ray {metadata.version('emo_ray')}"
    except metadata.PackageNotFoundError:  # a copy of the files that nobody installed
        return "emo_ray"


@cache
def _commit() -> str:
    """The commit of the code that runs; empty where it is installed, and not a checkout."""
    folder = Path(emo_ray.__file__).parent
    git = ["git", "-C", str(folder)]
    try:
        tracked = subprocess.run([*git, "ls-files", "--error-unmatch", "__init__.py"], capture_output=True, timeout=5)
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ""
    return commit.stdout.strip() if tracked.returncode == commit.returncode == 0 else ""
