"""Which CLIP is loaded, and how it is recognised."""

import gzip

import open_clip
import torch

from emo_ray.config import Config, override
from emo_ray.models import clip, emovclip

LABELS = ("neutral", "very_happy", "sad")


def test_weights_come_from_a_file_and_its_content_is_in_the_digest(tiny, tmp_path):
    source = emovclip.build(tiny({"seed": 7}), LABELS).clip
    weights = tmp_path / "clip.pt"
    torch.save(source.state_dict(), weights)
    config = tiny({"emovclip.weights": str(weights)})
    loaded, frames = clip.load_clip(config), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded.encode_image(frames), source.eval().encode_image(frames))
    before = clip.frozen_digest(config)
    torch.save(emovclip.build(tiny({"seed": 8}), LABELS).clip.state_dict(), weights)
    assert clip.frozen_digest(config) != before


def test_merges_beside_an_architecture_are_its_tokenizer(tiny, tmp_path):
    words = ["very happy"]
    assert torch.equal(clip.tokenizer(tiny())(words), open_clip.SimpleTokenizer()(words, 24))
    (tmp_path / "tiny-vit.bpe.gz").write_bytes(gzip.compress(b"#version: 0.2\nh a\nha p\np y</w>"))
    start, *word, end = [i for i in clip.tokenizer(tiny())(["happy"])[0].tolist() if i]
    assert word == [514 - 1, 514]  # hap, py</w>: the second and third merge behind 512 bytes
    assert (start, end) == (515, 516)


def test_image_size_needs_no_model(tiny):
    assert clip.image_size(tiny()) == 32
    assert clip.image_size(override(Config(), {"emovclip.clip": "ViT-L-14"})) == 224
