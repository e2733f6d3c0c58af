"""The CLIP that a config names: its weights, its images and its digests."""

import gzip
import json

import open_clip
import pytest
import torch
from open_clip.model import resize_pos_embed
from open_clip.pretrained import _PRETRAINED
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file
from tiny_clips import LABELS

from emo_ray.config import Config, override
from emo_ray.models import clip, emovclip
from emo_ray.models.clip_source import image_size
from emo_ray.models.identity import frozen_digest

POSITIONS = "visual.positional_embedding"


@pytest.mark.parametrize("suffix", ["pt", "bin", "safetensors"])
def test_weights_come_from_a_file_and_its_content_is_in_the_digest(tiny, tmp_path, suffix):
    def write(seed):
        state = clip.load_clip(tiny({"seed": seed})).state_dict()
        if suffix == "safetensors":
            save_file(state, weights)
        else:
            torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, weights)
        return state

    weights = tmp_path / f"clip.{suffix}"
    source, config = write(7), tiny({"emovclip.weights": str(weights)})
    loaded = clip.load_clip(config).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in source.items())
    before = frozen_digest(config)
    write(8)
    assert frozen_digest(config) != before


def test_digests_are_those_that_stores_have(tmp_path):
    """The digests of sources that could be named before folders, image sizes and OpenAI's files could."""
    for changes, expected in [
        ({"emovclip.weights": "openai"}, "27eee76c8970bea4"),
        ({"emovclip.weights": "openai", "emovclip.clip": "ViT-L-14", "media.image_size": 224}, "1fbb68f9793b3f9c"),
        ({"emovclip.clip": "ViT-B-32", "seed": 1}, "3015f08839377465"),
    ]:
        assert frozen_digest(override(Config(), changes)) == expected


@pytest.mark.parametrize("name", ["tiny-vit", "hf-hub:some"])
@pytest.mark.parametrize("key", ["hf_tokenizer_name", "tokenizer_kwargs"])
def test_an_architecture_names_no_tokenizer_whose_code_would_run(tiny, tmp_path, name, key):
    ran = tmp_path / "ran"
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    classes = {"auto_map": {"AutoTokenizer": ["own.Own", None]}, "tokenizer_class": "Own"}
    (folder / "tokenizer_config.json").write_text(json.dumps(classes))
    names = {"hf_tokenizer_name": str(folder)} if key == "hf_tokenizer_name" else {}
    text = (
        {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 2}
        | names
        | {"tokenizer_kwargs": {"trust_remote_code": True}}
    )
    with pytest.raises(ValueError, match=rf"emovclip\.clip=.*: found .*{key}"):
        clip.tokenizer(tiny(name=name, text_cfg=text))
    assert not ran.exists()


def test_merges_beside_an_architecture_are_its_tokenizer(tiny, tmp_path):
    words = ["very happy"]
    assert torch.equal(clip.tokenizer(tiny())(words), open_clip.SimpleTokenizer()(words, 24))
    (tmp_path / "tiny-vit.bpe.gz").write_bytes(gzip.compress(b"#version: 0.2\nh a\nha p\np y</w>"))
    start, *word, end = [i for i in clip.tokenizer(tiny())(["happy"])[0].tolist() if i]
    assert word == [514 - 1, 514]  # hap, py</w>: the second and third merge after 512 bytes
    assert (start, end) == (515, 516)
    (tmp_path / "tiny-vit.bpe.gz").write_bytes(gzip.compress(b"#version: 0.2\nh a"))  # others in their place
    assert clip.tokenizer(tiny())(["happy"])[0, 0] == 512 + 1


@pytest.fixture
def tagged(tiny, tmp_path, monkeypatch):
    """A config on a pretrained tag that open_clip downloads from a file, for the architecture's name and quick_gelu."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where open_clip keeps downloads

    def make(changes=None, name="tagged-vit", quick_gelu=False, trained_with=False):
        weights = tmp_path / f"{name}-weights.pt"
        torch.save(clip.load_clip(tiny({"seed": 7}, name=name)).state_dict(), weights)
        about = {"url": weights.as_uri(), "hf_hub": "", "mean": (0.1, 0.2, 0.3), "quick_gelu": trained_with}
        monkeypatch.setitem(_PRETRAINED, name.removesuffix("-quickgelu"), {"web": about})
        return tiny({"emovclip.weights": "web"} | (changes or {}), name=name, quick_gelu=quick_gelu)

    return make


@pytest.mark.parametrize("trained_with", [False, True])
def test_a_tag_brings_its_weights_activation_and_pixel_statistics(tagged, tiny, trained_with):
    loaded, source = clip.load_clip(tagged(trained_with=trained_with)), clip.load_clip(tiny({"seed": 7}))
    assert all(torch.equal(value, source.state_dict()[name]) for name, value in loaded.state_dict().items())
    assert any(isinstance(module, QuickGELU) for module in loaded.modules()) == trained_with
    assert clip.pixel_statistics(loaded)[0].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_a_tag_that_was_not_trained_with_the_architectures_quick_gelu_is_refused(tagged):
    with pytest.raises(ValueError, match=r"emovclip\.weights: found 'web'.*QuickGELU"):
        clip.load_clip(tagged(quick_gelu=True))
    with pytest.raises(ValueError, match=r"emovclip\.weights: found 'web'.*emovclip\.clip=tagged-vit$"):
        clip.check_tag(tagged(name="tagged-vit-quickgelu", quick_gelu=True))
    config = override(Config(), {"emovclip.clip": "ViT-B-32-quickgelu", "emovclip.weights": "laion2b_s34b_b79k"})
    with pytest.raises(ValueError, match=r"expected emovclip\.clip=ViT-B-32$"):
        clip.check_tag(config)


def test_image_size_needs_no_model(tiny):
    assert image_size(tiny()) == 32
    assert image_size(override(Config(), {"emovclip.clip": "ViT-L-14"})) == 224
    assert image_size(override(Config(), {"emovclip.clip": "ViT-L-14", "media.image_size": 336})) == 336


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("ViT-L-14", 300, r"media\.image_size: found 300, expected 294 or 308"),
        ("ViT-B-32", 16, r"media\.image_size: found 16, expected 32"),
        ("ViT-B-16-SigLIP2", 256, r"media\.image_size: found 256, expected 224"),
    ],
)
def test_images_that_patches_do_not_fill_are_refused(name, size, message):
    with pytest.raises(ValueError, match=message):
        image_size(override(Config(), {"emovclip.clip": name, "media.image_size": size}))


def test_towers_of_other_libraries_are_refused_before_anything_is_downloaded():
    with pytest.raises(ValueError, match=r"emovclip\.clip=roberta-ViT-B-32: .*roberta-base"):
        clip.load_clip(override(Config(), {"emovclip.clip": "roberta-ViT-B-32"}))


@pytest.mark.parametrize("source", ["file", "tag", "folder", "random"])
def test_positions_are_interpolated_for_images_of_another_size(tiny, tagged, tmp_path, source):
    config = tiny({"seed": 7}, name="tagged-vit")
    if source == "file":
        torch.save(clip.load_clip(config).state_dict(), tmp_path / "clip.pt")
        config = override(config, {"emovclip.weights": str(tmp_path / "clip.pt")})
    elif source == "tag":
        config = tagged()
    elif source == "folder":
        folder = tmp_path / "folder"
        folder.mkdir()
        save_file(clip.load_clip(config).state_dict(), folder / "open_clip_model.safetensors")
        described = {"model_cfg": json.loads((tmp_path / "tagged-vit.json").read_text())}
        (folder / "open_clip_config.json").write_text(json.dumps(described))
        config = override(config, {"emovclip.clip": str(folder)})
    native, larger = clip.load_clip(config), override(config, {"media.image_size": 64})
    model = emovclip.build(larger, LABELS).eval()
    frames = torch.randint(0, 256, (1, 4, 3, 64, 64), dtype=torch.uint8)
    assert torch.isfinite(model(frames).logits_BK).all()
    expected = native.state_dict()
    resize_pos_embed(expected, model.clip)
    assert expected[POSITIONS].shape == (17, 32)
    assert all(torch.equal(value, expected[name]) for name, value in model.clip.state_dict().items())
    same = clip.load_clip(override(config, {"media.image_size": 32})).state_dict()
    assert all(torch.equal(value, same[name]) for name, value in native.state_dict().items())
    digests = [frozen_digest(override(config, {"media.image_size": size})) for size in (None, 32, 64, 96)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3


def test_what_is_drawn_for_the_prompts_does_not_depend_on_the_image_size(tiny):
    small, large = (emovclip.build(tiny({"media.image_size": size}), LABELS) for size in (32, 64))
    assert torch.equal(small.time_TD, large.time_TD)


def test_the_tensors_digest_sees_every_tensor_and_the_activation(tiny):
    model = clip.load_clip(tiny())
    digests = {bytes(clip.tensor_digest(model).tolist())}
    assert clip.tensor_digest(model).dtype == torch.uint8
    for value in model.state_dict().values():
        value.view(-1)[-1] += 1e-3
        digests.add(bytes(clip.tensor_digest(model).tolist()))
    assert {len(digest) for digest in digests} == {16}
    assert len(digests) == 1 + len(model.state_dict())
    other = clip.load_clip(tiny(quick_gelu=True))
    assert not torch.equal(clip.tensor_digest(other), clip.tensor_digest(clip.load_clip(tiny())))


def test_the_tensors_digest_knows_the_weights_in_other_types_and_for_other_images(tiny, tmp_path):
    state = {name: value.half() for name, value in clip.load_clip(tiny()).state_dict().items()}
    digests = []
    for name, dtype in [("half.pt", torch.float16), ("full.pt", torch.float32)]:
        torch.save({key: value.to(dtype) for key, value in state.items()}, tmp_path / name)
        changes = {"emovclip.weights": str(tmp_path / name)}
        digests += [clip.tensor_digest(clip.load_clip(tiny(changes | {"media.image_size": s}))) for s in (32, 64)]
    assert len({bytes(digest.tolist()) for digest in digests}) == 1
