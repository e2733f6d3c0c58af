"""Baselines on the frozen CLIP: references by open_clip and NumPy, and faces whose answer is known."""

from dataclasses import replace

import numpy as np
import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from emo_ray.config import load
from emo_ray.data.batch import VideoBatch, video_from_shards
from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic.face import RATE_FPS, paint, sample_act, sample_look
from emo_ray.experiments.claims import baselines
from emo_ray.experiments.claims.baselines import FrozenFrames, embedded_frames
from emo_ray.models.clip import load_clip, tokenizer
from emo_ray.stages.decoding.corpus import prepare_corpus
from emo_ray.training.metrics import metrics
from emo_ray.training.mini_clip import FILES, normalised

CLIPS = {"train": 60, "validation": 18, "test": 48}


@pytest.fixture(scope="module")
def config():
    return load("mini", {"media.frames": 4})


@pytest.fixture(scope="module")
def batches():
    """Faces of unseen people in four frames."""
    batch_of = {}
    for split, count in CLIPS.items():
        label_B = np.arange(count) % len(LABELS)
        frames = []
        for i, k in enumerate(label_B):
            act = sample_act(LABELS[k], np.random.default_rng([count, i, 1]), np.arange(24) / RATE_FPS, 2.0)
            shown = replace(act, units_T=act.units_T[2::6], pose_T3=act.pose_T3[2::6])
            film = paint(sample_look(np.random.default_rng([count, i])), shown)
            frames.append(np.stack([Image.fromarray(image).resize((64, 64)) for image in film]))
        batch_of[split] = VideoBatch(
            clip_ids=tuple(f"{split}-{i}" for i in range(count)),
            present_BM=torch.tensor([[True, False, False]] * count),
            label_B=torch.from_numpy(label_B),
            frames_BTCHW=torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).contiguous(),
        )
    return batch_of


@pytest.fixture(scope="module")
def embedded(config, batches):
    encoder = FrozenFrames(config)
    with torch.inference_mode():
        return {
            split: (encoder(batch).unflatten(1, (4, -1)).numpy(), batch.label_B.numpy())
            for split, batch in batches.items()
        }


def test_frames_are_embedded_as_open_clip_does(embedded, batches):
    open_clip.add_model_config(FILES["json"])
    clip = open_clip.create_model("mini_clip", pretrained=str(FILES["safetensors"])).eval()
    images = normalised([frame.permute(1, 2, 0).numpy() for frame in batches["test"].frames_BTCHW[1]], 64)
    with torch.inference_mode():
        expected_TD = clip.encode_image(images, normalize=True)
    assert np.allclose(expected_TD, embedded["test"][0][1], atol=1e-5)


def test_frames_of_a_corpus_are_those_of_its_shards(ray_session, evaluated, tiny_config):
    prepared = prepare_corpus(tiny_config)
    label_of, encoder = prepared.labels_of("test"), FrozenFrames(tiny_config)
    rows = [pq.read_table(prepared.shards / part) for part in prepared.parts]
    expected = {}
    for table in rows:
        batch = video_from_shards(table.filter(np.array(table["video_status"]) == "ok"))
        with torch.inference_mode():
            expected |= dict(zip(batch.clip_ids, encoder(batch).numpy(), strict=True))
    frames_BTD, label_B = embedded_frames(tiny_config, prepared)["test"]
    clip_ids = [clip_id for table in rows for clip_id in table["clip_id"].to_pylist() if clip_id in expected]
    test_ids = [clip_id for clip_id in clip_ids if clip_id in label_of]
    assert label_B.tolist() == [label_of[clip_id] for clip_id in test_ids]
    assert frames_BTD.shape == (len(test_ids), 2, 16)
    np.testing.assert_allclose(frames_BTD.reshape(len(test_ids), -1), [expected[i] for i in test_ids], atol=1e-6)


def test_statistics_over_time_are_numpys():
    frames_BTD = np.random.default_rng(0).normal(size=(3, 5, 2))
    statistics = baselines.over_time(frames_BTD, ("mean", "deviation", "slope"))
    slope = np.polyfit(np.linspace(-1, 1, 5), frames_BTD[1], 1)[0]
    assert np.allclose(statistics[1], [*frames_BTD[1].mean(0), *frames_BTD[1].std(0), *slope])


def test_zero_shot_is_the_nearest_caption(embedded, config):
    """One of the captions that are tried gives this very score."""
    (frames_BTD, label_B), clip = embedded["test"], load_clip(config)
    wafs = []
    for caption in baselines.CAPTIONS:
        with torch.no_grad():
            classes_KD = clip.encode_text(tokenizer(config)([caption.format(x) for x in LABELS]), normalize=True)
        guess_B = (torch.from_numpy(frames_BTD.mean(1)) @ classes_KD.T).argmax(dim=1).numpy()
        wafs.append(metrics(np.eye(6)[guess_B], label_B)["waf"])
    scores = baselines.zero_shot(config, LABELS, embedded)
    assert scores["test/V"] in wafs
    assert set(scores) == {"validation/V", "test/V"}


def test_order_counts_only_for_the_probe_that_looks_at_it(embedded):
    backwards = embedded | {"test": (embedded["test"][0][:, ::-1], embedded["test"][1])}
    mean = [baselines.probe(LABELS, frames, ("mean",))["test/V"] for frames in (embedded, backwards)]
    slope = [baselines.probe(LABELS, frames, ("mean", "slope"))["test/V"] for frames in (embedded, backwards)]
    assert mean[0] == pytest.approx(mean[1])
    assert slope[0] > slope[1] + 0.1
