"""What a config's models take in memory, estimated from their sizes before any of them is loaded.

Parameters are counted; activations of EmoVCLIP's training are those that autograd keeps, about 20 bytes in bfloat16 for
each layer, token and channel of a frame (0.28 GB for a clip of 8 frames on ViT-B/16, 1.01 GB on ViT-L/14: the sums of
the saved tensors), and twice as many in float32. The others are rounded up. Measured on a processor: 3.4 GB for a step
of the recipe small, for which this says 3.4.
"""

from collections.abc import Sequence

from emo_ray.config import Config
from emo_ray.models.clip_families import vision_shape
from emo_ray.models.clip_source import clip_source, image_size
from emo_ray.models.weights import Weights

_KEPT_BYTES = 20  # by autograd for each layer, token and channel, in bfloat16
_TRAINED_SHARE = 5.5  # trained parameters of a block, as a multiple of its width squared
_OPTIMISER_BYTES = 16  # a trained parameter, its gradient and AdamW's two moments
_WORKING_BYTES = 2e9  # activations of frozen encoders, and what CUDA takes for itself
_RUNTIME_BYTES = 1e9  # what torch or CUDA take beside a training


def memory_by_step(config: Config, weights: Sequence[Weights], on_gpu: bool) -> dict[str, float]:
    """Bytes that each step of a job needs at once, in one process: step -> bytes; steps without models are left out."""
    of_key = {entry.key.partition(".")[0]: entry.memory_bytes for entry in weights}
    frozen = of_key.get("audio", 0.0) + of_key.get("text", 0.0)
    steps: dict[str, float] = {}
    if "emovclip" in of_key:
        steps["training EmoVCLIP"] = of_key["emovclip"] + _training_bytes(config, of_key["emovclip"], on_gpu)
    if frozen:
        steps["encoding sound and text"] = frozen + _WORKING_BYTES
    if "transcribe" in of_key:
        steps["transcribing"] = of_key["transcribe"] + _WORKING_BYTES
    if frozen and "emovclip" in of_key:
        steps["predicting with all of them"] = frozen + of_key["emovclip"] + _WORKING_BYTES
    return steps


def _training_bytes(config: Config, clip_bytes: float, on_gpu: bool) -> float:
    """What training EmoVCLIP takes beside the frozen CLIP: trained parameters, copies in bfloat16, activations."""
    width, layers, patch = vision_shape(clip_source(config).architecture["vision_cfg"])
    trained = _TRAINED_SHARE * width**2 * layers + 12 * width**2 * config.emovclip.unfreeze_blocks
    is_half = config.train.precision == "bf16" or (config.train.precision == "auto" and on_gpu)
    copies = 2 * (clip_bytes / 4 + trained) if is_half else 0.0
    tokens = (image_size(config) // patch) ** 2 + 1
    share = config.emovclip.batch_size // config.train.shares
    clips = min(config.emovclip.micro_batch_size or share, share)
    kept = _KEPT_BYTES * (1 if is_half else 2) * layers * tokens * width * config.media.frames * clips
    return _OPTIMISER_BYTES * trained + copies + kept + _RUNTIME_BYTES
