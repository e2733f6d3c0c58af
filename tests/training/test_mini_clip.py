"""The mini CLIP: an ordinary open_clip model, made by the script that ships; it reads faces it never saw."""

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open

from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic_face import act, draw, look
from emo_ray.training import mini_clip
from emo_ray.training.mini_clip import FILES, NAME


@pytest.fixture(scope="module")
def loaded():
    """Model and tokenizer by open_clip's own API alone."""
    open_clip.add_model_config(FILES["json"])
    model = open_clip.create_model(NAME, pretrained=str(FILES["safetensors"])).eval()
    return model, open_clip.get_tokenizer(NAME, bpe_path=str(FILES["bpe.gz"]))


def stills(count, seed=11):
    """Faces at their strongest of people that are not in the pre-training, with their labels."""
    frames, labels = [], []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        moment = act(label, np.random.default_rng([seed, number]), np.linspace(0, 2, 9), 2.0)
        strength = [sum(units[name] for name in mini_clip.UNIT_PHRASES) for units in moment.units_T]
        frames.append(draw(look(np.random.default_rng([seed, number, 1])), moment)[int(np.argmax(strength))])
        labels.append(label)
    return mini_clip.normalised(frames, 64), np.array(labels)


def test_the_weights_are_those_of_the_script_that_ships():
    with safe_open(FILES["safetensors"], "pt") as weights:
        about = weights.metadata()
        kinds = {weights.get_tensor(name).dtype for name in weights.keys()}  # noqa: SIM118
    assert about["script"] == mini_clip.script_digest(), "the script or the faces changed: make the weights anew"
    assert kinds == {torch.float16}
    assert sum(path.stat().st_size for path in FILES.values()) < 2.5e6


def test_words_of_the_captions_are_single_tokens_and_others_still_have_some(loaded):
    _, tokenize = loaded
    for words in mini_clip.WORDS.values():
        for word in words:
            assert (tokenize([word])[0] != 0).sum() == 3, word  # start, word, end
    assert (tokenize(["zyzzyva"])[0] != 0).sum() > 3


def test_captions_name_expressions_and_never_colours():
    rng = np.random.default_rng(0)
    captions = [mini_clip.captioned(person, 0) for person in range(60)]
    named = [any(word in text for word in mini_clip.WORDS[label]) for _, text, label in captions]
    assert 0.4 < np.mean(named) < 0.95  # web captions are not clean, and resting faces are called neutral
    assert not any(word in text for _, text, _ in captions for word in ("hair", "skin", "dark", "red", "background"))
    neutral = dict.fromkeys(mini_clip.UNIT_PHRASES, 0.0)
    texts = [mini_clip.caption("happy", neutral, rng) for _ in range(300)]
    assert np.mean([any(w in t for w in mini_clip.WORDS["neutral"]) for t in texts]) > 0.85
    assert np.mean(["smile" in mini_clip.caption("happy", neutral | {"12": 0.9}, rng) for _ in range(300)]) > 0.4


def test_it_finds_the_caption_of_faces_it_never_saw(loaded):
    """Worried and surprised stills look alike, and so do angry and sad ones: pairs are told apart, not their halves."""
    model, tokenize = loaded
    images, labels = stills(120)
    with torch.inference_mode():
        cosines = (
            model.encode_image(images, normalize=True) @ model.encode_text(tokenize(list(LABELS)), normalize=True).T
        )
    guesses = np.array(LABELS)[cosines.argmax(dim=1).numpy()]
    pair = {"worried": "surprise", "sad": "angry"}
    assert np.mean(guesses == labels) > 0.5  # chance is 0.17
    assert np.mean([pair.get(a, a) == pair.get(b, b) for a, b in zip(guesses, labels, strict=True)]) > 0.85


def test_training_lowers_both_losses(monkeypatch):
    """The script's own loop, for a minute of its day."""
    monkeypatch.setattr(mini_clip, "STEPS", 30)
    monkeypatch.setattr(mini_clip, "BATCH", 32)
    torch.manual_seed(0)
    frames, captions, labels = zip(*(mini_clip.captioned(p, n) for p in range(16) for n in range(8)), strict=True)
    images = mini_clip.normalised(frames, 64)
    open_clip.add_model_config(FILES["json"])
    model, words = open_clip.create_model(NAME), torch.nn.Linear(64, 5)
    tokens = open_clip.get_tokenizer(NAME, bpe_path=str(FILES["bpe.gz"]))(list(captions))
    bags = torch.stack([(tokens == row).any(dim=1) for row in tokens.unique()[-5:]], dim=1).float()

    def measured():
        with torch.no_grad():
            return {k: v.item() for k, v in mini_clip.losses(model.eval(), words, images, tokens, bags).items()}

    before = measured()
    mini_clip.train(model, words, (images, tokens, bags), (images, labels, [i // 8 for i in range(len(images))]))
    after = measured()
    assert all(after[name] < before[name] for name in before)


def test_merges_make_one_token_of_every_word(tmp_path):
    size = mini_clip.write_merges(["a calm face", "a frown , wide eyes"], tmp_path / "merges.gz")
    tokenize = open_clip.SimpleTokenizer(str(tmp_path / "merges.gz"), context_length=16)
    assert tokenize.vocab_size == size
    assert (tokenize(["a calm face , wide eyes"])[0] != 0).sum() == 8
