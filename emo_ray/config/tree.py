"""One frozen configuration tree, its recipes, and the one way to change it: `override`.

A recipe is a YAML file that holds only its differences from the defaults of the sections. Nothing here acts at import,
and nothing reads the environment.
"""

import difflib
from collections.abc import Mapping
from functools import cache, lru_cache, reduce
from operator import getitem
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError, model_validator
from pydantic.fields import FieldInfo

from emo_ray.config.cluster_settings import Cluster, Submit
from emo_ray.config.data_settings import Data, Synthetic
from emo_ray.config.endpoint_settings import Annotate, Transcribe
from emo_ray.config.fusion_settings import Fusion
from emo_ray.config.job_settings import (
    Bench,
    Chaos,
    Claims,
    CrossCorpus,
    Evaluate,
    Export,
    Pseudo,
    Rounds,
    Serve,
    Store,
    Tracking,
    Verify,
)
from emo_ray.config.media_settings import Media, Segment
from emo_ray.config.model_settings import MODALITIES, VIDEO_TRAINED, Audio, EmoVCLIP, Text
from emo_ray.config.setting import Declaration, Section, by_content, by_value, setting
from emo_ray.config.sweep_settings import Tune
from emo_ray.config.table_settings import Tables
from emo_ray.config.train_settings import Augment, Train
from emo_ray.config.yaml_core import read, read_word, write

RECIPES = Path(__file__).parent / "recipes"


class Config(Section):
    """The whole tree."""

    seed: int = setting(
        0,
        "Seed of everything that is drawn: splits, initial weights, the order of clips, dropout.",
        ge=0,
        decides=by_value("emovclip", only_if=VIDEO_TRAINED)
        + by_value("fusion", "folds")
        + by_content("splits", "frozen_clip"),
    )
    checkpoint: str | None = setting(
        None,
        "Folder of a model to use in place of the one that this config trains.",
        decides=by_content("predictions", "report", "pseudo_labels", "self_training"),
        owner="caller",
        path=True,
        in_recipe=False,
    )
    modalities: tuple[Literal["video", "audio", "text"], ...] = setting(
        MODALITIES,
        "Modalities that a model is trained on and sees; nothing is encoded or trained for the others.",
        decides=by_value("fusion", "folds"),
        normalised=lambda names: [name for name in MODALITIES if name in names],
        min_length=1,
    )
    data: Data = Data()
    synthetic: Synthetic = Synthetic()
    media: Media = Media()
    segment: Segment = Segment()
    tables: Tables = Tables()
    emovclip: EmoVCLIP = EmoVCLIP()
    audio: Audio = Audio()
    text: Text = Text()
    transcribe: Transcribe = Transcribe()
    annotate: Annotate = Annotate()
    fusion: Fusion = Fusion()
    train: Train = Train()
    augment: Augment = Augment()
    pseudo: Pseudo = Pseudo()
    rounds: Rounds = Rounds()
    tune: Tune = Tune()
    evaluate: Evaluate = Evaluate()
    crosscorpus: CrossCorpus = CrossCorpus()
    claims: Claims = Claims()
    export: Export = Export()
    serve: Serve = Serve()
    bench: Bench = Bench()
    verify: Verify = Verify()
    chaos: Chaos = Chaos()
    store: Store = Store()
    tracking: Tracking = Tracking()
    cluster: Cluster = Cluster()
    submit: Submit = Submit()

    @model_validator(mode="after")
    def _whole_batches(self) -> "Config":
        counts = self.train.worker_counts
        if not counts:
            raise ValueError(
                f"found train.min_workers={self.train.min_workers}, expected at most train.num_workers="
                f"{self.train.num_workers}"
            )
        for name, count in ((name, count) for name in ("emovclip", "fusion") for count in counts):
            size = getattr(self, name).batch_size
            if size % count:
                of_workers = f"of {count}, as many workers as there may be" if len(counts) > 1 else "of it"
                raise ValueError(
                    f"found {name}.batch_size={size} with train.num_workers={self.train.num_workers}, "
                    f"expected a multiple {of_workers}: each worker takes an equal share of every step"
                )
        return self

    @model_validator(mode="after")
    def _searched(self) -> "Config":
        for key in self.tune.space:
            if leaf_of(key) is None or key.startswith("tune."):
                raise ValueError(f"tune.space: {_unknown(key)}")
        return self


def sections() -> dict[str, type[Section]]:
    """The sections by their dotted name, with the whole tree as the section "" of the keys without a dot."""

    def below(section: type[Section], prefix: str) -> dict[str, type[Section]]:
        nested: dict[str, type[Section]] = {}
        for name, kind in section.sections().items():
            nested |= {prefix + name: kind, **below(kind, f"{prefix}{name}.")}
        return nested

    return {"": Config, **below(Config, "")}


@cache
def _fields() -> dict[str, tuple[type[Section], str]]:
    """The section and the name in it of every dotted key, in the order of the tree."""

    def below(section: type[Section], prefix: str) -> dict[str, tuple[type[Section], str]]:
        nested = section.sections()
        fields: dict[str, tuple[type[Section], str]] = {}
        for name in section.model_fields:
            if name in nested:
                fields |= below(nested[name], f"{prefix}{name}.")
            else:
                fields[prefix + name] = (section, name)
        return fields

    return below(Config, "")


def leaves() -> list[str]:
    """All dotted keys of the tree, such as `fusion.dropout`."""
    return list(_fields())


def field_of(key: str) -> FieldInfo:
    """The pydantic field of a dotted key: its annotation, default, bounds and description."""
    section, name = _fields()[key]
    return section.model_fields[name]


@cache
def declarations() -> Mapping[str, Declaration]:
    """What is declared of every dotted key: which artefacts it decides, whom it belongs to."""
    return {key: section.declaration(name) for key, (section, name) in _fields().items()}


def choices(key: str) -> tuple[Any, ...]:
    """The values that a dotted key with a closed set of them may have."""
    return get_args(field_of(key).annotation)


def flatten(config: Config) -> dict[str, Any]:
    """`{dotted key: value}` in JSON-able types, for MLflow, digests and tables."""
    return _flat(config.model_dump(mode="json"))


def value_of(config: Config, key: str) -> Any:
    """The value of one dotted key, as the config holds it: a hundred times as fast as `flatten`."""
    return reduce(getattr, key.split("."), config)


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A new config with dotted keys changed. Raises ValueError for unknown keys (naming the nearest) and bad values."""
    tree = config.model_dump(mode="json")
    for key, value in changes.items():
        leaf = leaf_of(key)
        if leaf is None:
            raise ValueError(_unknown(key))
        *path, last = leaf.split(".")
        branch = reduce(getitem, path, tree)
        if key == leaf:
            branch[last] = value
        elif isinstance(branch[last], dict):
            branch[last] = {**branch[last], key[len(leaf) + 1 :]: value}
        else:
            raise ValueError(f"found {key}, expected {leaf}=VALUE: {leaf} holds {branch[last]!r}, not a table")
    return _validated(tree)


def leaf_of(key: str) -> str | None:
    """The leaf that a dotted key is or lies in ("data.columns.video" lies in "data.columns"); None without any."""
    words = key.split(".")
    prefixes = (".".join(words[:count]) for count in range(1, len(words) + 1))
    return next((prefix for prefix in prefixes if prefix in _fields()), None)


def _unknown(key: str) -> str:
    """The error message for a word that is no dotted key; it names the nearest key."""
    keys = leaves()
    section_keys = [k for k in keys if k.startswith(key + ".")]
    if section_keys:
        return f"found a value for the section {key!r}, expected one for a key of it: {', '.join(section_keys)}"
    same_last_word = [k for k in keys if k.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5) or same_last_word
    hint = f"did you mean {near[0]!r}?" if near else f"the sections are {', '.join(Config.model_fields)}"
    return f"unknown config key {key!r}: {hint}"


def recipe_names() -> list[str]:
    """The recipes that come with the package, in alphabetical order."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def is_recipe(word: str) -> bool:
    """Whether a word names a recipe of the package, or a YAML file."""
    return word.endswith((".yaml", ".yml")) or word in recipe_names()


def load(recipe: str = "mini", overrides: dict[str, Any] | None = None) -> Config:
    """The config of a recipe (a name in emo_ray/config/recipes, or the path of a YAML file), with overrides on top."""
    path = RECIPES / f"{recipe}.yaml"
    if recipe.endswith((".yaml", ".yml")):
        path = Path(recipe)
    if not path.is_file():
        names = ", ".join(recipe_names())
        raise ValueError(f"found no recipe {recipe!r}, expected one of {names}, or the path of a .yaml file")
    try:
        config = _of_text(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not YAML in UTF-8: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return override(config, overrides) if overrides else config


@lru_cache(maxsize=32)
def _of_text(text: str) -> Config:
    """The config of a recipe's text. It is kept, for a job reads the config of its model again and again."""
    tree = read(text) or {}
    if not isinstance(tree, dict):
        raise ValueError(f"found {type(tree).__name__}, expected a mapping of config keys")
    return override(Config(), _flat(tree))


def absolute_paths(config: Config) -> Config:
    """The config with relative paths that exist made absolute: workers run in other folders than this process."""

    def absolute(path: str) -> str:
        return str(Path(path).absolute()) if Path(path).exists() else path

    paths = _paths(config)
    changes = {key: absolute(v) if isinstance(v, str) else [absolute(path) for path in v] for key, v in paths.items()}
    return override(config, changes)


def inputs(config: Config) -> list[str]:
    """The files and folders that a config names for a job to read, but for the store."""
    values = [value for key, value in _paths(config).items() if key != "store.root"]
    return [path for value in values for path in ([value] if isinstance(value, str) else value)]


def _paths(config: Config) -> dict[str, Any]:
    declared = declarations()
    return {key: value for key, value in flatten(config).items() if value and declared[key].path}


def dump(config: Config) -> str:
    """The resolved config as YAML; itself a recipe."""
    return write(config.model_dump(mode="json"))


def recipe(config: Config) -> str:
    """The config as a recipe: its differences from the defaults, without where it ran and what searched for it."""
    defaults = flatten(Config())
    declared = declarations()
    tree: dict[str, Any] = {}
    for key, value in flatten(config).items():
        *path, name = key.split(".")
        if value != defaults[key] and declared[key].in_recipe:
            branch = tree
            for section in path:
                branch = branch.setdefault(section, {})
            branch[name] = value
    return write(tree)


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """`["a.b=1", ...]` -> `{"a.b": 1}`; values are YAML, see `read_word`. Raises ValueError for other words."""
    changes: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"found {word!r}, expected key=value, e.g. fusion.modality_dropout=0.3")
        try:
            changes[key] = read_word(value)
        except ValueError as error:
            raise ValueError(f"{word}: {error}; as text it takes quotes of its own: '{key}=\"VALUE\"'") from error
    return changes


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys, down to the leaves, some of which hold mappings themselves."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in _fields():
            flat |= _flat(value, key + ".")
        else:
            flat[key] = value
    return flat


# What pydantic calls by the names of Python's types, as it is written; the key stands before it.
_FORMS = {
    "tuple_type": "expected a list, such as [a, b]",
    "list_type": "expected a list, such as [a, b]",
    "dict_type": "expected a mapping, such as {a: b}",
    "model_type": "expected a section, whose keys are written SECTION.KEY=VALUE",
}


def _validated(tree: dict[str, Any]) -> Config:
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            where = ".".join(str(part) for part in problem["loc"]) or "config"
            message = _FORMS.get(problem["type"]) or problem["msg"].removeprefix("Value error, ")
            value = "" if message.startswith("found ") else f"; found {problem['input']!r}"  # our validators name it
            lines.append(message if where == "config" else f"{where}: {message}{value}")
        raise ValueError("; ".join(lines)) from None
