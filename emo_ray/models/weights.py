"""The pretrained weights that a config needs: whether they are on this machine, what is fetched, what they take.

Files are looked at and the model hub may be asked; no model is loaded, and torch is not imported unless a pretrained
tag of open_clip is a rare one.
"""

import json
import struct
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from emo_ray.config import Config
from emo_ray.config.model_settings import OFFLINE_AUDIO, OFFLINE_TEXT, OPENSMILE, Text
from emo_ray.models.clip_families import vision_shape
from emo_ray.models.clip_source import ClipSource, clip_source
from emo_ray.models.identity import opensmile_version
from emo_ray.models.pretrained_source import check_code, first_line

PATIENCE_S = 3.0  # with the model hub
_BYTES = {"fp32": 4, "bf16": 2, "int8": 1}
_FORMS = (("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json"))
_OTHER = {"audio.encoder": "functionals", "text.encoder": "ngrams"}  # what needs no weights in place of one that does
_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
# Where open_clip keeps the tags that our recipes name; others are looked up in open_clip, which takes seconds.
CLIP_REPOSITORIES = {
    ("ViT-B-16", "openai"): "timm/vit_base_patch16_clip_224.openai",
    ("ViT-L-14", "openai"): "timm/vit_large_patch14_clip_224.openai",
}
# Millions of parameters of the models that our recipes name, for machines that have neither them nor a network.
PARAMETERS_M = {
    "facebook/hubert-base-ls960": 94.4,
    "TencentGameMate/chinese-hubert-large": 315.4,
    "intfloat/multilingual-e5-small": 117.7,
    "Qwen/Qwen3-8B-Base": 8190.7,
    "Qwen/Qwen3-ASR-1.7B-hf": 2038.0,
}
_SAFETENSORS_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I8": 1, "U8": 1}


@dataclass(frozen=True)
class Weights:
    """The weights that a setting names. Sizes that nobody knows are None."""

    key: str
    name: str
    parameters: float | None
    parameter_bytes: int  # in memory
    fetched_bytes: float | None = 0.0  # of files that are to be fetched
    problem: str = ""  # why they cannot be had

    @property
    def memory_bytes(self) -> float:
        """What they take in memory; 0 where nobody knows."""
        return (self.parameters or 0) * self.parameter_bytes


def weights_of(config: Config, on_gpu: bool, ask_hub: bool = True) -> list[Weights]:
    """The pretrained weights of a config, in the order video, audio, text, transcripts; offline encoders have none."""
    weights: list[Weights] = []
    if "video" in config.modalities and not config.tables.video:
        weights.append(_clip(config, ask_hub))
    named = {
        "audio.encoder": (config.audio.encoder, config.audio.revision, config.audio.dtype),
        "text.encoder": (config.text.encoder, config.text.revision, config.text.dtype),
    }
    for key, (name, revision, dtype) in named.items():
        modality = key.partition(".")[0]
        is_used = modality in config.modalities and modality not in config.tables.given
        if is_used and name not in (*OFFLINE_AUDIO, *OFFLINE_TEXT):
            weights.append(_transformer(key, name, revision, _bytes(dtype, on_gpu), ask_hub))
    settings = config.transcribe
    if settings.model is not None and settings.url is None:
        width = _bytes(settings.dtype, on_gpu)
        weights.append(_transformer("transcribe.model", settings.model, settings.revision, width, ask_hub))
    return weights


def problems_of(config: Config, weights: Collection[Weights]) -> list[str]:
    """Why a config's encoders cannot be built, a line each: weights, packages, code that is not trusted."""
    problems = [entry.problem for entry in weights if entry.problem]
    is_at_hand = any(entry.key == "text.encoder" and not entry.problem and not entry.fetched_bytes for entry in weights)
    checks: list[Callable[[], object]] = []
    if any(entry.key == "text.encoder" for entry in weights):
        checks.append(lambda: check_packages(config.text))
    if is_at_hand:
        checks.append(lambda: check_code(config.text.encoder, config.text.revision, config.text.trust_remote_code))
    if "audio" in config.modalities and not config.tables.audio and config.audio.encoder.startswith(OPENSMILE):
        checks.append(lambda: opensmile_version(config.audio.encoder))
    for check in checks:
        try:
            check()
        except ValueError as error:
            problems.append(str(error))
    return problems


def check_packages(settings: Text) -> None:
    """Raises ValueError where packages are missing that an encoder of text needs for its type or its device map."""
    packages = {"accelerate"} if settings.device_map else set()
    packages |= {"accelerate", "bitsandbytes"} if settings.dtype == "int8" else set()
    if missing := sorted(name for name in packages if find_spec(name) is None):
        raise ValueError(
            f"found text.dtype={settings.dtype} and text.device_map={settings.device_map} without "
            f"{' and '.join(missing)}, expected it installed: pip install {' '.join(missing)}"
        )


def clip_parameters(source: ClipSource) -> float:
    """Parameters of a CLIP by its architecture, to a percent: blocks, embeddings and positions."""
    vision, text = source.architecture["vision_cfg"], source.architecture["text_cfg"]
    (width, layers, _), text_width = vision_shape(vision), text.get("width", 512)
    blocks = 12 * width**2 * layers
    text_blocks = 12 * text_width**2 * text.get("layers", 12)
    return float(blocks + text_blocks + text.get("vocab_size", 49408) * text_width)


def _bytes(dtype: str, on_gpu: bool) -> int:
    return _BYTES.get(dtype, 2 if on_gpu else 4)


def _clip(config: Config, ask_hub: bool) -> Weights:
    """The frozen CLIP, which is kept in float32."""
    key = "emovclip.weights"
    settings = config.emovclip
    try:
        source = clip_source(config)
    except ValueError as error:
        return Weights("emovclip.clip", settings.clip, None, 4, problem=str(error))
    parameters = clip_parameters(source)
    if not isinstance(source.weights, str):  # a file, a folder, or none
        is_lost = source.weights is not None and not source.weights.is_file()
        problem = f"emovclip.weights: found no file {source.weights}, expected weights" if is_lost else ""
        return Weights(key, source.name, parameters, 4, problem=problem)
    name = f"{source.name} {source.weights}"
    try:
        repository = CLIP_REPOSITORIES.get((source.name, source.weights)) or _clip_repository(source)
    except ValueError as error:
        return Weights(key, name, parameters, 4, problem=str(error))
    if repository is None or any(_cached(repository, file, None) for file in _CLIP_FILES):
        return Weights(key, name, parameters, 4)
    size, problem = _hub_size(repository, None, [(file, "") for file in _CLIP_FILES]) if ask_hub else (None, "")
    advice = "a local file or folder instead (docs/clip-weights.md)"
    if problem:
        problem = _unreachable(key, name, problem, advice)
    return Weights(key, name, parameters, 4, size or 4 * parameters, problem)


def _clip_repository(source: ClipSource) -> str | None:
    """The hub repository of a pretrained tag; None for one with another address. Raises ValueError for no tag."""
    from emo_ray.models.clip_library import open_clip

    tags = open_clip.list_pretrained_tags_by_model(source.name)
    if source.weights not in tags:
        raise ValueError(
            f"emovclip.weights: found {source.weights!r}, expected a file, or a pretrained tag of {source.name}: "
            f"{', '.join(tags) or 'there is none'}"
        )
    address = open_clip.get_pretrained_cfg(source.name, source.weights).get("hf_hub", "")
    return address.rpartition("/")[0] or None


def _transformer(key: str, name: str, revision: str | None, width: int, ask_hub: bool) -> Weights:
    """A model of transformers: a folder, or a name on the hub."""
    folder = Path(name)
    published_m = PARAMETERS_M.get(name)
    if folder.is_dir():
        files = weight_files(folder)
        problem = "" if files else f"{key}: found no weights in {name}, expected model.safetensors or pytorch_model.bin"
        return Weights(key, name, _parameters(files), width, problem=problem)
    if name[0] in "./~" or name.count("/") > 1:  # no name on the hub looks so
        return Weights(key, name, None, width, problem=f"{key}: found no folder {name}, expected one with a model")
    config_file = _cached(name, "config.json", revision)
    if config_file is not None and (files := weight_files(config_file.parent)):
        return Weights(key, name, _parameters(files), width)
    published = published_m and published_m * 1e6
    size, problem = _hub_size(name, revision, _FORMS) if ask_hub else (None, "")
    if size is None and published is not None:
        size = published * 2 if published > 1e9 else published * 4
    other = _OTHER.get(key)
    advice = "a folder with a copy" + (f", or an encoder that needs neither ({other})" if other else "")
    if problem:
        problem = _unreachable(key, name, problem, advice)
    return Weights(key, name, published or (size and size / 4), width, size, problem)


def _unreachable(key: str, name: str, reason: str, advice: str) -> str:
    return f"{key}: found {name} neither on this machine nor within reach ({reason}), expected a network, or {advice}"


def weight_files(folder: Path) -> list[Path]:
    """The files that transformers loads from a folder; none where one of them is missing."""
    for single, index in _FORMS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            parts = set(json.loads((folder / index).read_text(encoding="utf-8")).get("weight_map", {}).values())
            files = [folder / part for part in sorted(parts)]
            return files if all(file.is_file() for file in files) else []
    return []


def _parameters(files: Collection[Path]) -> float | None:
    """The number of parameters in files; those of pickles are taken for float32."""
    count = 0.0
    for file in files:
        if file.suffix != ".safetensors":
            count += file.stat().st_size / 4
            continue
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(length))
        for tensor in (entry for name, entry in header.items() if name != "__metadata__"):
            begin, end = tensor["data_offsets"]
            count += (end - begin) / _SAFETENSORS_BYTES.get(tensor["dtype"], 4)
    return count or None


def _cached(repository: str, file: str, revision: str | None) -> Path | None:
    """A file of a hub repository in this machine's cache."""
    from huggingface_hub import try_to_load_from_cache

    try:
        path = try_to_load_from_cache(repository, file, revision=revision)
    except ValueError:  # no name of a repository, such as a path
        return None
    return Path(path) if isinstance(path, str) else None


def _hub_size(repository: str, revision: str | None, forms: Collection[tuple[str, str]]) -> tuple[float | None, str]:
    """The bytes of a repository's weights, by the first form that it has; and why they cannot be had, if so."""
    from huggingface_hub import HfApi

    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=PATIENCE_S)
    except Exception as error:  # httpx's, huggingface_hub's and OSError: whatever a network can do
        return None, first_line(error) or type(error).__name__
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    for single, index in forms:
        if single in sizes:
            return float(sizes[single]), ""
        if index in sizes:
            prefix, suffix = single.rsplit(".", 1)
            parts = [size for name, size in sizes.items() if name.startswith(f"{prefix}-") and name.endswith(suffix)]
            return float(sum(parts)), ""
    return None, "it holds no weights that can be loaded"
