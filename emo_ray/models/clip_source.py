"""Which CLIP a config names: its architecture, its weights and its size of images, told from files alone.

Neither torch nor open_clip is imported, so a job whose results exist can compute their names at once. Only
`clip.check_tag` knows which pretrained tags there are.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emo_ray import store
from emo_ray.config import RECIPES, Config
from emo_ray.models.clip_families import text_family, vision_family
from emo_ray.models.clip_folders import read_folder, read_json


@dataclass(frozen=True)
class ClipSource:
    """The CLIP that a config names; nothing of it is loaded yet."""

    name: str  # of the architecture, or the folder
    architecture: dict[str, Any]  # open_clip's model config
    weights: Path | str | None  # a file, a pretrained tag, or None: random
    folder: Path | None = None  # a whole CLIP, which brings weights and pixel statistics of its own
    statistics: dict[str, Any] = field(
        default_factory=dict
    )  # the folder's `mean` and `std` of pixels, where it has any
    json_file: Path | None = None  # the file of the architecture, where it is not one of open_clip's
    merges: Path | None = None  # byte-pair merges of the tokenizer, beside json_file
    tokenizer: Path | None = None  # folder of another tokenizer than CLIP's: the CLIP's folder, or one beside json_file

    @property
    def native_size(self) -> int:
        """The side in pixels of the square images that the weights were trained on."""
        size = self.architecture["vision_cfg"].get("image_size", 224)
        sides = {size} if isinstance(size, int) else set(size)
        if len(sides) != 1:
            raise ValueError(f"emovclip.clip={self.name}: found image size {size}, expected a square")
        return sides.pop()


def clip_source(config: Config) -> ClipSource:
    """The CLIP of `emovclip.clip` and `emovclip.weights`.

    Raises ValueError for files and architectures that do not exist, and for weights that do not go with them.
    """
    name, weights = config.emovclip.clip, config.emovclip.weights
    path = _shipped(name)
    if path.is_dir():
        if weights is not None:
            raise ValueError(
                f"emovclip.weights: found {weights!r} with the folder {name} as emovclip.clip, expected none, "
                "for a folder brings its own: set emovclip.weights=null"
            )
        published = read_folder(path)
        source = ClipSource(
            name, published.architecture, published.weights, path, published.statistics, tokenizer=published.tokenizer
        )
    elif name.endswith(".json"):
        merges, tokenizer = path.with_suffix(".bpe.gz"), path.with_suffix(".tokenizer")
        source = ClipSource(
            path.stem,
            _architecture_of_file(name, path),
            _weights(weights),
            json_file=path,
            merges=merges if merges.is_file() else None,
            tokenizer=tokenizer if tokenizer.is_dir() else None,
        )
    else:
        source = ClipSource(name, _architecture_of_open_clip(name), _weights(weights))
    try:
        vision_family(source.architecture["vision_cfg"])
        text_family(source.architecture)
    except ValueError as error:
        raise ValueError(f"emovclip.clip={name}: found {error}: docs/towers.md lists what fits") from None
    if source.folder or source.json_file:
        _check_tokenizer(source)
    return source


def image_size(config: Config) -> int:
    """The side in pixels of the square images that the CLIP of this config takes, without building it.

    It is `media.image_size` where that is set, which may be any multiple of the patch. Raises ValueError for others.
    """
    source, size = clip_source(config), config.media.image_size
    native = source.native_size
    if size is None or size == native:
        return native
    vision = source.architecture["vision_cfg"]
    patch = None if vision.get("timm_model_name") else vision.get("patch_size", 16)
    if not isinstance(patch, int):
        raise ValueError(f"media.image_size: found {size}, expected {native}, the size of {source.name}")
    if size % patch:
        below = size // patch * patch
        near = " or ".join(str(side) for side in (below, below + patch) if side)
        raise ValueError(
            f"media.image_size: found {size}, expected {near}: the patches of {source.name} are {patch} pixels wide"
        )
    return size


def description(config: Config) -> str:
    """The CLIP and its weights in a few words, for people."""
    name, weights = config.emovclip.clip, config.emovclip.weights
    if _shipped(name).is_dir():
        return f"{name}, its own weights"
    return f"{name}, weights {weights or 'random (no pretraining)'}"


@cache
def open_clip_configs() -> dict[str, Path]:
    """The model configs that open_clip ships, by the names of the architectures."""
    package = find_spec("open_clip")
    assert package is not None, "open_clip is a dependency"
    folders = (Path(location) / "model_configs" for location in package.submodule_search_locations or ())
    return {path.stem: path for folder in folders for path in sorted(folder.glob("*.json"))}


def _architecture_of_file(name: str, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"emovclip.clip: found no file {name}, expected an open_clip model config")
    architecture = read_json(path)
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in architecture]
    if missing:
        raise ValueError(f"emovclip.clip: found no {', '.join(missing)} in {name}, expected an open_clip model config")
    return architecture


def _architecture_of_open_clip(name: str) -> dict[str, Any]:
    configs = open_clip_configs()
    if name not in configs:
        raise ValueError(
            f"emovclip.clip: found {name!r}, expected a folder with a CLIP, or one of {', '.join(configs)}"
        )
    return read_json(configs[name])


def _check_tokenizer(source: ClipSource) -> None:
    """Raises ValueError where files from elsewhere ask for a tokenizer by name, which may bring code, or configure it.

    Files of a tokenizer beside them are read, no code with them. Some of open_clip's architectures name a tokenizer
    and are trusted as open_clip is.
    """
    text = source.architecture["text_cfg"]
    options = text.get("tokenizer_kwargs", {})
    if text.get("hf_tokenizer_name") and source.tokenizer is None:
        entry = f"hf_tokenizer_name {text['hf_tokenizer_name']!r}"
    elif not isinstance(options, dict) or options.keys() - {"clean", "strip_sep_token"}:
        entry = f"tokenizer_kwargs {options}"
    else:
        return
    raise ValueError(
        f"emovclip.clip={source.name}: found {entry}, expected CLIP's own tokenizer with `clean` at most, or the files "
        "of another in the folder (beside a JSON file: in a folder of its name that ends in .tokenizer)"
    )


def _weights(weights: str | None) -> Path | str | None:
    """A file as its path, a pretrained tag as it stands. Raises ValueError for a folder."""
    if weights is None:
        return None
    path = _shipped(weights)
    if path.is_dir():
        raise ValueError(f"emovclip.weights: found the folder {path}, expected a file: folders go to emovclip.clip")
    return path if path.exists() else weights


def _shipped(name: str) -> Path:
    """The path of a file of the user's, or of one that lies beside our recipes."""
    return Path(name) if store.local(Path(name)).exists() else RECIPES / name
