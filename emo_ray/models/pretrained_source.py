"""Frozen transformers models by hub name or folder: which weights a name stands for, and whose code they bring along.

Only JSON is read and nothing runs. transformers is imported (and torch with it) only to know whether it has a model of
its own for code that is not trusted.
"""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError

from emo_ray import store

_COMMIT = re.compile(r"[0-9a-f]{40}")


def source_digest(name: str, revision: str | None) -> str:
    """Digest of a folder's content, or of the commit that a hub name stands for.

    Raises ValueError where there is neither such a folder nor such a model on the hub or in its cache.
    """
    if store.local(Path(name)).is_dir():
        return store.digest_path(Path(name))
    try:
        path = hf_hub_download(name, "config.json", revision=revision)  # in the cache: snapshots/<commit>/config.json
    except (OSError, ValueError) as error:
        raise ValueError(_no_model(name, error)) from error
    return store.digest(name, Path(path).parent.name)


def custom_code(name: str, revision: str | None) -> dict[str, str]:
    """The code that a model brings along, as auto class -> `module.Class`; empty for models without any."""
    try:
        config = _read_json(name, "config.json", revision)
        tokenizer = _read_json(name, "tokenizer_config.json", revision, optional=True)
    except (OSError, ValueError) as error:
        raise ValueError(_no_model(name, error)) from error
    classes = dict(config.get("auto_map") or {})
    tokenizers = tokenizer.get("auto_map") or {}
    pair = tokenizers.get("AutoTokenizer") if isinstance(tokenizers, dict) else tokenizers  # slow and fast, in any form
    for i, reference in enumerate([pair] if isinstance(pair, str) else pair or []):
        if reference:
            classes[f"AutoTokenizer {i}"] = reference
    return classes


def check_code(name: str, revision: str | None, trusted: bool) -> dict[str, str]:
    """The classes of `custom_code`.

    Raises ValueError unless code is trusted where it is needed, and pinned where it is trusted.
    """
    is_folder = store.local(Path(name)).is_dir()
    if trusted and not is_folder and not _COMMIT.fullmatch(revision or ""):
        raise ValueError(
            f"found text.trust_remote_code=true with text.revision={revision}, expected a commit of {name} (40 hex "
            "digits): branches and tags can move to code that you have not read"
        )
    classes = custom_code(name, revision)
    pin = code_digest(Path(name)) if is_folder else "COMMIT (40 hex digits)"
    if not trusted and "AutoConfig" in classes and not _transformers_knows(name, revision):
        raise ValueError(
            f"{name}: found a model that needs code of its own, expected text.trust_remote_code=true and "
            f"text.revision={pin}: the code runs with your rights, so read its *.py files first"
        )
    if trusted and classes:
        foreign = sorted(c for c in classes.values() if "--" in c and c.split("--")[0] != name)
        if foreign:
            raise ValueError(
                f"{name}: found code in another repository ({foreign[0]}), expected all of it in the model's own, "
                "which text.revision pins: copy both into one folder, and take what is before -- out of its JSON files"
            )
        if is_folder and revision != pin:
            raise ValueError(
                f"{name}: found text.revision={revision} for code in a folder, expected text.revision={pin}, the "
                "digest of its *.py files: set it after you have read them"
            )
    return classes


def code_digest(folder: Path) -> str:
    """What pins the code in a folder: the content of its Python files."""
    files = sorted(folder.rglob("*.py"))
    return store.digest("code", [(file.relative_to(folder).as_posix(), file.read_bytes().hex()) for file in files])


def first_line(error: Exception) -> str:
    """The first line of an error's message; empty where it has none."""
    return next(iter(str(error).strip().splitlines()), "")


def _read_json(name: str, file: str, revision: str | None, optional: bool = False) -> dict[str, Any]:
    """A JSON file of a model, empty for one that a folder lacks.

    On the hub an optional one may be missing, or out of reach. Raises OSError or ValueError otherwise.
    """
    path = Path(name) / file
    if not store.local(Path(name)).is_dir():
        try:
            path = Path(hf_hub_download(name, file, revision=revision))
        except EntryNotFoundError:
            if not optional:
                raise
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found {type(content).__name__}, expected a mapping")
    return content


def _transformers_knows(name: str, revision: str | None) -> bool:
    """Whether transformers has a model of its own of the type that a model's config.json names."""
    from transformers import CONFIG_MAPPING  # seconds to import

    return _read_json(name, "config.json", revision).get("model_type") in CONFIG_MAPPING


def _no_model(name: str, error: Exception) -> str:
    return (
        f"found no model {name!r}, expected a local folder, a name on the model hub that this machine can reach, "
        "or an encoder that needs neither (audio.encoder=functionals or opensmile:eGeMAPSv02, text.encoder=ngrams): "
        f"{first_line(error)}"
    )
