"""What decides the output of each frozen encoder, as digests that name stored features and models.

Everything is told from configs and files: no encoder is loaded, and neither torch nor open_clip nor transformers is
imported. Settings that only decide where or how fast an encoder runs are no part of its digest; `dtype=auto` stands for
itself, because it is decided where the encoder runs.

Raise a version when the same settings and weights give other values.
"""

from importlib import metadata
from pathlib import Path

from emo_ray import store
from emo_ray.config import Config
from emo_ray.config.endpoint_settings import Transcribe
from emo_ray.config.model_settings import OFFLINE_AUDIO, OFFLINE_TEXT, OPENSMILE, Audio, Text
from emo_ray.models.clip_folders import TOKENIZER_FILES
from emo_ray.models.clip_source import clip_source, image_size
from emo_ray.models.pretrained_source import check_code, source_digest

CLIP_VERSION, AUDIO_VERSION, FUNCTIONALS_VERSION, TEXT_VERSION, RECOGNISER_VERSION = 1, 2, 3, 3, 1
_STAND_IN = "mini_clip.safetensors"
SPEAKER_VERSION = 1  # of standardisation by speaker, in training.speaker_scaling


def frozen_digest(config: Config) -> str:
    """Digest of the frozen CLIP: architecture, weights (by content for files, by tag or seed otherwise), image size."""
    source, size = clip_source(config), image_size(config)
    weights = ("random", config.seed) if source.weights is None else source.weights
    if isinstance(weights, Path):
        weights = store.digest_path(weights)
    beside = source.statistics if source.folder else source.merges and store.digest_path(source.merges)
    other_tokenizer = (_tokenizer_digest(source.tokenizer),) if source.tokenizer else ()
    resized = () if size == source.native_size else ("image_size", size)
    return store.digest(source.architecture, weights, beside, CLIP_VERSION, *resized, *other_tokenizer)


def _tokenizer_digest(folder: Path) -> list[str]:
    """Digest of the files of a tokenizer, which may lie beside a CLIP's weights."""
    return [store.digest_path(path) for name in TOKENIZER_FILES if (path := folder / name).is_file()]


def audio_digest(config: Audio) -> str:
    """Digest of a sound encoder. Raises ValueError where there is no such model, or its package is not installed."""
    if config.encoder.startswith(OPENSMILE):
        return store.digest("audio", config.encoder, opensmile_version(config.encoder), AUDIO_VERSION)
    if config.encoder in OFFLINE_AUDIO:
        return store.digest("audio", config.encoder, FUNCTIONALS_VERSION)
    return store.digest(
        "audio", config.deciding("audio_features"), source_digest(config.encoder, config.revision), AUDIO_VERSION
    )


def opensmile_version(encoder: str) -> str:
    """The version of the package opensmile, which decides the values. Raises ValueError where it is not installed."""
    try:
        return metadata.version("opensmile")
    except metadata.PackageNotFoundError:
        raise ValueError(
            f"audio.encoder={encoder}: found no package opensmile, expected the extra of that name: "
            "pip install 'emo_ray[opensmile]', if your use is non-commercial, as its licence demands; "
            "audio.encoder=functionals computes the parameters of eGeMAPS without it"
        ) from None


def licence_notes(config: Config) -> list[str]:
    """What a reader must know of the licences of a config's encoders."""
    is_used = "audio" in config.modalities and not config.tables.audio and config.audio.encoder.startswith(OPENSMILE)
    words = "the sound encoder needs openSMILE, whose licence by audEERING allows non-commercial use alone"
    return [f"{words}: {config.audio.encoder}"] if is_used else []


def stand_in_notes(config: Config) -> list[str]:
    """What a reader must know where real clips meet the CLIP of the recipe mini, which has seen drawn faces alone."""
    sees_video = "video" in config.modalities and not config.tables.video
    if config.data.is_synthetic or not sees_video or config.emovclip.weights != _STAND_IN:
        return []
    return [
        f"warning: emovclip.weights={_STAND_IN}, the stand-in of the recipe mini, knows drawn faces alone: of real "
        "people's video expect little better than chance; the recipe small names encoders for real clips"
    ]


def recogniser_digest(config: Transcribe) -> str:
    """Digest of a speech recogniser that transformers runs. Raises ValueError where there is no such model."""
    assert config.model is not None
    settings = {"language": config.language, "dtype": config.dtype}
    return store.digest("transcripts", settings, source_digest(config.model, config.revision))


def text_digest(config: Text, readings: str | None = None, transcripts: str | None = None) -> str:
    """Digest of a text encoder; `readings` and `transcripts` are those of the tables that it is given, if any.

    Raises ValueError where there is no such model, or its code is not trusted or not pinned: before anything runs.
    """
    templates = [config.template, config.template_with_reading if readings else None, readings]
    templates += [transcripts] if transcripts else []
    if config.encoder in OFFLINE_TEXT:
        return store.digest("text", config.encoder, config.ngram_features, templates, TEXT_VERSION)
    check_code(config.encoder, config.revision, config.trust_remote_code)
    settings = config.model_dump(mode="json", include={"layers", "max_tokens", "dtype"})
    source = source_digest(config.encoder, config.revision)
    return store.digest("text", settings, templates, source, TEXT_VERSION)
