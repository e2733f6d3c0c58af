"""Text encoders: neighbours never matter, templates are filled and cut, and features are pooled, as documented."""

import shutil
from functools import cache

import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Model,
    Qwen2Tokenizer,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from emo_ray.config.model_settings import Text
from emo_ray.data.batch import TextBatch, unlabelled
from emo_ray.models import text, weights
from emo_ray.models.identity import text_digest

WORDS = (
    *("[UNK]", "[PAD]", "[BOS]", "[EOS]"),  # the pad token is number 1, as RoBERTa's
    *("i", "am", "so", "very", "happy", "sad", "today", "and", "you", "are", "not", "says", ":", "feels"),
)
LETTERS = (*WORDS[:4], "\u0120", *"abcdefghijklmnopqrstuvwxyz")  # as Qwen2's tokenizer has them, its space too
TEXTS = (
    *("i am happy", "sad", "you are not so very sad and i am not happy today", "very unheard words", "i am"),
    *("today today today", "so so", "you and i and you and i and you and i"),
)
SHAPE = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 24}
ROOM = {"vocab_size": len(WORDS), "max_position_embeddings": 32}
GPT2 = GPT2Config(vocab_size=len(WORDS), n_positions=32, n_embd=16, n_layer=5, n_head=2, bos_token_id=3, eos_token_id=3)
T5 = T5Config(
    vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=24, num_layers=5, num_decoder_layers=1, num_heads=2, pad_token_id=1
)
FAMILIES = {  # model class, architecture, tokens around a text, other arguments of the tokenizer
    "bert": (BertModel, BertConfig(**SHAPE, **ROOM, pad_token_id=1), "[BOS] $A [EOS]", {"pad_token": "[PAD]"}),
    "roberta": (RobertaModel, RobertaConfig(**SHAPE, **ROOM), "[BOS] $A [EOS]", {"pad_token": "[PAD]"}),
    "t5": (T5Model, T5, "$A [EOS]", {"pad_token": "[PAD]"}),
    "gpt2": (GPT2LMHeadModel, GPT2, "$A", {}),
    "qwen2": (Qwen2Model, Qwen2Config(**SHAPE, num_key_value_heads=1, vocab_size=len(LETTERS)), "$A", {}),
    "llama": (  # its pad token is an index for which the model has no embedding
        LlamaForCausalLM,
        LlamaConfig(**SHAPE, **ROOM, bos_token_id=2, eos_token_id=3, pad_token_id=-1),
        "[BOS] $A",
        {"pad_token": "[ADDED]"},
    ),
}


def batch_of(*texts, readings=None):
    names = tuple(map(str, range(len(texts))))
    return TextBatch(
        clip_ids=names,
        present_BM=torch.ones(len(texts), 3, dtype=torch.bool),
        label_B=unlabelled(len(texts)),
        texts=texts,
        readings=readings or (None,) * len(texts),
    )


def words(around="$A", **settings):
    """A tokenizer whose tokens are the words between spaces."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(single=around, special_tokens=[("[BOS]", 2), ("[EOS]", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[EOS]", **settings)


def letters():
    """A tokenizer of single letters, in the class that transformers always takes for Qwen2."""
    return Qwen2Tokenizer({letter: i for i, letter in enumerate(LETTERS)}, [], padding_side="left")


def saved(folder, family, architecture, around, settings):
    """A folder with a tiny model whose biases and norms are not the 0 and 1 they start with."""
    torch.manual_seed(0)
    model = family(architecture)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5 if parameter.ndim == 1 else 0.3)
    model.save_pretrained(folder)
    tokenizer = letters() if family is Qwen2Model else words(around, padding_side="left", **settings)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(params=FAMILIES)
def model_folder(request, folder_of):
    return folder_of(request.param)


@pytest.fixture
def bert(folder_of):
    return folder_of("bert")


@cache
def transformers_own(folder):
    """The encoder of a folder, as transformers loads it."""
    model = AutoModel.from_pretrained(folder).eval()
    return model.encoder if isinstance(model, T5Model) else model


def plainly(folder, sentence, layers):
    """The mean over a text's tokens of the mean over layers, without padding, computed with transformers."""
    name = next(name for name in FAMILIES if f"{name}0" in folder)
    ids = [WORDS.index(word) if word in WORDS else 0 for word in sentence.split()]
    if name == "qwen2":
        ids = [LETTERS.index(letter) for letter in sentence.replace(" ", "\u0120")]
    before, after = ([WORDS.index(word) for word in part.split()] for part in FAMILIES[name][2].split("$A"))
    with torch.inference_mode():
        states = transformers_own(folder)(
            input_ids=torch.tensor([[*before, *ids, *after]]), output_hidden_states=True
        ).hidden_states
    mean_LD = torch.stack([states[layer][0] for layer in layers]).mean(dim=0)
    return mean_LD[len(before) : len(before) + len(ids)].mean(dim=0, keepdim=True)


def test_ngrams_are_scikit_learns():
    reference = HashingVectorizer(n_features=256, ngram_range=(1, 2), token_pattern=text.TOKEN).transform(TEXTS)
    actual = text.build(Text(ngram_features=256))(batch_of(*TEXTS))
    torch.testing.assert_close(actual, torch.tensor(reference.toarray(), dtype=torch.float32))


def test_ngrams_see_single_letters_and_other_scripts():
    actual = text.build(Text())(batch_of("I", "我 很 高兴", "好", "...?!"))
    assert (actual.abs().sum(dim=1) > 0).all()


def test_ngrams_see_the_filled_template():
    config = Text(template="says: {transcript}", template_with_reading="{transcript} ({reading})")
    actual = text.build(config)(batch_of("a b", "a b", readings=("c", None)))
    assert torch.equal(actual, text.build(Text())(batch_of("a b (c)", "says: a b")))


def test_a_language_model_does_not_depend_on_neighbours(model_folder):
    encode = text.build(Text(encoder=model_folder, layers=(0, 2, -1)))
    alone = torch.cat([encode(batch_of(t)) for t in TEXTS])
    torch.testing.assert_close(encode(batch_of(*TEXTS)), alone, atol=1e-5, rtol=0)
    assert alone.shape == (8, encode.dim)


def test_a_language_model_is_the_mean_over_the_texts_tokens_of_the_mean_of_layers(model_folder):
    encode = text.build(Text(encoder=model_folder, layers=(-1, -3, 0)))
    expected = torch.cat([plainly(model_folder, t, (-1, -3, 0)) for t in TEXTS])
    torch.testing.assert_close(encode(batch_of(*TEXTS)), expected, atol=1e-5, rtol=0)


def test_a_text_without_tokens_has_no_feature(model_folder):
    encode = text.build(Text(encoder=model_folder))
    actual = encode(batch_of("", *TEXTS[:2], ""))
    assert actual.isnan().all(dim=1).tolist() == [True, False, False, True]
    torch.testing.assert_close(actual[1:3], encode(batch_of(*TEXTS[:2])), atol=1e-5, rtol=0)
    assert encode(batch_of("")).isnan().all()


def test_templates_are_filled_with_the_reading_where_there_is_one(bert):
    config = Text(encoder=bert, template="you says : {transcript}", template_with_reading="{reading} and {transcript}")
    encode, plain = text.build(config), text.build(Text(encoder=bert))
    actual = encode(batch_of("i am", "i am", "i am", readings=("so sad", None, "  ")))
    torch.testing.assert_close(actual, plain(batch_of("so sad and i am", *["you says : i am"] * 2)), atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(batch_of("i am")), plain(batch_of("you says : i am")), atol=1e-5, rtol=0)


def test_what_is_in_a_transcript_is_never_a_place_of_the_template():
    odd = r"{reading} {x} \1 \g<0> {transcript}"
    assert text.filled(Text(), odd, "so") == f"{odd}\nso"
    assert text.filled(Text(template='{"text": "{transcript}"}'), odd) == '{"text": "' + odd + '"}'


@pytest.mark.parametrize(
    ("setting", "template"),
    [
        *(("template", t) for t in ("", "text", "{transcipt}", "{transcript} {reading}", "{transcript}{transcript}")),
        *(("template_with_reading", t) for t in ("{transcript}", "{reading}", "{reading} {transcript} {emotion}")),
        ("template", {"transcript": None}),
    ],
)
def test_a_wrong_template_is_one_clear_message(setting, template):
    with pytest.raises(ValueError, match=f"{setting}\n.*found .*expected ") as error:
        Text(**{setting: template})
    assert str(template) in str(error.value)


@pytest.mark.parametrize(("family", "around"), [("bert", 2), ("gpt2", 0), ("llama", 1)])
def test_long_texts_lose_the_readings_end_first_and_then_the_transcripts(folder_of, family, around):
    folder, transcript, reading = folder_of(family), "i am so very happy", "you are sad and not happy today"
    plain = text.build(Text(encoder=folder))
    for room, expected in (
        (13, "i am so very happy says you are sad and not happy today"),
        (9, "i am so very happy says you are sad"),
        (7, "i am so very happy says you"),
        (6, "i am so very happy"),  # no part of the reading fits, so the template with a reading is not used
        (5, "i am so very happy"),
        (3, "i am so"),
    ):
        template = "{transcript} says {reading}"
        encode = text.build(Text(encoder=folder, max_tokens=room + around, template_with_reading=template))
        actual = encode(batch_of(transcript, readings=(reading,)))
        torch.testing.assert_close(actual, plain(batch_of(expected)), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("family", "room"), [("bert", 30), ("roberta", 28), ("gpt2", 32), ("llama", 31)])
def test_texts_are_cut_where_the_model_has_no_more_positions(folder_of, family, room):
    """A model with 32 positions, some of which special tokens take; RoBERTa's start after its pad token's number."""
    encode, many = text.build(Text(encoder=folder_of(family))), ["i", "am", "so", "very", "sad"] * 20
    cut = encode(batch_of(" ".join(many[:room])))
    torch.testing.assert_close(encode(batch_of(" ".join(many))), cut, atol=1e-6, rtol=0)
    assert not torch.allclose(encode(batch_of(" ".join(many[: room - 1]))), cut, atol=1e-6)


def test_a_template_without_room_for_a_transcript_is_one_clear_message(bert):
    encode = text.build(Text(encoder=bert, max_tokens=4, template="you says : {transcript}"))
    with pytest.raises(ValueError, match=r"text\.template='you says : {transcript}' .*4 tokens"):
        encode(batch_of("i am"))


def test_digest_follows_what_decides_the_values_and_nothing_else(bert, tmp_path):
    config = Text(encoder=bert)
    digest, moved = text_digest(config), str(shutil.copytree(bert, tmp_path / "moved"))
    for same in ({"batch_size": 2}, {"encoder": moved}, {"device_map": "auto"}, {"ngram_features": 99}):
        assert text_digest(config.model_copy(update=same)) == digest
    reading = {"template_with_reading": "{reading}: {transcript}"}
    assert (
        text_digest(config.model_copy(update=reading)) == digest
    )  # no clip has a reading, so this template is not used
    others = ({"max_tokens": 9}, {"layers": (-1,)}, {"dtype": "bf16"}, {"template": "a {transcript}"})
    digests = {
        *(digest, text_digest(config, "readings"), text_digest(config, "other readings")),
        text_digest(config.model_copy(update=reading), "readings"),
        *(text_digest(config.model_copy(update=other)) for other in others),
    }
    assert len(digests) == 4 + len(others)
    ngrams = (Text(), Text(ngram_features=64), Text(template="a {transcript}"))
    assert len({*(text_digest(config) for config in ngrams), text_digest(Text(), "readings")}) == 4


def test_layers_that_the_model_has_not_are_named_with_the_range(bert):
    with pytest.raises(ValueError, match=r"layers \[-7\], .*-6 to 5"):
        text.build(Text(encoder=bert, layers=(-7,)))(batch_of("sad"))


def test_bf16_is_near_fp32_and_auto_means_fp32_here(folder_of):
    exact, rough, auto = (
        text.build(Text(encoder=folder_of("llama"), dtype=dtype))(batch_of(*TEXTS))
        for dtype in ("fp32", "bf16", "auto")
    )
    assert torch.equal(auto, exact)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("changes", "packages"), [({"dtype": "int8"}, "accelerate bitsandbytes"), ({"device_map": "auto"}, "accelerate")]
)
def test_missing_packages_are_named(bert, monkeypatch, changes, packages):
    monkeypatch.setattr(weights, "find_spec", lambda name: None)  # as if the packages were not installed
    with pytest.raises(ValueError, match=f"pip install {packages}$"):
        text.build(Text(encoder=bert, **changes))


def test_weights_that_were_placed_stay_where_they_are(bert):
    encode = text.build(Text(encoder=bert))
    assert encode.to("meta").model.device.type == "meta"
    encode = text.build(Text(encoder=bert))
    encode.placed = True
    assert encode.to("meta").model.device.type == "cpu"


def test_code_from_a_repository_wants_a_pinned_revision():
    with pytest.raises(ValueError, match=r"text\.revision"):
        Text(encoder="somebody/model", trust_remote_code=True)
