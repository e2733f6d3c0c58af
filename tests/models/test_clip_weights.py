"""CLIPs as others publish them give the same embeddings as in their own libraries."""

import json
from functools import cache

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from emo_ray.config import Config, override
from emo_ray.models import clip
from emo_ray.models.clip_source import image_size
from emo_ray.models.clip_weights import read_state
from emo_ray.models.identity import frozen_digest

SIZES = {"width": 64, "layers": 2}
# OpenAI's archives do not say how wide a head is: it is always 64.
ARCHITECTURE = {
    "embed_dim": 24,
    "vision_cfg": {**SIZES, "image_size": 32, "patch_size": 16, "head_width": 64},
    "text_cfg": {**SIZES, "heads": 1, "context_length": 24, "vocab_size": 49408},
}
OPENAI = {"input_resolution": torch.tensor(32), "context_length": torch.tensor(24), "vocab_size": torch.tensor(49408)}
WORDS = ["neutral", "a photo of a very happy face"]
scripting = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # the format is OpenAI's choice


class Named(nn.Module):
    """Tensors under dotted names, in a form that TorchScript takes."""

    def __init__(self, state):
        super().__init__()
        for name in {name.split(".")[0]: None for name in state}:
            inside = {key.removeprefix(name + "."): value for key, value in state.items() if key.startswith(name + ".")}
            if inside:
                self.add_module(name, Named(inside))
            else:
                self.register_buffer(name, state[name])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.fixture(scope="module")
def published():
    """A CLIP whose weights are large enough to matter, in half precision as OpenAI publishes: (model, state)."""
    torch.manual_seed(5)
    model = open_clip.CLIP(**ARCHITECTURE, quick_gelu=True).eval()
    state = {name: (10 * value if "mlp" in name else value).half() for name, value in model.state_dict().items()}
    model.load_state_dict(state)
    return model, state


@pytest.fixture
def named(tmp_path):
    """A config on a JSON of ARCHITECTURE, with changes to the architecture and the config."""

    def make(changes=None, **architecture):
        path = tmp_path / "sixty-four.json"
        path.write_text(json.dumps(ARCHITECTURE | architecture))
        return override(Config(), {"emovclip.clip": str(path)} | (changes or {}))

    return make


def images(size=32):
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@cache
def tokens():
    return open_clip.SimpleTokenizer()(WORDS, 24)


def assert_same(actual, expected, atol=1e-5):
    with torch.inference_mode():
        torch.testing.assert_close(actual.encode_image(images()), expected.encode_image(images()), atol=atol, rtol=0)
        torch.testing.assert_close(actual.encode_text(tokens()), expected.encode_text(tokens()), atol=atol, rtol=0)


@scripting
@pytest.mark.parametrize("form", ["archive", "state dict"])
@pytest.mark.parametrize("custom_text", [False, True])
def test_openais_own_file_has_quick_gelu_whatever_the_architecture_says(published, named, tmp_path, form, custom_text):
    path = tmp_path / "ViT-X.pt"
    if form == "archive":
        torch.jit.script(Named(published[1] | OPENAI)).save(str(path))
    else:
        torch.save(published[1] | OPENAI, path)
    loaded = clip.load_clip(named({"emovclip.weights": str(path)}, custom_text=custom_text))
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    assert_same(loaded, open_clip.load_openai_model(str(path), "fp32", "cpu"))
    with torch.inference_mode():
        other = open_clip.CLIP(**ARCHITECTURE).eval()
        other.load_state_dict(published[1])
        far = (other.encode_image(images()) - loaded.encode_image(images())).abs().max()
    assert far > 1e-3  # without QuickGELU it would load as well, and only the numbers would differ


@scripting
def test_openais_file_of_another_architecture_is_refused(published, named, tmp_path):
    path = tmp_path / "ViT-X.pt"
    torch.jit.script(Named(published[1] | OPENAI)).save(str(path))
    config = named({"emovclip.weights": str(path)}, vision_cfg=ARCHITECTURE["vision_cfg"] | {"image_size": 48})
    with pytest.raises(ValueError, match=r"ViT-X\.pt: .*positional_embedding .*\(5, 64\) .*\(10, 64\)"):
        clip.load_clip(config)
    with pytest.raises(ValueError, match=r"ViT-X\.pt: .*ViT-B-32"):
        clip.load_clip(override(config, {"emovclip.clip": "ViT-B-32"}))


@scripting
def test_files_of_something_else_are_refused(published, tmp_path):
    archive, text, listed = tmp_path / "scripted.pt", tmp_path / "text.safetensors", tmp_path / "list.bin"
    torch.jit.script(Named(published[1])).save(str(archive))
    text.write_text("not weights")
    torch.save([1, 2], listed)
    with pytest.raises(ValueError, match=r"scripted\.pt: .*input_resolution"):
        read_state(archive)
    for path in (text, listed, tmp_path / "missing.pt"):
        with pytest.raises(ValueError, match=f"{path.name}: found no weights"):
            read_state(path)


@pytest.fixture
def open_clips_folder(published, tmp_path):
    folder = tmp_path / "open"
    folder.mkdir()
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    config = {"model_cfg": ARCHITECTURE | {"quick_gelu": True}, "preprocess_cfg": pixels}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    save_file(published[1], folder / "open_clip_model.safetensors")
    return folder


def of_folder(folder, changes=None):
    return override(Config(), {"emovclip.clip": str(folder)} | (changes or {}))


def test_open_clips_folder_brings_everything(open_clips_folder):
    config = of_folder(open_clips_folder)
    loaded, expected = clip.load_clip(config), open_clip.create_model(f"local-dir:{open_clips_folder}").eval()
    assert_same(loaded, expected)
    assert [value.flatten().tolist() for value in clip.pixel_statistics(loaded)] == [
        pytest.approx([0.1, 0.2, 0.3]), pytest.approx([0.4, 0.5, 0.6])
    ]  # fmt: skip
    assert image_size(config) == 32
    assert torch.equal(clip.tokenizer(config)(WORDS), open_clip.get_tokenizer(f"local-dir:{open_clips_folder}")(WORDS))
    before = frozen_digest(config)
    described = json.loads((open_clips_folder / "open_clip_config.json").read_text())
    described["preprocess_cfg"]["mean"] = [0.5, 0.5, 0.5]
    (open_clips_folder / "open_clip_config.json").write_text(json.dumps(described))
    assert frozen_digest(config) != before


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_transformers_folder_gives_transformers_embeddings(tmp_path, activation):
    torch.manual_seed(3)
    text = {"hidden_size": 88, "intermediate_size": 120, "num_attention_heads": 4, "num_hidden_layers": 2}
    vision = {"hidden_size": 32, "intermediate_size": 70, "num_attention_heads": 2, "num_hidden_layers": 3}
    text |= {"hidden_act": activation, "max_position_embeddings": 24, "layer_norm_eps": 1e-3, "initializer_range": 0.5}
    vision |= {"hidden_act": activation, "image_size": 32, "patch_size": 8, "initializer_range": 0.5}
    expected = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=20)).eval()
    with torch.no_grad():
        for parameter in expected.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # biases and norms start as 0 and 1
    expected.save_pretrained(tmp_path)
    CLIPImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path)
    ours = clip.load_clip(of_folder(tmp_path))
    with torch.inference_mode():
        image, words = expected(tokens(), images(), return_dict=False)[3:1:-1]
        torch.testing.assert_close(ours.encode_image(images(), normalize=True), image, atol=1e-5, rtol=0)
        torch.testing.assert_close(ours.encode_text(tokens(), normalize=True), words, atol=1e-5, rtol=0)
    torch.testing.assert_close(ours.logit_scale, expected.logit_scale)
    mean, std = (value.flatten().tolist() for value in clip.pixel_statistics(ours))
    assert mean == pytest.approx([0.1, 0.2, 0.3])
    assert std == pytest.approx(open_clip.OPENAI_DATASET_STD)
    assert image_size(of_folder(tmp_path)) == 32


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    """The smallest CLIPModel, saved."""
    folder = tmp_path_factory.mktemp("hugging-face")
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = CLIPConfig(text_config=sizes, vision_config=sizes | {"image_size": 32, "patch_size": 16})
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_a_folder_takes_no_weights_and_is_none(open_clips_folder, hugging_face, named):
    weights = open_clips_folder / "open_clip_model.safetensors"
    with pytest.raises(ValueError, match=r"emovclip\.weights=null"):
        frozen_digest(of_folder(open_clips_folder, {"emovclip.weights": str(weights)}))
    with pytest.raises(ValueError, match=r"emovclip\.weights: found the folder .*emovclip\.clip"):
        frozen_digest(named({"emovclip.weights": str(open_clips_folder)}))
    with pytest.raises(ValueError, match=r"emovclip\.weights: .*emovclip\.clip"):
        clip.load_clip(named({"emovclip.weights": str(hugging_face / "model.safetensors")}))
    with pytest.raises(ValueError, match=r"emovclip\.weights: .*with QuickGELU"):
        clip.load_clip(named({"emovclip.weights": str(weights)}))
    clip.load_clip(named({"emovclip.weights": str(weights)}, quick_gelu=True))
