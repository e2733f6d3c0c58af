"""One frozen configuration tree, its recipes, and the one way to change it: `override`.

A recipe is a YAML file that holds only its differences from the defaults below. Nothing here acts at import, and
nothing reads the environment.
"""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

MODALITIES = ("video", "audio", "text")  # the order of M everywhere
CLIP_FIELDS = ("clip_id", "video", "audio", "text", "label", "split", "speaker", "language")
_PATHS = ("checkpoint", "emovclip.clip", "emovclip.weights", "audio.encoder", "text.encoder")  # or names
RECIPES = Path(__file__).parent / "recipes"


class Section(BaseModel):
    """A frozen part of the tree; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Data(Section):
    """Where the clips come from, and how they are split."""

    manifest: str | None = None  # CSV, JSONL, Parquet or a folder; None: the synthetic corpus
    corpus: Literal["auto", "table", "ravdess", "mer2024", "meld", "folder", "class_folders", "synthetic"] = "auto"
    root: str | None = None  # relative media paths start here; None: the manifest's own folder
    columns: dict[str, str] = {}  # field -> column, for tables with other headers
    labels: tuple[str, ...] | None = None  # None: the labels found, in alphabetical order
    validation_fraction: float = Field(0.15, gt=0, le=0.5)  # of the clips cut from, when there is no such split
    test_fraction: float = Field(0.2, gt=0, le=0.5)  # likewise; cut only when the manifest has no splits at all

    @field_validator("columns")
    @classmethod
    def _known_fields(cls, columns: dict[str, str]) -> dict[str, str]:
        for field in columns:
            if field not in CLIP_FIELDS:
                raise ValueError(f"found field {field!r}, expected one of {', '.join(CLIP_FIELDS)}")
        return columns

    @field_validator("labels", mode="before")
    @classmethod
    def _numbers_are_names(cls, labels: Any) -> Any:
        return [str(v) if type(v) is int else v for v in labels] if isinstance(labels, list | tuple) else labels

    @field_validator("labels")
    @classmethod
    def _distinct(cls, labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if labels is not None and (len(set(labels)) != len(labels) or len(labels) < 2):
            raise ValueError(f"found {list(labels)}, expected two or more distinct labels")
        return labels


class Synthetic(Section):
    """The procedural corpus: mp4 files with a face, a voice and a transcript.

    Rates of flaws are shares of the clips that have what they spoil.
    """

    train_clips: int = Field(600, ge=6)
    validation_clips: int = Field(180, ge=6)
    test_clips: int = Field(300, ge=6)
    unlabelled_clips: int = Field(720, ge=0)
    true_rate: float = Field(0.8, ge=0, le=1)  # a modality shows the clip's class, decided for each on its own
    missing_rate: float = Field(0.05, ge=0, le=1 / 3)  # a modality is missing, for each of them; no clip lacks two
    dark_rate: float = Field(0.1, ge=0, le=0.5)
    occluded_rate: float = Field(0.1, ge=0, le=0.5)
    noisy_rate: float = Field(0.1, ge=0, le=1)
    empty_rate: float = Field(0.05, ge=0, le=1)  # a transcript without words
    seed: int = 0


class Media(Section):
    """How a clip is decoded into a shard row."""

    frames: int = Field(8, ge=1)  # T, spread over the clip
    image_size: int | None = Field(None, ge=16)  # pixels; None: what emovclip.clip expects
    jpeg_quality: int = Field(90, ge=1, le=100)
    max_audio_s: float = Field(120.0, gt=0)  # longer sound is a status: cut it into utterances
    clips_per_part: int = Field(64, ge=1)  # one shard file, the unit of work and of resumption


class Optimisation(Section):
    """What both training phases share: AdamW with linear warm-up and cosine decay."""

    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    batch_size: int = Field(32, ge=1)  # clips per step over all workers
    warmup_fraction: float = Field(0.1, ge=0, lt=1)  # of all steps
    grad_clip_norm: float = Field(1.0, gt=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    class_weights: Literal["none", "balanced"] = "none"


class EmoVCLIP(Optimisation):
    """Vision-language prompts on a frozen CLIP."""

    clip: str = "ViT-B-16"  # open_clip architecture, or the path of an open_clip model config (JSON)
    weights: str | None = None  # open_clip pretrained tag, or a local file; None: random from the seed
    global_prompts: int = Field(8, ge=0)  # G, per block
    local_prompts: bool = True  # one per frame and block
    summary_prompt: bool = True  # attention over the frames' CLS tokens
    time_embedding: bool = True
    context_tokens: int = Field(8, ge=0)  # learned vectors in front of the class name
    class_specific_context: bool = True
    train_cls_proj: bool = True
    pooling: Literal["mean", "attention"] = "attention"  # over frames; attention is ours, the mean is CLIP's
    lr: float = Field(4e-4, gt=0)


class Audio(Section):
    """The frozen sound encoder."""

    encoder: str = "functionals"  # or a transformers speech model: hub name or folder
    revision: str | None = None
    layers: tuple[int, ...] = Field((-4, -3, -2, -1), min_length=1)  # hidden layers averaged
    batch_size: int = Field(8, ge=1)


class Text(Section):
    """The frozen transcript encoder."""

    encoder: str = "ngrams"  # or a transformers language model: hub name or folder
    revision: str | None = None
    layers: tuple[int, ...] = Field((-4, -3, -2, -1), min_length=1)
    batch_size: int = Field(8, ge=1)
    max_tokens: int = Field(512, ge=2)
    trust_remote_code: bool = False  # run code from the model's repository: only with a pinned revision
    ngram_features: int = Field(1024, ge=16)  # hash buckets of the offline stand-in

    @model_validator(mode="after")
    def _pinned_code(self) -> "Text":
        if self.trust_remote_code and self.revision is None:
            raise ValueError(
                "found text.trust_remote_code=true without text.revision, expected a pinned commit: "
                "code from a repository runs with your rights, so read it once and pin it"
            )
        return self


class Fusion(Optimisation):
    """The head over the three feature vectors."""

    hidden: int = Field(128, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    modality_dropout: float | dict[str, float] = 0.5  # one rate for incomplete patterns, or one per modality
    # The head is tiny and a report to Ray is not: an epoch of the head is this many passes over its features.
    passes_per_epoch: int = Field(4, ge=1)

    @field_validator("modality_dropout")
    @classmethod
    def _rates(cls, value: float | dict[str, float]) -> float | dict[str, float]:
        rates = value if isinstance(value, dict) else dict.fromkeys(MODALITIES, value)
        for name, rate in rates.items():
            if name not in MODALITIES or not 0 <= rate <= 1:
                raise ValueError(f"found {name}: {rate}, expected rates in [0, 1] for {', '.join(MODALITIES)}")
        return value


class Train(Section):
    """How Ray Train runs both phases."""

    num_workers: int = Field(1, ge=1)
    epochs: int = Field(10, ge=1)  # of each phase
    use_gpu: Literal["auto", "yes", "no"] = "auto"  # auto: when the cluster has enough of them
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of EmoVCLIP's training; auto: bf16 on GPUs that have it
    max_failures: int = Field(3, ge=0)  # worker-group restarts before the run is given up
    shuffle_buffer: int = Field(512, ge=1)  # clips

    @field_validator("use_gpu", mode="before")
    @classmethod
    def _yaml_words(cls, value: Any) -> Any:
        return {True: "yes", False: "no"}[value] if isinstance(value, bool) else value  # a bare yes is true in YAML


class Evaluate(Section):
    """What a report is made on."""

    split: Literal["auto", "train", "validation", "test"] = "auto"  # auto: test where it has labels, else validation


class Claims(Section):
    """How often the claims are measured."""

    worlds: int = Field(3, ge=1)
    seeds: int = Field(3, ge=1)  # of training, in each world
    dropout_rates: tuple[Annotated[float, Field(ge=0, le=1)], ...] = (0.0, 0.15, 0.3, 0.5, 0.7)


class Store(Section):
    """Where artefacts go: a folder that every node sees."""

    root: str = "artifacts"


class Tracking(Section):
    """MLflow."""

    uri: str | None = None  # None: sqlite in store.root; on a cluster an http(s) server
    experiment: str = "emo_ray"


class Cluster(Section):
    """Which Ray to use."""

    address: str | None = None  # None: the cluster this process was submitted to, else a local one
    num_cpus: int | None = Field(None, ge=1)  # logical CPUs of a local one; None: all


class Config(Section):
    """The whole tree."""

    seed: int = 0
    checkpoint: str | None = None  # a model to use in place of the one this config trains
    data: Data = Data()
    synthetic: Synthetic = Synthetic()
    media: Media = Media()
    emovclip: EmoVCLIP = EmoVCLIP()
    audio: Audio = Audio()
    text: Text = Text()
    fusion: Fusion = Fusion()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()
    claims: Claims = Claims()
    store: Store = Store()
    tracking: Tracking = Tracking()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _whole_batches(self) -> "Config":
        for name in ("emovclip", "fusion"):
            size = getattr(self, name).batch_size
            if size % self.train.num_workers:
                raise ValueError(
                    f"found {name}.batch_size={size} with train.num_workers={self.train.num_workers}, "
                    "expected a multiple: each worker takes an equal share of every step"
                )
        return self


def leaves(section: type[Section] = Config, prefix: str = "") -> list[str]:
    """All dotted keys of the tree, such as `fusion.dropout`."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Section)
        keys += leaves(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return keys


def flatten(config: Config) -> dict[str, Any]:
    """`{dotted key: value}` in plain types (for MLflow, digests and tables)."""
    tree = config.model_dump(mode="json")
    return {key: _get(tree, key) for key in leaves()}


def override(config: Config, changes: dict[str, Any]) -> Config:
    """A new config with dotted keys changed. Raises ValueError for unknown keys (naming the nearest) and bad values."""
    tree, known = config.model_dump(mode="json"), leaves()
    for key, value in changes.items():
        leaf = next((k for k in known if key == k or key.startswith(k + ".")), None)
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
    values = {key: value for key, value in flatten(config).items() if key in _PATHS and value}
    return override(config, {k: str(Path(v).absolute()) for k, v in values.items() if Path(v).exists()})


def dump(config: Config) -> str:
    """The resolved config as YAML; itself a recipe."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


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
