"""Checkpoints hold trained weights only and come back as they were."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from emo_ray.config import Config, override
from emo_ray.data.batch import Batch
from emo_ray.models import checkpoint, emovclip
from emo_ray.models.clip import load_clip, tensor_digest
from emo_ray.models.fusion import FusionHead
from emo_ray.models.state import load_trained, trained_state

CONFIG = override(Config(), {"emovclip.clip": "mini_clip.json", "fusion.hidden": 8, "media.frames": 2})
LABELS = ("a", "b", "c")


def test_emovclip_comes_back_without_its_frozen_part(tmp_path):
    model = emovclip.build(CONFIG, LABELS).eval()
    with torch.no_grad():
        model.time_TD.add_(1.0)
    checkpoint.write(tmp_path, trained_state(model), CONFIG, LABELS, "card")
    saved = load_file(tmp_path / checkpoint.WEIGHTS)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(saved) == trained | {"frozen_digest"}
    assert torch.equal(saved["frozen_digest"], tensor_digest(model.clip))
    frames = torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(checkpoint.load_emovclip(tmp_path)(frames).logits_BK, model(frames).logits_BK)
    assert checkpoint.read_config(tmp_path) == (CONFIG, LABELS)


def test_fusion_comes_back_with_its_scaling(tmp_path):
    scaling = {"audio": torch.stack([torch.randn(5), torch.rand(5) + 1]), "text": torch.ones(2, 3)}
    head = FusionHead(CONFIG.fusion, scaling, len(LABELS)).eval()
    checkpoint.write(tmp_path, trained_state(head), CONFIG, LABELS, "card")
    features = {"audio": torch.randn(4, 5), "text": torch.randn(4, 3)}
    batch = Batch(tuple("abcd"), torch.tensor([[False, True, True]] * 4), features=features)
    assert torch.equal(checkpoint.load_fusion(tmp_path)(batch).logits_BK, head(batch).logits_BK)


def test_weights_that_do_not_fit_are_refused():
    model = emovclip.build(CONFIG, LABELS)
    state = trained_state(emovclip.build(override(CONFIG, {"emovclip.global_prompts": 3}), LABELS))
    with pytest.raises(ValueError, match="global_GD"):
        load_trained(model, state)
    state.pop("logit_scale")
    with pytest.raises(ValueError, match="logit_scale"):
        load_trained(model, state)


def test_a_checkpoint_is_refused_on_another_clip(tmp_path):
    frozen = load_clip(CONFIG).state_dict()
    save_file(frozen, tmp_path / "clip.safetensors")
    config = override(CONFIG, {"emovclip.weights": str(tmp_path / "clip.safetensors")})
    checkpoint.write(tmp_path, trained_state(emovclip.build(config, LABELS)), config, LABELS, "card")
    checkpoint.load_emovclip(tmp_path)
    frozen["visual.conv1.weight"][0, 0, 0, 0] += 1e-3
    save_file(frozen, tmp_path / "clip.safetensors")  # the same name, architecture and shapes
    with pytest.raises(
        ValueError, match=r"found weights trained on another CLIP \(digest [0-9a-f]{32}\), expected"
    ) as error:
        checkpoint.load_emovclip(tmp_path)
    assert str(tmp_path) in str(error.value)
    state = trained_state(emovclip.build(config, LABELS))
    with pytest.raises(ValueError, match="another CLIP"):
        load_trained(emovclip.build(override(CONFIG, {"seed": 1}), LABELS), state)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint.read_config(tmp_path)
