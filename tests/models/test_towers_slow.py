"""Architectures at full size: all that fit are built on the meta device, and one of each family takes a step."""

import json
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from tiny_towers import write_tokenizer

from emo_ray.config import Config, override
from emo_ray.models import emovclip
from emo_ray.models.clip import _build
from emo_ray.models.clip_families import vision_shape
from emo_ray.models.clip_source import clip_source, open_clip_configs
from emo_ray.models.tower_text import TextTower

pytestmark = pytest.mark.slow
LABELS = ("neutral", "happy", "sad")


def sources():
    """The architectures that are not refused from their files alone."""
    for name in open_clip_configs():
        with suppress(ValueError):
            yield clip_source(override(Config(), {"emovclip.clip": name}))


def test_every_architecture_that_is_not_refused_is_taken_apart():
    for source in sources():
        with torch.device("meta"):
            clip = _build(source.architecture, {})
        tower, text = emovclip.tower_of(clip), TextTower(clip)
        assert tower.dim == source.architecture["embed_dim"], source.name
        assert tuple(tower.image_size) == (source.native_size,) * 2, source.name
        shape = (tower.width, len(tower.blocks), round(tower.patch_area**0.5))
        assert shape == vision_shape(source.architecture["vision_cfg"]), source.name
        assert text.blocks, source.name


@pytest.mark.parametrize(
    "name", ["ViT-B-16-SigLIP2", "PE-Core-B-16", "EVA02-B-16", "MobileCLIP-B", "ViT-L-14-CLIPA", "ViT-L-14-worldwide"]
)
def test_a_step_at_full_size(tmp_path, name):
    architecture = json.loads(open_clip_configs()[name].read_text())
    if architecture["text_cfg"].get("hf_tokenizer_name"):
        write_tokenizer(tmp_path / "full.tokenizer", "SigLIP 2" if "SigLIP" in name else "MetaCLIP 2")
        if architecture["text_cfg"].get("pool_type") == "eos":
            architecture["text_cfg"]["eos_id"] = 2  # that of the tokenizer here
    (tmp_path / "full.json").write_text(json.dumps(architecture))
    settings = {"emovclip.clip": str(tmp_path / "full.json"), "media.frames": 2, "emovclip.lora.rank": 8}
    model = emovclip.build(override(Config(), settings), LABELS).train()
    side = model.tower.image_size[0]
    frames = torch.randint(0, 256, (1, 2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    F.cross_entropy(model(frames).logits_BK, torch.tensor([1])).backward()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained.values())
    print(name, sum(p.numel() for p in trained.values()), sum(p.numel() for n, p in trained.items() if "lora" in n))
