"""Weights that a config needs: at hand, to be fetched or out of reach; and what they take in memory."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

from emo_ray.config import RECIPES, load, recipe_names
from emo_ray.models import weights as module
from emo_ray.models.clip_source import clip_source
from emo_ray.models.memory import memory_by_step
from emo_ray.models.weights import CLIP_REPOSITORIES, PARAMETERS_M, problems_of, weight_files, weights_of

ROOT = Path(__file__).parents[2]
GPU_BYTES = {"g6.2xlarge": 24e9}  # by machine of AWS


@pytest.fixture
def folder(tmp_path):
    """A model folder with 32 parameters, of which half are stored in two bytes."""
    (tmp_path / "config.json").write_text("{}")
    tensors = {"a": np.zeros((4, 4), np.float32), "b": np.zeros((4, 4), np.float16)}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_is_counted_and_needs_nothing(folder):
    (_, audio, _) = weights_of(
        load("small", {"audio.encoder": str(folder), "audio.dtype": "bf16"}), on_gpu=False, ask_hub=False
    )
    assert (audio.key, audio.parameters, audio.memory_bytes, audio.fetched_bytes) == ("audio.encoder", 32, 64, 0)
    assert audio.problem == ""


def test_a_folder_without_all_of_its_weights_is_named(folder):
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(folder) == []
    config = load("small", {"text.encoder": str(folder)})
    text = weights_of(config, on_gpu=False, ask_hub=False)[2]
    assert "text.encoder" in text.problem
    assert str(folder) in text.problem


def test_offline_encoders_have_no_weights_and_what_tables_replace_needs_none():
    (clip,) = weights_of(load("mini"), on_gpu=False)
    assert (clip.fetched_bytes, clip.problem) == (0, "")
    tables = {f"tables.{name}": ["t.npz"] for name in ("video", "audio", "text")}
    assert weights_of(load("mer2024", {**tables, "transcribe.model": None}), on_gpu=True) == []
    (audio,) = weights_of(load("small", {"modalities": ["audio"]}), on_gpu=True, ask_hub=False)
    assert audio.key == "audio.encoder"


def test_what_no_network_can_bring_is_named_with_its_key_and_a_way_out():
    """The tests' hub is offline, so nothing of a recipe with hub names can be fetched."""
    config = load("small")
    problems = problems_of(config, weights_of(config, on_gpu=False))
    for key, name in {
        "emovclip.weights": "ViT-B-16 openai",
        "audio.encoder": config.audio.encoder,
        "text.encoder": config.text.encoder,
    }.items():
        assert any(line.startswith(key) and name in line for line in problems), problems


def test_a_way_out_is_one_that_the_key_takes():
    config = load("small", {"transcribe.model": "openai/whisper-small"})
    told = {line.partition(":")[0]: line for line in problems_of(config, weights_of(config, on_gpu=False))}
    ways = {"audio.encoder": {"functionals"}, "text.encoder": {"ngrams"}, "transcribe.model": set()}
    for key, expected in ways.items():
        assert {way for way in ("functionals", "ngrams") if way in told[key]} == expected


def test_a_folder_that_is_not_there_is_no_name_of_the_hub():
    config = load("mini", {"transcribe.model": "./whisper"})
    assert problems_of(config, weights_of(config, on_gpu=False)) == [
        "transcribe.model: found no folder ./whisper, expected one with a model"
    ]


def test_weights_that_do_not_exist_are_named():
    for changes, word in (
        ({"emovclip.weights": "no_such_tag"}, "no_such_tag"),
        ({"emovclip.clip": "ViT-X"}, "ViT-X"),
        ({"text.encoder": "a/b", "text.dtype": "int8"}, "bitsandbytes"),
        ({"audio.encoder": "opensmile:eGeMAPSv02"}, "opensmile"),
    ):
        config = load("small", changes)
        assert any(word in line for line in problems_of(config, weights_of(config, on_gpu=False, ask_hub=False)))


@pytest.mark.parametrize("recipe", recipe_names())
def test_the_recipes_name_what_is_known_and_the_lock_has_their_packages(recipe):
    config = load(recipe)
    for entry in weights_of(config, on_gpu=True, ask_hub=False):
        assert entry.key == "emovclip.weights" or entry.name in PARAMETERS_M
        assert entry.problem == ""
        assert entry.memory_bytes > 0
    weights = config.emovclip.weights
    assert (RECIPES / weights).is_file() or (config.emovclip.clip, weights) in CLIP_REPOSITORIES
    module.check_packages(config.text)


def test_repositories_of_tags_are_those_of_open_clip():
    import open_clip

    for (architecture, tag), repository in CLIP_REPOSITORIES.items():
        assert open_clip.get_pretrained_cfg(architecture, tag)["hf_hub"] == f"{repository}/"
        config = load("small", {"emovclip.clip": architecture, "emovclip.weights": tag})
        published = {"ViT-B-16": 149.62e6, "ViT-L-14": 427.62e6}[architecture]
        assert module.clip_parameters(clip_source(config)) == pytest.approx(published, rel=0.02)


def test_mer2024_fits_the_gpus_of_the_cluster_that_we_ship():
    cluster = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    gpu_bytes = GPU_BYTES[cluster["available_node_types"]["gpu"]["node_config"]["InstanceType"]]
    config = load("mer2024")
    steps = memory_by_step(config, weights_of(config, on_gpu=True, ask_hub=False), on_gpu=True)
    assert set(steps) >= {"training EmoVCLIP", "encoding sound and text", "predicting with all of them"}
    assert max(steps.values()) < 0.95 * gpu_bytes  # the driver takes some
    whole_batch = load("mer2024", {"emovclip.micro_batch_size": None})
    weights = weights_of(whole_batch, on_gpu=True, ask_hub=False)
    assert memory_by_step(whole_batch, weights, on_gpu=True)["training EmoVCLIP"] > gpu_bytes


@pytest.mark.parametrize(
    ("clips", "changes", "measured_gb"),
    [
        (4, {}, 10.3),
        (8, {}, 18.8),
        (16, {}, 35.7),
        (32, {}, 69.7),
        (4, {"emovclip.lora.rank": 8}, 13.9),
        (8, {"emovclip.lora.rank": 8}, 26.7),
        (16, {"emovclip.lora.rank": 8}, 52.2),
    ],
)
def test_the_estimate_of_training_is_a_little_more_than_what_steps_took_on_a_gpu(clips, changes, measured_gb):
    """ViT-L/14 with 16 frames on an H100, by torch's count: without the optimiser's moments and CUDA itself."""
    config = load("mer2024", {"emovclip.micro_batch_size": clips, **changes})
    weights = weights_of(config, on_gpu=True, ask_hub=False)
    estimate_gb = memory_by_step(config, weights, on_gpu=True)["training EmoVCLIP"] / 1e9
    assert measured_gb + 1 < estimate_gb < 1.15 * measured_gb + 3


def test_small_fits_a_laptop():
    config = load("small")
    weights = weights_of(config, on_gpu=False, ask_hub=False)
    assert max(memory_by_step(config, weights, on_gpu=False).values()) < 8e9
    assert sum(entry.fetched_bytes for entry in weights) < 2e9
