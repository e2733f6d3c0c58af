"""Names of results are the same wherever they are computed, and no model library is loaded for them."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from transformers import PreTrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from emo_ray.config import Config, override
from emo_ray.config.model_settings import OFFLINE_AUDIO, OFFLINE_TEXT
from emo_ray.models import audio, text
from emo_ray.models.checkpoint_files import WEIGHTS, fusion_start_folder, start_folder, weight_names
from emo_ray.models.clip_families import text_family, vision_family
from emo_ray.models.clip_source import clip_source, description, image_size, open_clip_configs
from emo_ray.models.pretrained_source import custom_code

HEAVY = ("torch", "open_clip", "transformers", "sklearn", "mlflow", "ray")
TELL_ALL = """
import sys
from emo_ray.config import load
from emo_ray.models.checkpoint_files import read_config, start_folder
from emo_ray.models.clip_source import description, image_size
from emo_ray.models.identity import audio_digest, frozen_digest, text_digest
for path in sys.argv[1:]:
    config = load(path)
    start_folder(config, ("a", "b"))
    print(frozen_digest(config), image_size(config), description(config), audio_digest(config.audio), end=" ")
    print(text_digest(config.text), text_digest(config.text, "readings"))
print(*[name for name in %r if name in sys.modules])
"""


@pytest.fixture
def plain_folder(tmp_path):
    """A model folder as transformers writes it, of no model that is ever loaded."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    save_file({"x": torch.ones(1)}, folder / WEIGHTS)
    return folder


@pytest.fixture
def clip_folder(tmp_path):
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "clip"}))
    (folder / "vocab.json").write_text(json.dumps(open_clip.SimpleTokenizer().encoder))
    save_file({"x": torch.ones(1)}, folder / WEIGHTS)
    return folder


@pytest.fixture
def emovclip_folder(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "config.yaml").write_text("")
    (folder / "labels.json").write_text('["a", "b"]')
    save_file({"frozen_digest": torch.ones(16, dtype=torch.uint8)}, folder / WEIGHTS)
    return folder


def test_names_of_results_need_no_model_library(plain_folder, clip_folder, emovclip_folder, tmp_path):
    recipes = {
        "offline": "emovclip: {clip: mini_clip.json, weights: mini_clip.safetensors}",
        "tag": "emovclip: {clip: ViT-B-16, weights: openai}",
        "folders": f"""
            emovclip: {{clip: {clip_folder}, start_from: {emovclip_folder}}}
            audio: {{encoder: {plain_folder}}}
            text: {{encoder: {plain_folder}}}
        """,
    }
    paths = [tmp_path / f"{name}.yaml" for name in recipes]
    for path, content in zip(paths, recipes.values(), strict=True):
        path.write_text(content)
    command = [sys.executable, "-c", TELL_ALL % (HEAVY,), *map(str, paths)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert len(lines) == len(recipes) + 1
    assert lines[-1] == ""


def test_architectures_are_those_of_open_clip():
    names = [name for name in open_clip.list_models() if name in open_clip_configs()]  # others may be registered here
    assert len(names) == len(open_clip_configs()) > 100
    refused = 0
    for name in names:
        try:
            source = clip_source(override(Config(), {"emovclip.clip": name}))
        except ValueError:
            refused += 1
        else:
            assert source.architecture == open_clip.get_model_config(name)
    assert refused < 60


def test_the_page_of_towers_counts_the_architectures_that_fit():
    families = Counter()
    for path in open_clip_configs().values():
        architecture = json.loads(path.read_text())
        with suppress(ValueError):
            families[vision_family(architecture["vision_cfg"]), text_family(architecture)] += 1
    page = (Path(__file__).parents[2] / "docs" / "towers.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line.startswith("|")]
    assert {tuple(row[:2]): int(row[2]) for row in rows if len(row) > 2 and row[2].isdigit()} == dict(families)
    assert f"{families.total()} of open_clip's {len(open_clip_configs())} architectures" in page


@pytest.mark.parametrize("name", ["no-such-vit", "no-such.json"])
def test_an_unknown_architecture_is_named(name):
    with pytest.raises(ValueError, match=rf"emovclip\.clip: found .*{name}"):
        clip_source(override(Config(), {"emovclip.clip": name}))


def test_a_json_that_is_no_architecture_is_named(tmp_path):
    (tmp_path / "ViT-B-16.json").write_text('{"embed_dim": 8}')
    with pytest.raises(ValueError, match=r"found no vision_cfg, text_cfg in .*ViT-B-16\.json"):
        clip_source(override(Config(), {"emovclip.clip": str(tmp_path / "ViT-B-16.json")}))


def test_descriptions_name_the_weights(clip_folder):
    for changes, words in [
        ({"emovclip.clip": "ViT-B-16", "emovclip.weights": "openai"}, "ViT-B-16, weights openai"),
        ({"emovclip.clip": "ViT-B-16"}, "ViT-B-16, weights random"),
        ({"emovclip.clip": str(clip_folder)}, "its own weights"),
    ]:
        assert words in description(override(Config(), changes))
    assert image_size(override(Config(), {"emovclip.clip": str(clip_folder)})) == 224


def test_offline_encoders_are_those_that_are_built():
    assert set(audio.ENCODERS) == set(OFFLINE_AUDIO)
    assert set(text.ENCODERS) == set(OFFLINE_TEXT)


@pytest.mark.parametrize(
    "tokenizers",
    [None, {"AutoTokenizer": ["m.Slow", None]}, {"AutoTokenizer": [None, "m.Fast"]}, ["m.Slow", "m.Fast"], "m.Slow"],
)
@pytest.mark.parametrize("mapped", [None, {"AutoConfig": "m.Config", "AutoModel": "a/b--m.Model"}])
def test_code_is_found_where_transformers_looks_for_it(plain_folder, tokenizers, mapped):
    for file, auto_map in (("config.json", mapped), ("tokenizer_config.json", tokenizers)):
        (plain_folder / file).write_text(
            json.dumps({"model_type": "own"} | ({"auto_map": auto_map} if auto_map else {}))
        )
    config, _ = PreTrainedConfig.get_config_dict(plain_folder)
    assert config.get("auto_map") == mapped
    assert get_tokenizer_config(plain_folder).get("auto_map") == tokenizers
    pair = tokenizers["AutoTokenizer"] if isinstance(tokenizers, dict) else tokenizers or []
    expected = {name for name in ([pair] if isinstance(pair, str) else pair) if name} | set((mapped or {}).values())
    assert set(custom_code(str(plain_folder), None).values()) == expected


def test_a_start_is_told_from_its_files(emovclip_folder, tmp_path):
    assert weight_names(emovclip_folder) == {"frozen_digest"}
    config = override(Config(), {"emovclip.start_from": str(emovclip_folder)})
    assert start_folder(config, ("a", "b")) == emovclip_folder
    assert start_folder(Config(), ("a", "b")) is fusion_start_folder(Config(), ("a", "b")) is None
    for name, message in [(emovclip_folder.name, "fusion head"), ("nowhere", "no checkpoint")]:
        with pytest.raises(ValueError, match=message):
            fusion_start_folder(override(Config(), {"fusion.start_from": str(tmp_path / name)}), ("a", "b"))
