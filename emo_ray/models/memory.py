"""What a config's models take in memory, estimated from their sizes before any of them is loaded.

Parameters are counted; activations of EmoVCLIP's training are those that autograd keeps, about 20 bytes in bfloat16 for
each layer, token and channel of a frame (0.28 GB for a clip of 8 frames on ViT-B/16, 1.01 GB on ViT-L/14), and twice as
many in float32. Layers with low-rank updates or trained weights keep their inputs too: 10 bytes more. The others are
rounded up. Measured are steps (docs/bench.md): of ViT-L/14 with 16 frames on an H100 18.8 GB for 8 clips and 69.7 for
32, without AdamW's moments (1.1 GB) and what CUDA takes, for which this says 22.2 and 70.7; with low-rank updates 26.7
for 8 clips; on a processor 3.4 GB for a step of the recipe small, for which this says 3.4.
"""

from collections.abc import Sequence

from emo_ray.config import Config
from emo_ray.models.clip_families import vision_shape
from emo_ray.models.clip_source import clip_source, image_size
from emo_ray.models.weights import Weights

_KEPT_BYTES = 20  # by autograd for each layer, token and channel, in bfloat16
_INPUT_BYTES = 10  # beside them, in blocks whose weights are trained or updated
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
    lora = config.emovclip.lora
    width, layers, patch = vision_shape(clip_source(config).architecture["vision_cfg"])
    trained = _TRAINED_SHARE * width**2 * layers + 12 * width**2 * config.emovclip.unfreeze_blocks
    is_half = config.train.precision == "bf16" or (config.train.precision == "auto" and on_gpu)
    copies = 2 * (clip_bytes / 4 + trained) if is_half else 0.0
    tokens = (image_size(config) // patch) ** 2 + 1
    share = config.emovclip.batch_size // config.train.shares
    clips = min(config.emovclip.micro_batch_size or share, share)
    updated = (layers if lora.blocks is None else lora.blocks) if lora.rank and "vision" in lora.towers else 0
    with_inputs = max(updated, config.emovclip.unfreeze_blocks)
    kept_bytes = (_KEPT_BYTES * layers + _INPUT_BYTES * with_inputs) * (1 if is_half else 2)
    kept = kept_bytes * tokens * width * config.media.frames * clips
    return _OPTIMISER_BYTES * trained + copies + kept + _RUNTIME_BYTES
