"""One frozen configuration tree, its recipes, and the one way to change it: `override`.

A recipe is a YAML file that holds only its differences from the defaults in settings.py and job_settings.py. Nothing
here acts at import, and nothing reads the environment.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError, model_validator

from emo_ray.config.job_settings import (
    Annotate,
    Bench,
    Claims,
    Cluster,
    Crossvalidate,
    Evaluate,
    Pseudo,
    Rounds,
    Store,
    Tracking,
    Tune,
)
from emo_ray.config.model_settings import (
    MODALITIES,
    Audio,
    Data,
    EmoVCLIP,
    Fusion,
    Media,
    Section,
    Synthetic,
    Tables,
    Text,
    Train,
)

_PATHS = (  # or names
    *("checkpoint", "emovclip.clip", "emovclip.weights", "emovclip.start_from", "fusion.start_from", "bench.clip"),
    *("audio.encoder", "text.encoder", "train.pseudo_labels"),
)
_PATH_LISTS = (*(f"tables.{name}" for name in MODALITIES), "pseudo.teachers")
RECIPES = Path(__file__).parent / "recipes"


class Config(Section):
    """The whole tree."""

    seed: int = 0
    checkpoint: str | None = None  # a model to use in place of the one this config trains
    data: Data = Data()
    synthetic: Synthetic = Synthetic()
    media: Media = Media()
    tables: Tables = Tables()
    emovclip: EmoVCLIP = EmoVCLIP()
    audio: Audio = Audio()
    text: Text = Text()
    annotate: Annotate = Annotate()
    fusion: Fusion = Fusion()
    train: Train = Train()
    pseudo: Pseudo = Pseudo()
    rounds: Rounds = Rounds()
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    crossvalidate: Crossvalidate = Crossvalidate()
    claims: Claims = Claims()
    bench: Bench = Bench()
    store: Store = Store()
    tracking: Tracking = Tracking()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _whole_batches(self) -> "Config":
        for name in ("emovclip", "fusion"):
            size = getattr(self, name).batch_size
            if size % self.train.shares:
                raise ValueError(
                    f"found {name}.batch_size={size} with train.num_workers={self.train.num_workers}, "
                    "expected a multiple: each worker takes an equal share of every step"
                )
        return self

    @model_validator(mode="after")
    def _searched(self) -> "Config":
        known = leaves()
        for key in self.tune.space:
            if leaf_of(key, known) is None or key.startswith("tune."):
                raise ValueError(f"tune.space: {_unknown(key, known)}")
        return self


def leaves(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """All dotted keys of the tree, such as `fusion.dropout`."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Section)
        keys += leaves(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return keys


def choices(key: str) -> tuple[Any, ...]:
    """The values that a dotted key with a closed set of them may have."""
    *path, last = key.split(".")
    section = Config
    for name in path:
        section = section.model_fields[name].annotation
    return get_args(section.model_fields[last].annotation)


def flatten(config: Config) -> dict[str, Any]:
    """`{dotted key: value}` in plain types (for MLflow, digests and tables)."""
    tree = config.model_dump(mode="json")
    return {key: _get(tree, key) for key in leaves()}


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A new config with dotted keys changed. Raises ValueError for unknown keys (naming the nearest) and bad values."""
    tree, known = config.model_dump(mode="json"), leaves()
    for key, value in changes.items():
        leaf = leaf_of(key, known)
        if leaf is None:
            raise ValueError(_unknown(key, known))
        *path, last = leaf.split(".")
        branch = _get(tree, ".".join(path)) if path else tree
        if key == leaf:
            branch[last] = value
        elif isinstance(branch[last], dict):
            branch[last] = {**branch[last], key[len(leaf) + 1 :]: value}
        else:
            raise ValueError(f"found {key}, expected {leaf}=VALUE: {leaf} holds {branch[last]!r}, not a table")
    return _validated(tree)


def leaf_of(key: str, known: Sequence[str]) -> str | None:
    """The leaf that a dotted key names, or a part of which it names; None where there is none."""
    return next((leaf for leaf in known if key == leaf or key.startswith(leaf + ".")), None)


def load(recipe: str = "mini", overrides: dict[str, Any] | None = None) -> Config:
    """The config of a recipe (a name in emo_ray/recipes, or the path of a YAML file), with overrides on top."""
    path = RECIPES / f"{recipe}.yaml"
    if recipe.endswith((".yaml", ".yml")):
        path = Path(recipe)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise ValueError(f"found no recipe {recipe!r}, expected one of {names}, or the path of a .yaml file")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:  # ValueError: not UTF-8, or a date such as 2024-13-01
        raise ValueError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise ValueError(f"{path}: found {type(tree).__name__}, expected a mapping of config keys")
    return override(override(Config(), _flat(tree)), overrides or {})


def absolute_paths(config: Config) -> Config:
    """The config with relative paths that exist made absolute: workers stand in other folders than this process."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute()) if Path(path).exists() else path

    values = {key: value for key, value in flatten(config).items() if value}
    changes = {key: absolute(value) for key, value in values.items() if key in _PATHS}
    lists = {key: [absolute(path) for path in value] for key, value in values.items() if key in _PATH_LISTS}
    return override(config, changes | lists)


def dump(config: Config) -> str:
    """The resolved config as YAML; itself a recipe."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def recipe(config: Config) -> str:
    """The config as a recipe: its differences from the defaults, but for where it ran and what searched for it."""
    defaults, tree = flatten(Config()), {}
    for key, value in flatten(config).items():
        section, _, name = key.partition(".")
        if value != defaults[key] and section not in ("checkpoint", "tune", "cluster", "tracking"):
            (tree.setdefault(section, {}) if name else tree)[name or section] = value
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """`["a.b=1", ...]` to `{"a.b": 1}`; values are YAML."""
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"found {word!r}, expected key=value, e.g. fusion.modality_dropout=0.3")
        try:
            changes[key] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{word}: the value is not YAML: {error}") from error
    return changes


def _get(tree: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        tree = tree[name]
    return tree


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys, stopping at leaves (some of which hold mappings themselves)."""
    known, flat = set(leaves()), {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in known:
            flat |= _flat(value, key + ".")
        else:
            flat[key] = value
    return flat


def _unknown(key: str, known: list[str]) -> str:
    by_last_word = [k for k in known if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or by_last_word
    inside = [k for k in known if k.startswith(key + ".")]
    if inside:
        return f"found a value for the section {key!r}, expected one for a key of it: {', '.join(inside)}"
    hint = f"did you mean {near[0]!r}?" if near else f"the sections are {', '.join(Config.model_fields)}"
    return f"unknown config key {key!r}: {hint}"


def _validated(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "config"
            message = problem["msg"].removeprefix("Value error, ")
            found = "" if message.startswith("found ") else f"; found {problem['input']!r}"  # our own messages say it
            lines.append(message if where == "config" else f"{where}: {message}{found}")
        raise ValueError("; ".join(lines)) from None
