"""Loading frozen transformers models, and the hidden states they give."""

import re
from typing import Any

import torch
from torch import nn

from emo_ray.models.pretrained_source import first_line

_NOT_IN_HIDDEN_STATES = re.compile(r"pooler|masked_spec_embed|lm_head")  # weights that may be missing


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
            f"{type(error).__name__}: {first_line(error)}"
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
