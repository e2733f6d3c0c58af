"""Frozen transformers models by hub name or folder: where they come from, whose code they run, and their loading."""

import re
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from torch import nn

from emo_ray import store

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NOT_IN_HIDDEN_STATES = re.compile(r"pooler|masked_spec_embed|lm_head")  # weights that may be missing


def source_digest(name: str, revision: str | None) -> str:
    """A folder's content, or the commit that a hub name stands for. Raises ValueError where neither is to be had."""
    if Path(name).is_dir():
        return store.digest_path(Path(name))
    try:
        path = hf_hub_download(name, "config.json", revision=revision)  # in the cache: snapshots/<commit>/config.json
    except (OSError, ValueError) as error:
        raise ValueError(_no_model(name, error)) from error
    return store.digest(name, Path(path).parent.name)


def load(auto: Any, name: str, **kwargs: Any) -> Any:
    """`auto.from_pretrained(name, ...)`; what fails in it is one ValueError."""
    from transformers import __version__  # seconds to import

    try:
        return auto.from_pretrained(name, **kwargs)
    except Exception as error:
        own_code = kwargs.get("trust_remote_code", False)  # may fail in any way, and no way of it is a bug of ours
        if not own_code and not isinstance(error, OSError | ValueError | ImportError):
            raise
        expected = "a whole model folder or a name on the model hub" + ", with code for it" * own_code
        raise ValueError(
            f"{name}: found nothing that {auto.__name__} of transformers {__version__} can load, expected {expected}: "
            f"{type(error).__name__}: {_first_line(error)}"
        ) from error


def load_body(auto: Any, name: str, **kwargs: Any) -> nn.Module:
    """The part of a model that makes hidden states, frozen: no head, and of an encoder-decoder the encoder alone.

    Raises ValueError where its weights are not all there: transformers would draw the others at random.
    """
    model, found = load(auto, name, output_loading_info=True, **kwargs)
    body = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model.base_model
    place = next(path for path, module in model.named_modules() if module is body)
    wanted = [key for key in found["missing_keys"] if key.startswith(f"{place}." if place else "")]
    if missing := sorted(key for key in wanted if not _NOT_IN_HIDDEN_STATES.search(key)):
        raise ValueError(
            f"{name}: found no weights for {missing[0]} ({len(missing)} like it), expected a whole checkpoint of "
            f"{type(model).__name__}: copy it again, or mend its config.json"
        )
    body.config.use_cache = False  # keys and values of a text are of no use after it
    return body.requires_grad_(False).eval()


def hidden_states(body: nn.Module, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What enters the first layer and leaves each, (B, L, D) all of them."""
    states = getattr(body(**inputs, output_hidden_states=True, return_dict=True), "hidden_states", None)
    if states is None:
        raise ValueError(f"found a {type(body).__name__} that gives no hidden states, expected a transformer encoder")
    return states


def dtype_on(device: torch.device, setting: str) -> torch.dtype:
    """What `auto`, `fp32` and `bf16` mean on a device: `auto` is bf16 on GPUs that have it, and fp32 elsewhere."""
    auto_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if setting == "bf16" or (setting == "auto" and auto_bf16) else torch.float32


def check_finite(features_BD: torch.Tensor, clip_ids: tuple[str, ...], section: str) -> None:
    """Raises ValueError where a model made something else than numbers of sound input: its fault, not the clip's."""
    finite_B = features_BD.isfinite().all(dim=1)
    if not finite_B.all():
        worst = clip_ids[int((~finite_B).nonzero()[0])]
        raise ValueError(
            f"clip {worst!r}: found a feature that is not finite, expected numbers: the weights of {section}.encoder "
            f"are damaged, or overflow: try {section}.dtype=fp32"
        )


def own_code(name: str, revision: str | None) -> tuple[dict[str, str], bool]:
    """The code that a model brings along, as auto class -> `module.Class`, and whether transformers needs it.

    Reads JSON alone and runs nothing.
    """
    from transformers import CONFIG_MAPPING, PreTrainedConfig
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    try:
        config, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
        tokenizer = get_tokenizer_config(name, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(_no_model(name, error)) from error
    classes = dict(config.get("auto_map") or {})
    tokenizers = tokenizer.get("auto_map") or {}
    pair = tokenizers.get("AutoTokenizer") if isinstance(tokenizers, dict) else tokenizers  # slow and fast, in any form
    for i, reference in enumerate([pair] if isinstance(pair, str) else pair or []):
        if reference:
            classes[f"AutoTokenizer {i}"] = reference
    needed = "AutoConfig" in classes and config.get("model_type") not in CONFIG_MAPPING
    return classes, needed


def check_code(name: str, revision: str | None, trusted: bool) -> dict[str, str]:
    """`own_code`'s classes. Raises ValueError unless code is trusted where it is needed, and pinned where trusted."""
    is_folder = Path(name).is_dir()
    if trusted and not is_folder and not _COMMIT.fullmatch(revision or ""):
        raise ValueError(
            f"found text.trust_remote_code=true with text.revision={revision}, expected a commit of {name} (40 hex "
            "digits): branches and tags can move to code that you have not read"
        )
    classes, needed = own_code(name, revision)
    pin = code_digest(Path(name)) if is_folder else "COMMIT (40 hex digits)"
    if needed and not trusted:
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


def _no_model(name: str, error: Exception) -> str:
    return (
        f"found no model {name!r}, expected a local folder, a name on the model hub that this machine can reach, "
        f"or an offline encoder (audio.encoder=functionals, text.encoder=ngrams): {_first_line(error)}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")
