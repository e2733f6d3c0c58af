"""Which encoders a config or a checkpoint uses, and under which digests their features lie.

Nothing is loaded here: an encoder's weights are read where it is built, in the process that encodes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emo_ray import cluster, store
from emo_ray.config import RECIPES, Config, flatten, keys_of_caller, override, settings_of, value_of
from emo_ray.config.endpoint_settings import Transcribe
from emo_ray.config.media_settings import Segment
from emo_ray.config.model_settings import Audio, Text
from emo_ray.data import tables, transcripts
from emo_ray.data.status import are_ok
from emo_ray.models import checkpoint_files
from emo_ray.models.identity import (
    RECOGNISER_VERSION,
    audio_digest,
    frozen_digest,
    licence_notes,
    recogniser_digest,
    text_digest,
)
from emo_ray.progress import say

VERSION = 2  # of the feature tables' form
# What counts as speech: less than in utterances of a recording, because a recogniser is asked next, and noise or a tone
# reach .06 at most. It hears 30 s at once.
SPEECH = Segment(threshold=0.3, min_speech_s=0.1, max_s=28.0)
_VIDEO_BATCH = 8  # clips


class TextTable(Protocol):
    """A table with a row a clip, which an encoder of text is given beside the clips."""

    @property
    def path(self) -> Path:
        """The table's Parquet file."""

    @property
    def digest(self) -> str:
        """The digest of all that decides its content beside the clips."""


class TextTables(Protocol):
    """What an encoder of text is given beside the clips; None where there is no such table."""

    @property
    def transcripts(self) -> TextTable | None:
        """Transcripts of clips without any."""

    @property
    def readings(self) -> TextTable | None:
        """A stronger model's reading of each transcript."""


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
    transcripts: Path | None = None  # a table of transcripts of clips without text, for an encoder of text as well
    sources: tuple[str, ...] = ()  # feature tables from elsewhere
    frames: int | None = None  # that an encoder of video sees of a clip; None: all that are stored
    draws_frames: bool = False  # whether more are stored, so that views show others
    views: int = 1  # of a clip, whose features an encoder of video averages
    seed: int = 0  # of the draws and crops of all views but the first
    crop: float = 0.0  # share of these views that are cropped: that of the clips in training

    @property
    def reads(self) -> list[str]:
        """The modalities whose media it needs."""
        return [] if self.sources else [self.modality]

    def wanted(self, table: pa.Table) -> bool:
        """Whether any of these rows (of a ledger or of shards) has what this encoder reads."""
        statuses = transcripts.filled(table, self.transcripts)[f"{self.modality}_status"]
        return bool(self.sources) or pc.any(are_ok(statuses)).as_py() is True

    def built(self, device: str) -> Any:
        """The module that encodes, on a device and in evaluation mode."""
        return self.build() if self.sources else self.build().eval().to(device)


@dataclass(frozen=True)
class RecogniserSpec(EncoderSpec):
    """A speech recogniser as an encoder, whose features are rows of data.transcripts.SCHEMA.

    Where an endpoint transcribes, rows only say in which clips somebody speaks.
    """

    rows: Literal["missing", "given"] = "missing"  # transcribed are clips without a transcript, or those with one
    language: str | None = None  # of clips that have none of their own
    is_remote: bool = False  # an endpoint transcribes

    @property
    def reads(self) -> list[str]:
        """Sound, and the language that is spoken."""
        return ["speech"]

    def concerns(self, table: pa.Table) -> np.ndarray:
        """Which rows (of a ledger or of shards) are transcribed, bool (n,)."""
        has_text = are_ok(table["text_status"]).to_numpy()
        return are_ok(table["audio_status"]).to_numpy() & (has_text == (self.rows == "given"))

    def wanted(self, table: pa.Table) -> bool:
        """Whether any of these rows is transcribed."""
        return bool(self.concerns(table).any())

    def built(self, device: str) -> Any:
        """The recogniser on a device; None where an endpoint transcribes."""
        return None if self.is_remote else super().built(device)


def recogniser(config: Config, rows: Literal["missing", "given"] = "missing") -> RecogniserSpec:
    """The recogniser that `transcribe` names. Raises ValueError where there is no such model."""
    settings = config.transcribe
    is_remote = settings.url is not None
    digest = "speech" if is_remote else recogniser_digest(settings)
    return RecogniserSpec(
        "transcripts" if rows == "missing" else "second-transcripts",
        store.digest(digest, SPEECH.model_dump(mode="json"), RECOGNISER_VERSION, rows),
        partial(_build_recogniser, settings),
        settings.batch_size,
        rows=rows,
        language=settings.language,
        is_remote=is_remote,
    )


def frozen_encoders(config: Config, texts: TextTables | None = None, without: Sequence[str] = ()) -> list[EncoderSpec]:
    """The encoders that no training changes: sound and text, or the tables of `tables.*` in the place of any.

    The encoder of text uses transcripts and readings where there are any. A modality that `modalities` lacks has no
    encoder.
    """
    written, readings = (texts.transcripts, texts.readings) if texts else (None, None)
    digest = text_digest(config.text, readings.digest if readings else None, written.digest if written else None)
    makers: dict[str, Callable[[], EncoderSpec]] = {
        "audio": lambda: EncoderSpec(
            "audio", audio_digest(config.audio), partial(_build_audio, config.audio), config.audio.batch_size
        ),
        "text": lambda: EncoderSpec(
            "text",
            digest,
            partial(_build_text, config.text),
            config.text.batch_size,
            readings=readings.path if readings else None,
            transcripts=written.path if written else None,
        ),
    }
    makers |= {name: partial(table_encoder, config, name) for name in config.tables.given}
    for note in licence_notes(config):
        _say_licence(note)
    return [make() for name, make in makers.items() if name in config.modalities and name not in without]


def table_encoder(config: Config, modality: str) -> EncoderSpec:
    """The feature tables that `tables.*` names for a modality, in the place of an encoder."""
    sources, zeros = config.tables.of(modality), config.tables.zeros
    build = partial(tables.Tables, sources, zeros)
    return EncoderSpec(modality, tables.digest(sources, zeros), build, batch_size=1, sources=sources)


def video_encoder(folder: Path) -> EncoderSpec:
    """The trained EmoVCLIP in a checkpoint folder, as an encoder of video."""
    config, _ = checkpoint_files.read_config(folder)
    seen = settings_of(config, "video_features")
    digest = store.digest(
        frozen_digest(config), store.digest_path(folder / checkpoint_files.WEIGHTS), *([seen] if seen else [])
    )
    build = partial(_build_video, folder)
    media = config.media
    has_choice = media.frames_stored not in (None, media.frames)
    return EncoderSpec(
        "video", digest, build, _VIDEO_BATCH, frames=media.frames, crop=config.augment.crop, draws_frames=has_choice
    )


def with_views(encoders: Sequence[EncoderSpec], views: int, seed: int) -> list[EncoderSpec]:
    """The encoders, that of video with so many views of each clip.

    Raises ValueError where none encodes video, or all views would be the same.
    """
    if views == 1:
        return list(encoders)
    if not any("video" in encoder.reads for encoder in encoders):
        raise ValueError(f"found evaluate.views={views} with a model that reads no video, expected evaluate.views=1")
    return [_with_views(encoder, views, seed) if "video" in encoder.reads else encoder for encoder in encoders]


def _with_views(encoder: EncoderSpec, views: int, seed: int) -> EncoderSpec:
    if not (encoder.crop or encoder.draws_frames):
        raise ValueError(
            f"found evaluate.views={views} with a model that was trained on whole pictures of all frames that are "
            "stored, expected one with augment.crop or more media.frames_stored than media.frames: each view would "
            "be the same"
        )
    digest = store.digest(encoder.digest, "views", views, seed, encoder.crop)
    return replace(encoder, views=views, seed=seed, digest=digest)


def encoders_of(config: Config, path: Path, texts: TextTables | None = None) -> list[EncoderSpec]:
    """The encoders of a model in a checkpoint folder; a model of sound and text alone has no EmoVCLIP.

    What it learnt from tables is read from tables alone: those of `config`, else the modality is absent. Raises
    ValueError where nothing is left, and where the EmoVCLIP names files that the model's config does not.
    """
    model_config, _ = checkpoint_files.read_config(path)
    video = path / checkpoint_files.EMOVCLIP
    tabled = config.tables.given
    without = [name for name in model_config.tables.given if name not in tabled]
    encoders = frozen_encoders(config, texts, without)
    if video.is_dir() and "video" not in (*tabled, *without):
        _check_places(config, checkpoint_files.read_config(video)[0], path)
        encoders.append(video_encoder(video))
    if not encoders:
        expected = " or ".join(f"tables.{name}=PATH" for name in model_config.tables.given)
        raise ValueError(f"{path}: found a model of feature tables, expected some of the same kind: {expected}")
    return encoders


def of_checkpoint(config: Config, path: Path) -> Config:
    """The checkpoint's own config (its encoders, its seed and so its splits) with the caller's data and places.

    The caller's recogniser of speech takes the place of the checkpoint's, if there is one: it is about the data.
    Raises ValueError where a checkpoint from elsewhere names files of this machine, or code to be run, that the caller
    does not name.
    """
    model_config, labels = checkpoint_files.read_config(path)
    _check_places(config, model_config, path)
    _check_code(config, model_config, path)
    if not checkpoint_files.has_digests(path):
        _say_unchecked(path.name)
    if model_config.annotate.url is not None and not config.annotate.asks_for_readings:
        _say_without(path.name, model_config.annotate.model)
    values = flatten(config)
    callers = {key: values[key] for key in keys_of_caller()}
    if config.transcribe.model is not None:
        callers |= {key: value for key, value in values.items() if key.startswith("transcribe.")}
    elif model_config.transcribe.url is not None:
        _say_untranscribed(path.name, str(model_config.transcribe.model))
        callers["transcribe.model"] = None
    # All that the job's own section says of a model that is trained.
    workers = {"train.num_workers": min(1, config.train.num_workers), "train.min_workers": None}
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
    for key in checkpoint_files.MODEL_FILES:
        value = value_of(model_config, key)
        if value is None or value == value_of(config, key) or not Path(value).exists():
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
def _say_licence(note: str) -> None:
    say(note)


@cache
def _say_without(name: str, model: str) -> None:
    say(f"{name} was trained with readings by {model}; annotate.url is not set, so transcripts stand alone")


@cache
def _say_untranscribed(name: str, model: str) -> None:
    say(f"{name} was trained with transcripts by {model}; transcribe.url is not set, so clips without text have none")


def _build_recogniser(settings: Transcribe) -> Any:
    from emo_ray.models import transcriber

    return transcriber.build(settings)


def _build_audio(settings: Audio) -> Any:
    from emo_ray.models import audio

    return audio.build(settings)


def _build_text(settings: Text) -> Any:
    from emo_ray.models import text

    return text.build(settings)


def _build_video(folder: Path) -> Any:
    from emo_ray.models import checkpoint, emovclip

    return emovclip.VideoEncoder(checkpoint.load_emovclip(folder))
