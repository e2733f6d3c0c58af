"""What EmoVCLIP is shown of clips: drawn frames in training, the middles elsewhere, from the manifest to a report."""

import shutil
from dataclasses import replace

import pytest
import torch

from emo_ray import cluster, parquet, store
from emo_ray.config import override
from emo_ray.config.train_settings import Augment
from emo_ray.data.batch import video_from_shards
from emo_ray.data.frame_choice import Draw, Middles
from emo_ray.inference.encoders import video_encoder, with_views
from emo_ray.inference.encoding import encode_rows
from emo_ray.models import checkpoint, checkpoint_files
from emo_ray.stages.corpus import open_corpus
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.fitting.plan import resolve_training
from emo_ray.stages.fitting.video_job import emovclip_job
from emo_ray.training.augmentation import Augmentation


def test_a_model_of_drawn_changed_frames_and_averaged_weights_is_judged_on_middles(evaluated, tiny_config, tmp_path):
    """The features in the store are the checkpoint's on the middles of what is stored."""
    shutil.copytree(cluster.store_root(tiny_config) / "corpora", tmp_path / "corpora")  # the same clips, drawn already
    changes = {"media.frames_stored": 5, "augment.flip": 0.5, "augment.crop": 0.5, "train.ema": 0.9}
    changes |= {"store.root": str(tmp_path), "tracking.enabled": False, "media.clips_per_part": 128}
    config = override(tiny_config, changes)
    assert evaluate(config).path.is_dir()
    plan = resolve_training(config, open_corpus(config))
    name = plan.prepared.parts[0]
    shard = parquet.read(plan.prepared.shards / name)
    shard = shard.filter([value == "ok" for value in shard["video_status"].to_pylist()])
    assert {len(frames) for frames in shard["frames"].to_pylist()} == {5}
    model = checkpoint.load_emovclip(plan.path / checkpoint_files.EMOVCLIP)
    middles = video_from_shards(shard, choose=Middles(2))
    (features,) = (cluster.store_root(config) / "features").glob("video-*")
    stored = parquet.read(features / name)
    feature_of = dict(zip(stored["clip_id"].to_pylist(), stored["feature"].to_pylist(), strict=True))
    with torch.inference_mode():
        expected_BD = model.encode_video(middles.frames_BTCHW)
    actual_BD = torch.tensor([feature_of[clip_id] for clip_id in middles.clip_ids])
    torch.testing.assert_close(actual_BD, expected_BD, rtol=1e-4, atol=1e-5)

    job, _ = emovclip_job(config, plan, plan.video_path)
    label_of = plan.clips.all_clips
    rows = shard.filter([clip_id in label_of for clip_id in shard["clip_id"].to_pylist()])
    drawn = [job.collate_of(epoch)(rows).frames_BTCHW for epoch in (0, 1)]
    assert torch.equal(drawn[0], video_from_shards(rows, choose=Draw(2, config.seed, "epoch 0")).frames_BTCHW)
    assert not torch.equal(*drawn)
    assert torch.equal(job.collate(rows).frames_BTCHW, video_from_shards(rows, choose=Middles(2)).frames_BTCHW)
    keep = job.collate.args[0].keywords["decode"]  # the same for all epochs, so that what an epoch decodes stays
    kept_bytes = keep.bytes
    assert kept_bytes > drawn[0].nbytes
    assert torch.equal(job.collate_of(0)(rows).frames_BTCHW, drawn[0])
    assert keep.bytes == kept_bytes
    assert store.read_meta(plan.video_path)["history"]

    encoder = video_encoder(plan.path / checkpoint_files.EMOVCLIP)
    (three,) = with_views([encoder], 3, seed=7)
    table = encode_rows(three, three.built("cpu"), shard, "cpu")
    crop = Augmentation(Augment(crop=0.5), 32, seed=7)
    draws = [video_from_shards(shard, choose=Draw(2, 7, f"view {view}")) for view in (1, 2)]
    with torch.inference_mode():
        views = [expected_BD, *(model.encode_video(crop(draw, i + 1).frames_BTCHW) for i, draw in enumerate(draws))]
    torch.testing.assert_close(torch.tensor(table["feature"].to_pylist()), sum(views) / 3, rtol=1e-4, atol=1e-5)
    assert three.crop == config.augment.crop
    with_views([replace(encoder, crop=0.0)], 3, seed=7)  # they show other frames
    with pytest.raises(ValueError, match=r"evaluate\.views=3 .*augment\.crop"):
        with_views([replace(encoder, crop=0.0, draws_frames=False)], 3, seed=7)
