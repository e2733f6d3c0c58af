"""Loading frozen transformers models, and the hidden states they give."""

import re
from typing import TYPE_CHECKING, Any

import torch

from emo_ray.models.pretrained_source import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NOT_IN_HIDDEN_STATES = re.compile(r"pooler|masked_spec_embed|lm_head")  # weights that may be missing


def load(auto: Any, name: str, **kwargs: Any) -> Any:
    """`auto.from_pretrained(name, ...)`, with one ValueError for whatever fails in it.

    A model's own code runs only with `trust_remote_code=True`: left out, transformers would ask at the terminal.
    """
    from transformers import __version__  # seconds to import

    try:
        return auto.from_pretrained(name, **{"trust_remote_code": False} | kwargs)
    except Exception as error:
        custom_code = kwargs.get("trust_remote_code", False)  # may fail in any way, and none of them is our bug
        if not custom_code and not isinstance(error, OSError | ValueError | ImportError):
            raise
        expected = "a whole model folder or a name on the model hub" + ", with code for it" * custom_code
        raise ValueError(
            f"{name}: found nothing that {auto.__name__} of transformers {__version__} can load, expected {expected}: "
            f"{type(error).__name__}: {first_line(error)}"
        ) from error


def load_body(auto: Any, name: str, **kwargs: Any) -> "PreTrainedModel":
    """The part of a model that makes hidden states, frozen: without a head, and of an encoder-decoder the encoder.

    Raises ValueError where some of its weights are missing: transformers would draw them at random.
    """
    model, loading = load(auto, name, output_loading_info=True, **kwargs)
    body = model.get_encoder() if getattr(model.config, "is_encoder_decoder", False) else model.base_model
    path_of_body = next(path for path, module in model.named_modules() if module is body)
    prefix = f"{path_of_body}." if path_of_body else ""
    missing_in_body = [key for key in loading["missing_keys"] if key.startswith(prefix)]
    if missing := sorted(key for key in missing_in_body if not _NOT_IN_HIDDEN_STATES.search(key)):
        raise ValueError(
            f"{name}: found no weights for {missing[0]} ({len(missing)} like it), expected a whole checkpoint of "
            f"{type(model).__name__}: copy it again, or mend its config.json"
        )
    body.config.use_cache = False  # keys and values are never used again
    return body.requires_grad_(False).eval()


def hidden_states(body: "PreTrainedModel", **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The input of the first layer and the output of each layer, all (B, L, D)."""
    states = getattr(body(**inputs, output_hidden_states=True, return_dict=True), "hidden_states", None)
    if states is None:
        raise ValueError(f"found a {type(body).__name__} that gives no hidden states, expected a transformer encoder")
    return states


def dtype_on(device: torch.device, setting: str) -> torch.dtype:
    """The dtype that `auto`, `fp32` or `bf16` means on a device: `auto` is bf16 on GPUs that have it, else fp32."""
    auto_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if setting == "bf16" or (setting == "auto" and auto_bf16) else torch.float32


def cast(body: "PreTrainedModel", setting: str) -> None:
    """Cast a model to the dtype that a setting means on the model's device."""
    body.to(dtype_on(body.device, setting))  # type: ignore[arg-type]  # transformers' decorator hides `self`


def check_finite(features_BD: torch.Tensor, clip_ids: tuple[str, ...], section: str) -> None:
    """Raises ValueError where a model made NaN or infinity of a good input, which is its fault and not the clip's."""
    finite_B = features_BD.isfinite().all(dim=1)
    if not finite_B.all():
        worst = clip_ids[int((~finite_B).nonzero()[0])]
        raise ValueError(
            f"clip {worst!r}: found a feature that is not finite, expected numbers: the weights of {section}.encoder "
            f"are damaged, or overflow: try {section}.dtype=fp32"
        )
