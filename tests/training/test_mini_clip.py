"""The mini CLIP: an ordinary open_clip model that fits the code which makes it, and reads faces it never saw."""

import shutil
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open

from emo_ray.data.synthetic import LABELS
from emo_ray.data.synthetic import canvas as synthetic_canvas
from emo_ray.data.synthetic import face as synthetic_face
from emo_ray.training import mini_clip
from emo_ray.training.mini_clip import FILES, NAME, SETTINGS, Pairs, ProbeSet


@pytest.fixture(scope="module")
def metadata():
    """What the shipped weights say about themselves."""
    with safe_open(FILES["safetensors"], "pt") as weights:
        return weights.metadata()


@pytest.fixture(scope="module")
def loaded():
    """Model and tokenizer, loaded by open_clip's own API alone."""
    open_clip.add_model_config(FILES["json"])
    model = open_clip.create_model(NAME, pretrained=str(FILES["safetensors"])).eval()
    return model, open_clip.get_tokenizer(NAME, bpe_path=str(FILES["bpe.gz"]))


def strongest_stills(count, seed=11):
    """Faces at their strongest of people who are not in the pre-training, with their labels."""
    frames, labels = [], []
    for number in range(count):
        label = LABELS[number % len(LABELS)]
        moments = synthetic_face.sample_act(label, np.random.default_rng([seed, number]), np.linspace(0, 2, 9), 2.0)
        t = int(np.argmax([sum(units[name] for name in mini_clip.UNIT_PHRASES) for units in moments.units_T]))
        strongest = replace(moments, units_T=moments.units_T[t : t + 1], pose_T3=moments.pose_T3[t : t + 1])
        look = synthetic_face.sample_look(np.random.default_rng([seed, number, 1]))
        frames.append(synthetic_face.paint(look, strongest)[0])
        labels.append(label)
    return mini_clip.normalised(frames, 64), np.array(labels)


def test_the_weights_are_those_that_this_code_makes(metadata):
    assert mini_clip.changed_inputs(metadata) == [], "make the weights anew: python -m emo_ray.training.mini_clip"


def test_the_shipped_files_are_small():
    with safe_open(FILES["safetensors"], "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    assert sum(path.stat().st_size for path in FILES.values()) < 2.5e6


def lighter(colours, share=0.2):
    """A colour, or a palette of them, moved towards a middle grey."""
    return tuple(lighter(c) if isinstance(c, tuple) else round(c + share * (128 - c)) for c in colours)


@pytest.mark.parametrize(
    ("module", "name", "change", "input_names"),
    [
        (mini_clip, "TEMPLATES", lambda old: ("{} it is", *old[1:]), {"phrases", "captions"}),
        (mini_clip, "WORDS", lambda old: old | {"sad": ("sad", "gloomy", "unhappy")}, {"phrases", "captions"}),
        (mini_clip, "UNIT_PHRASES", lambda old: dict(reversed(old.items())), {"phrases", "captions"}),
        (mini_clip, "LABELS", lambda old: old[::-1], {"labels", "expressions", "captions", "stills"}),
        (mini_clip, "DURATION_S", lambda old: old * 1.5, {"expressions", "stills"}),
        (synthetic_face, "_SKINS", lambda old: (*old[:5], lighter(old[5])), {"stills"}),
        (synthetic_face, "_IRISES", lambda old: (lighter(old[0]), *old[1:]), {"stills"}),
        (synthetic_face, "_LIP", lighter, {"stills"}),
        (synthetic_face, "_TEETH", lighter, {"stills"}),
        (synthetic_canvas, "_MARGIN", lambda old: old + 0.01, {"stills"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_weights_of_other_captions_or_faces_are_noticed(metadata, monkeypatch, module, name, change, input_names):
    monkeypatch.setattr(module, name, change(getattr(module, name)))
    changed = set(mini_clip.changed_inputs(metadata))
    assert changed >= input_names
    if input_names == {"stills"}:
        assert changed == input_names


def test_weights_of_another_expression_are_noticed(metadata, monkeypatch):
    stronger = synthetic_face.EXPRESSIONS["sad"].units | {"15": 0.76}
    monkeypatch.setitem(synthetic_face.EXPRESSIONS, "sad", replace(synthetic_face.EXPRESSIONS["sad"], units=stronger))
    assert "expressions" in mini_clip.changed_inputs(metadata)


@pytest.mark.parametrize("name", list(vars(SETTINGS)))
def test_weights_of_other_settings_are_noticed(metadata, monkeypatch, name):
    monkeypatch.setattr(mini_clip, "SETTINGS", replace(SETTINGS, **{name: getattr(SETTINGS, name) + 1}))
    assert "settings" in mini_clip.changed_inputs(metadata)


@pytest.mark.parametrize(("kind", "name"), [("bpe.gz", "tokenizer"), ("json", "architecture")])
def test_weights_of_another_tokenizer_or_architecture_are_noticed(metadata, monkeypatch, tmp_path, kind, name):
    path = tmp_path / FILES[kind].name
    shutil.copy(FILES[kind], path)
    monkeypatch.setitem(FILES, kind, path)
    assert mini_clip.changed_inputs(metadata) == []
    path.write_bytes(b'{"embed_dim": 32}' if kind == "json" else b"other merges")
    assert mini_clip.changed_inputs(metadata) == [name]


def test_a_rounding_error_of_the_renderer_is_no_other_still(metadata, monkeypatch):
    def nudged(*row):
        still, text, label = captioned_still(*row)
        noise_HWC = np.random.default_rng(row).integers(-1, 2, still.shape)
        return np.clip(still + noise_HWC, 0, 255).astype(np.uint8), text, label

    captioned_still = mini_clip.captioned_still
    monkeypatch.setattr(mini_clip, "captioned_still", nudged)
    assert mini_clip.changed_inputs(metadata) == []


def test_weights_without_pins_differ_in_everything(metadata):
    assert sorted(mini_clip.changed_inputs({})) == sorted(set(metadata) - {"probe"})


def test_words_of_the_captions_are_single_tokens_and_others_still_have_some(loaded):
    _, tokenize = loaded
    for words in mini_clip.WORDS.values():
        for word in words:
            assert (tokenize([word])[0] != 0).sum() == 3, word  # start, word, end
    assert (tokenize(["zyzzyva"])[0] != 0).sum() > 3


def test_captions_name_expressions_and_never_colours():
    rng = np.random.default_rng(0)
    stills = [mini_clip.captioned_still(person, 0) for person in range(60)]
    names_label = [any(word in text for word in mini_clip.WORDS[label]) for _, text, label in stills]
    assert 0.4 < np.mean(names_label) < 0.95  # web captions are not clean, and resting faces are called neutral
    assert not any(word in text for _, text, _ in stills for word in ("hair", "skin", "dark", "red", "background"))
    neutral = dict.fromkeys(mini_clip.UNIT_PHRASES, 0.0)
    texts = [mini_clip.caption("happy", neutral, rng) for _ in range(300)]
    assert np.mean([any(word in text for word in mini_clip.WORDS["neutral"]) for text in texts]) > 0.85
    assert np.mean(["smile" in mini_clip.caption("happy", neutral | {"12": 0.9}, rng) for _ in range(300)]) > 0.4


def test_it_finds_the_caption_of_faces_it_never_saw(loaded):
    """Worried and surprised stills look alike, and so do angry and sad ones: pairs are told apart, not their halves."""
    model, tokenize = loaded
    images, labels = strongest_stills(120)
    with torch.inference_mode():
        image_BD = model.encode_image(images, normalize=True)
        text_KD = model.encode_text(tokenize(list(LABELS)), normalize=True)
    guesses = np.array(LABELS)[(image_BD @ text_KD.T).argmax(dim=1).numpy()]
    pair = {"worried": "surprise", "sad": "angry"}
    assert np.mean(guesses == labels) > 0.5  # chance is 0.17
    assert np.mean([pair.get(a, a) == pair.get(b, b) for a, b in zip(guesses, labels, strict=True)]) > 0.85


def test_training_lowers_both_losses():
    """The training loop itself, for 15 of its 1500 steps."""
    settings = replace(SETTINGS, steps=15, batch_size=32)
    torch.manual_seed(0)
    rows = [(person, number) for person in range(16) for number in range(4)]
    frames, captions, labels = zip(*(mini_clip.captioned_still(*row) for row in rows), strict=True)
    images = mini_clip.normalised(frames, 64)
    open_clip.add_model_config(FILES["json"])
    model, words = open_clip.create_model(NAME), torch.nn.Linear(64, 5)
    tokens = open_clip.get_tokenizer(NAME, bpe_path=str(FILES["bpe.gz"]))(list(captions))
    bags = torch.stack([(tokens == token).any(dim=1) for token in tokens.unique()[-5:]], dim=1).float()
    pairs = Pairs(images, tokens, bags)

    def measure():
        with torch.no_grad():
            return {name: loss.item() for name, loss in mini_clip.losses(model.eval(), words, pairs).items()}

    before = measure()
    mini_clip.train(model, words, pairs, ProbeSet(images, labels, [person for person, _ in rows]), settings)
    after = measure()
    assert all(after[name] < before[name] for name in before)


def test_merges_make_one_token_of_every_word(tmp_path):
    size = mini_clip.write_merges(["a calm face", "a frown , wide eyes"], tmp_path / "merges.gz")
    tokenize = open_clip.SimpleTokenizer(str(tmp_path / "merges.gz"), context_length=16)
    assert tokenize.vocab_size == size
    assert (tokenize(["a calm face , wide eyes"])[0] != 0).sum() == 8
