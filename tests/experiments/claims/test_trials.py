"""Single trials: references by open_clip and NumPy, and worlds whose answer is known."""

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from emo_ray.config import load, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic_face import face
from emo_ray.experiments.claims import trials
from emo_ray.experiments.claims.trials import World, WorldBatch
from emo_ray.models.clip import load_clip, tokenizer
from emo_ray.training.mini_clip import FILES, normalised

CLIPS = {"train": 120, "validation": 36, "test": 90}


@pytest.fixture(scope="module")
def config():
    return load("mini", {"train.epochs": 2, "media.frames": 4, "fusion.hidden": 16})


@pytest.fixture(scope="module")
def world(config):
    """Faces of unseen people in four frames, and features of which sound tells half of the label and text the other."""
    rng, splits = np.random.default_rng(0), {}
    for split, count in CLIPS.items():
        label = np.arange(count) % len(LABELS)
        frames = []
        for i, k in enumerate(label):
            seen = face(LABELS[k], np.random.default_rng([count, i]), np.random.default_rng([count, i, 1]), 2.0)
            frames.append(np.stack([Image.fromarray(seen[t]).resize((64, 64)) for t in (2, 8, 14, 20)]))
        halves = {"audio": label % 2, "text": label // 2}
        features = {
            name: torch.from_numpy(np.eye(6)[values] + 0.05 * rng.normal(size=(count, 6))).float()
            for name, values in halves.items()
        }
        present_BM = torch.ones(count, 3, dtype=torch.bool)
        present_BM[::10, 0] = False
        splits[split] = WorldBatch(
            clip_ids=tuple(f"{split}-{i}" for i in range(count)),
            present_BM=present_BM,
            frames_BTCHW=torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).contiguous(),
            features=features,
            label_B=torch.from_numpy(label),
        )
    return World(LABELS, splits, trials.embedded(config, splits))


def test_frames_are_embedded_as_open_clip_does(world, config):
    frames_BTD, label_B = world.embedded["test"]
    batch = world.splits["test"]
    assert len(frames_BTD) == len(label_B) == int(batch.present_BM[:, 0].sum())
    open_clip.add_model_config(FILES["json"])
    clip = open_clip.create_model("mini_clip", pretrained=str(FILES["safetensors"])).eval()
    images = normalised([f.permute(1, 2, 0).numpy() for f in batch.frames_BTCHW[1]], 64)
    with torch.inference_mode():
        assert np.allclose(clip.encode_image(images, normalize=True).numpy(), frames_BTD[0], atol=1e-5)


def test_statistics_over_time_are_numpys():
    frames_BTD = np.random.default_rng(0).normal(size=(3, 5, 2))
    found = trials.over_time(frames_BTD, ("mean", "deviation", "slope"))
    slope = np.polyfit(np.linspace(-1, 1, 5), frames_BTD[1], 1)[0]
    assert np.allclose(found[1], [*frames_BTD[1].mean(0), *frames_BTD[1].std(0), *slope])


def test_zero_shot_is_the_nearest_caption(world, config):
    """With the captions that are tried, one of them gives this very score."""
    seen, clip = world.embedded, load_clip(config)
    label_B = seen["test"][1]
    accuracies = []
    for caption in trials.CAPTIONS:
        with torch.no_grad():
            classes_KD = clip.encode_text(tokenizer(config)([caption.format(x) for x in LABELS]), normalize=True)
        guess_B = (torch.from_numpy(seen["test"][0].mean(1)) @ classes_KD.T).argmax(dim=1).numpy()
        accuracies.append(trials.metrics(np.eye(6)[guess_B], label_B)["waf"])
    found = trials.zero_shot(world, config)
    assert found["test/V"] in accuracies
    assert set(found) == {"validation/V", "test/V"}


def test_order_counts_only_for_the_probe_that_looks_at_it(world, config):
    backwards = world.embedded | {"test": (world.embedded["test"][0][:, ::-1], world.embedded["test"][1])}
    turned = World(world.labels, world.splits, backwards)
    mean = [trials.probe(w, ("mean",)) for w in (world, turned)]
    slope = [trials.probe(w, ("mean", "slope")) for w in (world, turned)]
    assert mean[0]["test/V"] == pytest.approx(mean[1]["test/V"])
    assert slope[0]["test/V"] > slope[1]["test/V"] + 0.1


def test_emovclip_gives_a_score_and_the_features_of_every_clip(world, config):
    scores, features = trials.video(world, config)
    again, same = trials.video(world, config)
    assert scores == again
    assert {s: f.shape for s, f in features.items()} == {s: (n, 64) for s, n in CLIPS.items()}
    assert all(np.array_equal(features[s], same[s]) for s in features)


def test_fusion_needs_both_halves_of_the_label(world, config):
    longer = override(config, {"train.epochs": 15, "fusion.modality_dropout": 0.0, "fusion.lr": 3e-3})
    video = {split: np.zeros((count, 8), np.float32) for split, count in CLIPS.items()}
    whole = trials.fusion(world, video, longer)
    assert set(whole) == {f"{s}/{k}" for s in ("validation", "test") for k in trials.SUBSETS}
    assert whole["test/AT"] > 0.95
    assert whole["test/A"] < 0.6
    alone = trials.fusion(world, video, longer, MODALITIES[1:2])
    assert set(alone) == {"validation/A", "test/A"}
    assert alone["test/A"] < 0.6
