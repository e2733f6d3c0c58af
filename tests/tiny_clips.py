"""What the tests of EmoVCLIP share: classes, settings without prompts, and random frames."""

import torch

LABELS = ("neutral", "very_happy", "sad")
UNPROMPTED = {
    "emovclip.global_prompts": 0,
    "emovclip.local_prompts": False,
    "emovclip.summary_prompt": False,
    "emovclip.time_embedding": False,
}
OFF = UNPROMPTED | {"emovclip.context_tokens": 0}


def frames_of(clips, frames=4, size=32, seed=0):
    """Random frames_BTCHW, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (clips, frames, 3, size, size), dtype=torch.uint8, generator=generator)
