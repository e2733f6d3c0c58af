"""A tiny CLIP, and folders of tiny transformers models, for the tests of models."""

import json

import pytest
from tiny_clips import LABELS

from emo_ray.config import Config, override

TINY = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 16, "heads": 4, "layers": 2},
}


@pytest.fixture
def tiny(tmp_path):
    """Make a config on a tiny ViT; keyword arguments override its open_clip model config."""

    def make(changes=None, frames=4, name="tiny-vit", **architecture):
        path = tmp_path / f"{name}.json"
        vision = TINY["vision_cfg"] | architecture.pop("vision_cfg", {})
        path.write_text(json.dumps(TINY | {"vision_cfg": vision} | architecture))
        base = {"emovclip.clip": str(path), "media.frames": frames, "data.labels": LABELS, "emovclip.pooling": "mean"}
        return override(Config(), base | (changes or {}))

    return make


@pytest.fixture(scope="module")
def folder_of(request, tmp_path_factory):
    """The folder of a saved model by its name: `saved(folder, *FAMILIES[name])` of the test's module, run once."""
    folders, module = {}, request.module

    def folder(name):
        if name not in folders:
            folders[name] = str(module.saved(tmp_path_factory.mktemp(name), *module.FAMILIES[name]))
        return folders[name]

    return folder
