"""Which encoders a config or a checkpoint uses, and under which digests their features lie.

Nothing is loaded here: an encoder's weights are read where it is built, in the process that encodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import cluster, store
from emo_ray.config import RECIPES, Config, flatten, keys_of_caller, override
from emo_ray.config.model_settings import Audio, Text
from emo_ray.data import tables
from emo_ray.data.status import are_ok
from emo_ray.models import checkpoint_files
from emo_ray.models.identity import audio_digest, frozen_digest, text_digest
from emo_ray.progress import say
from emo_ray.stages.chat.readings import Readings

VERSION = 2  # of the feature tables' form
_VIDEO_BATCH = 8  # clips
_MODEL_FILES = ("emovclip.clip", "emovclip.weights", "audio.encoder", "text.encoder")  # what is read to predict


@dataclass(frozen=True)
class EncoderSpec:
    """How the features of one modality are made: `build()` gives a callable module `(batch) -> features_BD`.

    A row of NaN says that there is no feature for that clip, such as for sound shorter than one frame. A spec with
    `sources` reads no media and looks features up instead: its `build()` gives `data.tables.Tables`.
    """

    modality: str
    digest: str
    build: Callable[[], Any]
    batch_size: int
    readings: Path | None = None  # a table of `clip_id` and `reading`, which an encoder of text is given beside them
    sources: tuple[str, ...] = ()  # feature tables from elsewhere

    @property
    def reads(self) -> list[str]:
        """The modalities whose media it needs."""
        return [] if self.sources else [self.modality]

    def wanted(self, table: pa.Table) -> bool:
        """Whether any of these rows (of a ledger or of shards) has what this encoder reads."""
        return bool(self.sources) or pc.any(are_ok(table[f"{self.modality}_status"])).as_py() is True

    def built(self, device: str) -> Any:
        """The module that encodes, on a device and in evaluation mode."""
        return self.build() if self.sources else self.build().eval().to(device)


def frozen_encoders(config: Config, readings: Readings | None = None, without: Sequence[str] = ()) -> list[EncoderSpec]:
    """The encoders that no training changes: sound and text, or the tables of `tables.*` in the place of any.

    The encoder of text uses `readings` where there are any. A modality that `modalities` lacks has no encoder.
    """
    digest = text_digest(config.text, readings.digest if readings else None)
    table = readings.path if readings else None
    makers: dict[str, Callable[[], EncoderSpec]] = {
        "audio": lambda: EncoderSpec(
            "audio", audio_digest(config.audio), partial(_build_audio, config.audio), config.audio.batch_size
        ),
        "text": lambda: EncoderSpec("text", digest, partial(_build_text, config.text), config.text.batch_size, table),
    }
    makers |= {name: partial(table_encoder, config, name) for name in config.tables.given}
    return [make() for name, make in makers.items() if name in config.modalities and name not in without]


def table_encoder(config: Config, modality: str) -> EncoderSpec:
    """The feature tables that `tables.*` names for a modality, in the place of an encoder."""
    sources, zeros = config.tables.of(modality), config.tables.zeros
    build = partial(tables.Tables, sources, zeros)
    return EncoderSpec(modality, tables.digest(sources, zeros), build, batch_size=1, sources=sources)


def video_encoder(folder: Path) -> EncoderSpec:
    """The trained EmoVCLIP in a checkpoint folder, as an encoder of video."""
    config, _ = checkpoint_files.read_config(folder)
    digest = store.digest(frozen_digest(config), store.digest_path(folder / checkpoint_files.WEIGHTS))
    return EncoderSpec("video", digest, partial(_build_video, folder), _VIDEO_BATCH)


def encoders_of(config: Config, path: Path, readings: Readings | None = None) -> list[EncoderSpec]:
    """The encoders of a model in a checkpoint folder; a model of sound and text alone has no EmoVCLIP.

    What it learnt from tables is read from tables alone: those of `config`, else the modality is absent. Raises
    ValueError where nothing is left, and where the EmoVCLIP names files that the model's config does not.
    """
    model_config, _ = checkpoint_files.read_config(path)
    video, tabled = path / checkpoint_files.EMOVCLIP, config.tables.given
    without = [name for name in model_config.tables.given if name not in tabled]
    encoders = frozen_encoders(config, readings, without)
    if video.is_dir() and "video" not in (*tabled, *without):
        _check_places(config, checkpoint_files.read_config(video)[0], path)
        encoders.append(video_encoder(video))
    if not encoders:
        expected = " or ".join(f"tables.{name}=PATH" for name in model_config.tables.given)
        raise ValueError(f"{path}: found a model of feature tables, expected some of the same kind: {expected}")
    return encoders


def of_checkpoint(config: Config, path: Path) -> Config:
    """The checkpoint's own config (its encoders, its seed and so its splits) with the caller's data and places.

    Raises ValueError where a checkpoint from elsewhere names files of this machine, or code to be run, that the caller
    does not name.
    """
    model_config, labels = checkpoint_files.read_config(path)
    _check_places(config, model_config, path)
    _check_code(config, model_config, path)
    if not checkpoint_files.has_digests(path):
        _say_unchecked(path.name)
    if model_config.annotate.url is not None and config.annotate.url is None:
        _say_without(path.name, model_config.annotate.model)
    values = flatten(config)
    callers = {key: values[key] for key in keys_of_caller()}
    workers = {"train.num_workers": min(1, config.train.num_workers)}  # all that it says of a model that is trained
    return override(model_config, callers | workers | {"data.labels": labels})


def feature_folder(config: Config, shards: Path, encoder: EncoderSpec) -> Path:
    """Where this encoder's features of these shards lie or will lie; its parts are named as the shards'."""
    key = store.digest(VERSION, encoder.digest, shards.name)
    return cluster.store_root(config) / "features" / f"{encoder.modality}-{key}"


def _check_places(config: Config, model_config: Config, path: Path) -> None:
    """Raises ValueError where a checkpoint that lies outside of the store names a file outside of its own folder.

    Files beside our recipes, and those that the caller's config names under the same key, may be named.
    """
    inside = [place.resolve() for place in (path, cluster.store_root(config))]
    if inside[0].is_relative_to(inside[1]):
        return
    values, callers = flatten(model_config), flatten(config)
    for key in _MODEL_FILES:
        value = values[key]
        if value is None or value == callers[key] or not Path(value).exists():
            continue  # a name of an encoder, of an architecture or on the model hub
        if not any(Path(value).resolve().is_relative_to(place) for place in (*inside, RECIPES)):
            raise ValueError(
                f"{path / checkpoint_files.CONFIG}: found {key}={value}, which lies outside of the checkpoint's "
                f"folder, expected no other file of this machine: set {key}={value} yourself if it is the right one, "
                "or set store.root to the store that the checkpoint lies in"
            )


def _check_code(config: Config, model_config: Config, path: Path) -> None:
    """Raises ValueError where the caller trusts a model's code, and a checkpoint from elsewhere names another model."""
    code, trusted = [(text.encoder, text.revision) for text in (model_config.text, config.text)]
    is_ours = path.resolve().is_relative_to(cluster.store_root(config).resolve())
    if config.text.trust_remote_code and code != trusted and not is_ours:
        raise ValueError(
            f"{path / checkpoint_files.CONFIG}: found text.encoder={code[0]} with text.revision={code[1]}, whose code "
            f"text.trust_remote_code=true would run, expected {trusted[0]} with {trusted[1]} as you say: set both "
            "yourself if you have read that code, or text.trust_remote_code=false"
        )


@cache
def _say_unchecked(name: str) -> None:
    say(f"{name} was made before checkpoints had digests: damage to its files, or changes by hand, would not show")


@cache
def _say_without(name: str, model: str) -> None:
    say(f"{name} was trained with readings by {model}; annotate.url is not set, so transcripts stand alone")


def _build_audio(settings: Audio) -> Any:
    from emo_ray.models import audio

    return audio.build(settings)


def _build_text(settings: Text) -> Any:
    from emo_ray.models import text

    return text.build(settings)


def _build_video(folder: Path) -> Any:
    from emo_ray.models import checkpoint, emovclip

    return emovclip.VideoEncoder(checkpoint.load_emovclip(folder))
