"""Transcript encoders: neighbours never matter, and pooling is what it says."""

import pytest
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast

from emo_ray.data.batch import Batch
from emo_ray.models import text
from emo_ray.settings import Text

WORDS = ["[UNK]", "[END]", "[PAD]", "i", "am", "so", "very", "happy", "sad", "today", "and", "you", "are", "not"]
TEXTS = ("i am happy", "sad", "you are not so very sad and i am not happy today", "very unheard words")


def batch_of(*texts):
    return Batch(texts, torch.ones(len(texts), 3, dtype=torch.bool), texts=texts)


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def model_folder(request, tmp_path_factory):
    """A tiny encoder with a pad token, and a tiny decoder-only model with none."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    pad = {"pad_token": "[PAD]"} if request.param == "bert" else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[END]", **pad)
    fast.save_pretrained(folder)
    if request.param == "bert":
        shape = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 24}
        BertModel(BertConfig(vocab_size=len(WORDS), **shape)).save_pretrained(folder)
    else:
        config = GPT2Config(vocab_size=len(WORDS), n_embd=16, n_layer=5, n_head=2, bos_token_id=1, eos_token_id=1)
        GPT2Model(config).save_pretrained(folder)
    return folder


def test_ngrams_are_scikit_learns():
    reference = HashingVectorizer(n_features=256, ngram_range=(1, 2), token_pattern=text.TOKEN).transform(TEXTS)
    found = text.build(Text(ngram_features=256))(batch_of(*TEXTS))
    torch.testing.assert_close(found, torch.tensor(reference.toarray(), dtype=torch.float32))


def test_ngrams_see_single_letters_and_other_scripts():
    found = text.build(Text())(batch_of("I", "我 很 高兴", "好", "...?!"))
    assert (found.abs().sum(dim=1) > 0).all()


def test_language_model_does_not_depend_on_neighbours(model_folder):
    encode = text.build(Text(encoder=str(model_folder)))
    alone = torch.cat([encode(batch_of(t)) for t in TEXTS])
    torch.testing.assert_close(encode(batch_of(*TEXTS)), alone, atol=1e-5, rtol=1e-4)
    assert alone.shape == (len(TEXTS), encode.dim)


def test_language_model_is_the_mean_over_tokens_of_the_mean_of_layers(model_folder):
    encode = text.build(Text(encoder=str(model_folder), layers=(-1, -3)))
    ids = torch.tensor([[WORDS.index(w) for w in TEXTS[0].split()]])
    states = encode.model(input_ids=ids, output_hidden_states=True).hidden_states
    reference = ((states[-1] + states[-3]) / 2).mean(dim=1)
    torch.testing.assert_close(encode(batch_of(TEXTS[0])), reference, atol=1e-5, rtol=1e-4)


def test_long_texts_are_cut_at_max_tokens(model_folder):
    encode = text.build(Text(encoder=str(model_folder), max_tokens=3))
    assert torch.equal(encode(batch_of("i am so very sad")), encode(batch_of("i am so")))


def test_digest_follows_settings_not_batch_size(model_folder):
    own = Text(encoder=str(model_folder))
    assert text.digest(own) == text.digest(own.model_copy(update={"batch_size": 2}))
    assert text.digest(own) != text.digest(own.model_copy(update={"max_tokens": 9}))
    assert text.digest(Text(ngram_features=64)) != text.digest(Text())


def test_code_from_a_repository_wants_a_pinned_revision():
    with pytest.raises(ValueError, match=r"text\.revision"):
        Text(encoder="somebody/model", trust_remote_code=True)
