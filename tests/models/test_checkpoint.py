"""Checkpoints hold trained weights only and come back as they were."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from emo_ray.config import Config, override
from emo_ray.data.batch import FeatureBatch, unlabelled
from emo_ray.models import checkpoint, checkpoint_files, emovclip
from emo_ray.models.checkpoint import resampled
from emo_ray.models.clip import load_clip, tensor_digest
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import load_trained, trained_state

CONFIG = override(Config(), {"emovclip.clip": "mini_clip.json", "fusion.hidden": 8, "media.frames": 2})
LABELS = ("a", "b", "c")
SHIPPED = override(CONFIG, {"emovclip.weights": "mini_clip.safetensors"})  # the same CLIP for every seed


def test_emovclip_comes_back_without_its_frozen_part(tmp_path):
    model = emovclip.build(CONFIG, LABELS).eval()
    with torch.no_grad():
        model.time_TD.add_(1.0)
    checkpoint.write(tmp_path, trained_state(model), CONFIG, LABELS, "card")
    saved = load_file(tmp_path / checkpoint_files.WEIGHTS)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(saved) == trained | {"frozen_digest"}
    assert torch.equal(saved["frozen_digest"], tensor_digest(model.clip))
    frames = torch.randint(0, 256, (2, 2, 3, 64, 64), dtype=torch.uint8)
    assert torch.equal(checkpoint.load_emovclip(tmp_path)(frames).logits_BK, model(frames).logits_BK)
    assert checkpoint_files.read_config(tmp_path) == (CONFIG, LABELS)


def test_fusion_comes_back_with_its_scaling(tmp_path):
    scaling = {"audio": torch.stack([torch.randn(5), torch.rand(5) + 1]), "text": torch.ones(2, 3)}
    head = FusionHead(CONFIG.fusion, scaling, len(LABELS)).eval()
    checkpoint.write(tmp_path, trained_state(head), CONFIG, LABELS, "card")
    features = {"audio": torch.randn(4, 5), "text": torch.randn(4, 3)}
    batch = FeatureBatch(
        clip_ids=tuple("abcd"),
        present_BM=torch.tensor([[False, True, True]] * 4),
        label_B=unlabelled(4),
        features=features,
    )
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
    with pytest.raises(ValueError, match=r"another CLIP \(digest [0-9a-f]{32}\), .*emovclip\.clip") as error:
        checkpoint.load_emovclip(tmp_path)
    assert str(tmp_path) in str(error.value)
    state = trained_state(emovclip.build(config, LABELS))
    with pytest.raises(ValueError, match="another CLIP"):
        load_trained(emovclip.build(override(CONFIG, {"seed": 1}), LABELS), state)


def test_tables_over_time_are_read_at_the_middles_of_equal_stretches():
    ramp_TD = torch.arange(8.0)[:, None] * torch.tensor([1.0, -2.0]) + 3
    state = {"time_TD": ramp_TD, "prompts.1.local_TD": torch.full((8, 2), 5.0), "prompts.1.global_GD": ramp_TD}
    for frames in (1, 2, 4, 8, 12, 16):
        tables = resampled(state, frames)
        assert tables["time_TD"].shape == tables["prompts.1.local_TD"].shape == (frames, 2)
        assert torch.equal(tables["prompts.1.local_TD"], torch.full((frames, 2), 5.0))
        assert tables["prompts.1.global_GD"] is ramp_TD
        middles_T = (torch.arange(frames) + 0.5) * 8 / frames - 0.5  # in rows of the old table
        inside_T = (middles_T >= 0) & (middles_T <= 7)
        expected_TD = middles_T[:, None] * torch.tensor([1.0, -2.0]) + 3
        torch.testing.assert_close(tables["time_TD"][inside_T], expected_TD[inside_T])
        assert inside_T.sum() >= frames / 2
    assert resampled(state, 8)["time_TD"] is ramp_TD


def write_trained(folder, changes=None, labels=LABELS):
    """Write a checkpoint with changed values in every trained tensor, and return its state."""
    config = override(SHIPPED, {"seed": 3, "media.frames": 4} | (changes or {}))
    model = emovclip.build(config, labels)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    folder.mkdir(parents=True)
    checkpoint.write(folder, trained_state(model), config, labels, "card")
    return trained_state(model)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_training_starts_from_prompts_of_clips_with_other_frames(tmp_path, inside, pooling):
    state = write_trained(tmp_path / "emovclip" if inside else tmp_path / "run", {"emovclip.pooling": pooling})
    start = {"emovclip.start_from": str(tmp_path if inside else tmp_path / "run"), "emovclip.pooling": pooling}
    for frames, size in ((4, 64), (8, 32)):
        config = override(SHIPPED, start | {"media.frames": frames, "media.image_size": size})
        model = checkpoint.fresh_emovclip(config, LABELS)
        started = trained_state(model)
        assert started.keys() == state.keys()
        assert {name for name in state if started[name].shape != state[name].shape} == (
            set() if frames == 4 else {name for name in state if name.endswith(("time_TD", "local_TD"))}
        )
        assert all(torch.equal(started[name], value) for name, value in resampled(state, frames).items())
        images = torch.zeros(1, frames, 3, size, size, dtype=torch.uint8)
        assert torch.isfinite(model(images).logits_BK).all()
    longer = checkpoint.load_emovclip(tmp_path / ("emovclip" if inside else "run"), frames=6)
    assert longer(torch.zeros(1, 6, 3, 64, 64, dtype=torch.uint8)).logits_BK.shape == (1, 3)


def test_without_a_start_prompts_are_new():
    fresh, built = checkpoint.fresh_emovclip(CONFIG, LABELS).state_dict(), emovclip.build(CONFIG, LABELS).state_dict()
    assert all(torch.equal(fresh[name], value) for name, value in built.items())


def test_a_start_with_contexts_of_other_classes_is_refused_unless_they_are_shared(tmp_path):
    write_trained(tmp_path / "own")
    write_trained(tmp_path / "shared", {"emovclip.class_specific_context": False})
    write_trained(tmp_path / "none", {"emovclip.context_tokens": 0})
    config = override(SHIPPED, {"emovclip.start_from": str(tmp_path / "own")})
    for labels in (("b", "a", "c"), ("a", "b", "c", "d")):
        with pytest.raises(ValueError, match=r"emovclip\.start_from: .*a, b, c in .*own"):
            checkpoint.fresh_emovclip(config, labels)
        for name, changes in [("shared", {"class_specific_context": False}), ("none", {"context_tokens": 0})]:
            changes = {f"emovclip.{key}": value for key, value in changes.items()}
            checkpoint.fresh_emovclip(
                override(SHIPPED, changes | {"emovclip.start_from": str(tmp_path / name)}), labels
            )


def test_a_start_that_does_not_fit_is_refused(tmp_path):
    write_trained(tmp_path / "own")
    start = {"emovclip.start_from": str(tmp_path / "own")}
    with pytest.raises(ValueError, match=r"own: .*global_GD"):
        checkpoint.fresh_emovclip(override(SHIPPED, start | {"emovclip.global_prompts": 3}), LABELS)
    with pytest.raises(ValueError, match=r"own: .*another CLIP"):
        checkpoint.fresh_emovclip(override(SHIPPED, start | {"emovclip.weights": None, "seed": 1}), LABELS)
    head = FusionHead(CONFIG.fusion, {"text": torch.ones(2, 3)}, len(LABELS))
    (tmp_path / "head").mkdir()
    checkpoint.write(tmp_path / "head", trained_state(head), CONFIG, LABELS, "card")
    for name, message in [("head", "found no EmoVCLIP in"), ("nowhere", "found no checkpoint")]:
        with pytest.raises(ValueError, match=message):
            checkpoint.fresh_emovclip(override(SHIPPED, {"emovclip.start_from": str(tmp_path / name)}), LABELS)


def write_head(folder, modalities=("audio", "text"), labels=LABELS, hidden=8):
    """Write a checkpoint of a head with random scaling, and return its state."""
    config = override(CONFIG, {"fusion.hidden": hidden})
    head = FusionHead(config.fusion, {name: torch.randn(2, 5).abs() + 1 for name in modalities}, len(labels))
    folder.mkdir()
    checkpoint.write(folder, trained_state(head), config, labels, "card")
    return trained_state(head)


def test_training_starts_from_a_head_with_its_scaling_and_new_dropout(tmp_path):
    state, other = write_head(tmp_path / "a"), {"text": torch.ones(2, 5)}
    start = override(CONFIG, {"fusion.start_from": str(tmp_path / "a"), "fusion.dropout": 0.7})
    head = checkpoint.fresh_fusion(start, other, LABELS)
    assert head.training
    assert head.dropout == 0.7
    assert all(torch.equal(value, state[name]) for name, value in trained_state(head).items())
    new = checkpoint.fresh_fusion(CONFIG, other, LABELS)
    assert set(new.project) == {"text"}
    assert torch.equal(new.scaling_text, other["text"])


def test_a_head_that_does_not_fit_is_no_start(tmp_path):
    write_head(tmp_path / "a")
    write_trained(tmp_path / "prompts")
    scaling = {"audio": torch.ones(2, 5)}

    def start(name, labels=LABELS, scaling=scaling, **changes):
        changes = {"fusion.start_from": str(tmp_path / name), **changes}
        return checkpoint.fresh_fusion(override(CONFIG, changes), scaling, labels)

    with pytest.raises(ValueError, match=r"fusion\.start_from: .*a, b, c in .*a, expected b, a, c"):
        start("a", ("b", "a", "c"))
    with pytest.raises(ValueError, match=r"a: .*do not fit"):
        start("a", **{"fusion.hidden": 16})
    with pytest.raises(ValueError, match=r"fusion\.start_from: found no video"):
        start("a", scaling=scaling | {"video": torch.ones(2, 5)})
    for name, message in [("prompts", "found no fusion head"), ("nowhere", "found no checkpoint")]:
        with pytest.raises(ValueError, match=message):
            start(name)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint"):
        checkpoint_files.read_config(tmp_path)
