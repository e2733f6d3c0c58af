"""Folders of CLIPs are read as open_clip and transformers read them."""

import json

import open_clip
import pytest
from transformers import CLIPConfig

from emo_ray.config import Config, override
from emo_ray.models.clip_folders import CLIP_VOCABULARY_DIGEST, read_folder, vocabulary_digest
from emo_ray.models.clip_source import image_size

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
TINY = {"embed_dim": 8, "vision_cfg": {"image_size": 32}, "text_cfg": {"context_length": 24, "vocab_size": 49408}}


def of_folder(folder):
    return override(Config(), {"emovclip.clip": str(folder)})


def written(folder, config):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    return folder


def test_the_vocabulary_is_clips_own():
    assert vocabulary_digest(open_clip.SimpleTokenizer().encoder) == CLIP_VOCABULARY_DIGEST


@pytest.mark.parametrize(
    "described",
    [
        {},
        {"projection_dim": 20, "text_config": {"hidden_size": 24, "num_attention_heads": 4, "layer_norm_eps": 1e-6}},
        {"text_config": None, "vision_config": {"patch_size": 8, "image_size": 64, "num_hidden_layers": 3}},
        {"vision_config": {"patch_size": 8}, "vision_config_dict": {"image_size": 64}, "text_config_dict": None},
        {"text_config_dict": {"vocab_size": 49408, "eos_token_id": 2}, "text_config": {"hidden_size": 88}},
    ],
)
def test_what_a_config_leaves_out_is_what_transformers_takes(tmp_path, described):
    folder = written(tmp_path, {"model_type": "clip"} | described)
    architecture, expected = read_folder(folder).architecture, CLIPConfig.from_pretrained(folder)
    for tower, config in (
        (architecture["vision_cfg"], expected.vision_config),
        (architecture["text_cfg"], expected.text_config),
    ):
        assert (tower["width"], tower["layers"]) == (config.hidden_size, config.num_hidden_layers)
        assert int(tower["width"] * tower["mlp_ratio"]) == config.intermediate_size
        assert tower["norm_kwargs"] == {"eps": config.layer_norm_eps}
    vision, text = expected.vision_config, expected.text_config
    assert architecture["vision_cfg"]["head_width"] * vision.num_attention_heads == vision.hidden_size
    assert (
        architecture["vision_cfg"].items() >= {"patch_size": vision.patch_size, "image_size": vision.image_size}.items()
    )
    assert (
        architecture["text_cfg"].items() >= {"heads": text.num_attention_heads, "vocab_size": text.vocab_size}.items()
    )
    assert architecture["text_cfg"]["context_length"] == text.max_position_embeddings
    assert (architecture["embed_dim"], architecture["quick_gelu"]) == (
        expected.projection_dim,
        text.hidden_act == "quick_gelu",
    )


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"model_type": "siglip"}, "'siglip', expected 'clip'"),
        ("config.json", {"text_config": {"hidden_act": "relu"}}, "hidden_act quick_gelu and relu"),
        ("config.json", {"text_config": {"hidden_act": "gelu"}}, "hidden_act gelu and quick_gelu"),
        ("config.json", {"text_config": {"vocab_size": 100}}, "100 tokens, .*49408"),
        ("config.json", {"text_config": {"eos_token_id": 7}}, "eos_token_id 7, .*49407"),
        ("tokenizer_config.json", {"tokenizer_class": "BertTokenizer"}, "BertTokenizer"),
        ("tokenizer_config.json", {"tokenizer_class": "CLIPTokenizerFast"}, None),
        ("vocab.json", open_clip.SimpleTokenizer().encoder, None),
        ("vocab.json", open_clip.SimpleTokenizer().encoder | {"in": 513, "th": 512}, "another vocabulary"),
        ("tokenizer.json", {"model": {"vocab": {"a": 0}}}, "another vocabulary"),
    ],
)
def test_folders_with_another_activation_or_tokenizer_are_refused(tmp_path, file, changes, message):
    vision = SIZES | {"image_size": 32, "patch_size": 16}
    described = CLIPConfig(text_config=SIZES, vision_config=vision).to_dict()
    written(tmp_path, described)
    if file == "config.json":
        changes = described | {k: described[k] | v if isinstance(v, dict) else v for k, v in changes.items()}
    (tmp_path / file).write_text(json.dumps(changes))
    if message is None:
        assert image_size(of_folder(tmp_path)) == 32
        return
    with pytest.raises(ValueError, match=message):
        image_size(of_folder(tmp_path))


def test_folders_without_a_clip_are_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"emovclip\.clip=.*open_clip_config\.json"):
        image_size(of_folder(tmp_path))
    open_clips = tmp_path / "open"
    open_clips.mkdir()
    (open_clips / "open_clip_model.safetensors").touch()
    config = open_clips / "open_clip_config.json"
    for content, message in [("{", "found no JSON"), ("[]", "found list"), ("{}", "found no embed_dim, vision_cfg")]:
        config.write_text(content)
        with pytest.raises(ValueError, match=message):
            image_size(of_folder(open_clips))
    text = TINY["text_cfg"] | {"hf_tokenizer_name": "some-bert"}
    config.write_text(json.dumps({"model_cfg": TINY | {"text_cfg": text}}))
    with pytest.raises(ValueError, match="some-bert"):
        image_size(of_folder(open_clips))
