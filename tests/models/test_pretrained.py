"""Loading by name or folder: whole checkpoints only, and no code that nobody read."""

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import transformers.dynamic_module_utils
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from emo_ray.config.model_settings import Text
from emo_ray.data.batch import TextBatch, unlabelled
from emo_ray.models import text
from emo_ray.models.identity import text_digest
from emo_ray.models.pretrained_source import code_digest, source_digest

WORDS = ("[UNK]", "[EOS]", "i", "am", "so", "happy")
TEXTS = ("i am happy", "so", "i am so so happy", "am")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CODE = '''
import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput


class OwnConfig(PreTrainedConfig):
    model_type = "own"

    def __init__(self, vocab_size=6, hidden_size=8, num_hidden_layers=3, **kwargs):
        self.vocab_size, self.hidden_size, self.num_hidden_layers = vocab_size, hidden_size, num_hidden_layers
        super().__init__(**kwargs)


class OwnModel(PreTrainedModel):
    """Each layer adds what it makes of the mean of the tokens so far."""

    config_class = OwnConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed_tokens = torch.nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = torch.nn.ModuleList(
            torch.nn.Linear(config.hidden_size, config.hidden_size) for _ in range(config.num_hidden_layers)
        )
        self.post_init()

    def forward(self, input_ids, attention_mask=None, output_hidden_states=False, **kwargs):
        states = [self.embed_tokens(input_ids)]
        count = torch.arange(1, input_ids.shape[1] + 1).unsqueeze(-1)
        for layer in self.layers:
            states.append(states[-1] + torch.tanh(layer(states[-1].cumsum(dim=1) / count)))
        return BaseModelOutput(last_hidden_state=states[-1], hidden_states=tuple(states))


class OwnForCausalLM(PreTrainedModel):
    config_class = OwnConfig
    base_model_prefix = "PREFIX"

    def __init__(self, config):
        super().__init__(config)
        self.model = OwnModel(config)
        self.lm_head = torch.nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(self, input_ids, **kwargs):
        output = self.model(input_ids, **kwargs)
        return CausalLMOutput(logits=self.lm_head(output.last_hidden_state), hidden_states=output.hidden_states)
'''


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """Keep the folder that transformers copies custom code to, and the import path, out of other tests."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


def tokenizer(*more):
    model = Tokenizer(WordLevel({word: i for i, word in enumerate((*WORDS, *more))}, unk_token="[UNK]"))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, unk_token="[UNK]", eos_token="[EOS]")


def own_weights():
    generator = torch.Generator().manual_seed(0)
    shapes = {"embed_tokens.weight": (6, 8)}
    shapes |= {f"layers.{i}.{name}": shape for i in range(3) for name, shape in (("weight", (8, 8)), ("bias", (8,)))}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def own_folder(folder, classes=("AutoModelForCausalLM",), prefix="model", code=CODE):
    """A model folder like Baichuan2's: code beside the weights, mapped to the causal class alone by default."""
    folder.mkdir()
    mapped = {name: f"modeling_own.{c}" for name, c in {"AutoModel": "OwnModel"}.items() if name in classes}
    mapped |= {"AutoConfig": "modeling_own.OwnConfig", "AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": mapped}))
    (folder / "modeling_own.py").write_text(code.replace("PREFIX", prefix))
    causal = "AutoModel" not in classes
    weights = {f"model.{name}" if causal else name: tensor for name, tensor in own_weights().items()}
    save_file(weights | ({"lm_head.weight": torch.zeros(6, 8)} if causal else {}), folder / "model.safetensors")
    tokenizer().save_pretrained(folder)
    return folder


def trusting(folder):
    return Text(encoder=str(folder), layers=(-1, -2), trust_remote_code=True, revision=code_digest(folder))


def batch_of(*texts):
    return TextBatch(
        clip_ids=texts,
        present_BM=torch.ones(len(texts), 3, dtype=torch.bool),
        label_B=unlabelled(len(texts)),
        texts=texts,
        readings=(None,) * len(texts),
    )


def by_hand(sentence):
    weights, ids = own_weights(), [WORDS.index(word) for word in sentence.split()]
    states = [weights["embed_tokens.weight"][ids]]
    for i in range(3):
        mean_LD = torch.stack([states[-1][: n + 1].mean(dim=0) for n in range(len(ids))])
        made_LD = mean_LD @ weights[f"layers.{i}.weight"].T + weights[f"layers.{i}.bias"]
        states.append(states[-1] + made_LD.tanh())
    return ((states[-1] + states[-2]) / 2).mean(dim=0)


@pytest.mark.parametrize(
    ("classes", "prefix", "body"),
    [
        (("AutoModelForCausalLM",), "model", "OwnModel"),
        (("AutoModelForCausalLM",), "", "OwnForCausalLM"),  # a class without the name of its base model
        (("AutoModel", "AutoModelForCausalLM"), "model", "OwnModel"),
    ],
)
def test_a_model_with_code_of_its_own_gives_its_hidden_states(tmp_path, classes, prefix, body):
    encode = text.build(trusting(own_folder(tmp_path / "own", classes, prefix)))
    expected = torch.stack([by_hand(sentence) for sentence in TEXTS])
    torch.testing.assert_close(encode(batch_of(*TEXTS)), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encode(batch_of(TEXTS[1])), expected[1:2], atol=1e-5, rtol=0)
    assert type(encode.model).__name__ == body


def test_code_runs_only_where_it_is_trusted_and_the_error_says_what_to_set(tmp_path):
    ran = tmp_path / "ran"
    folder = own_folder(tmp_path / "own", code=f"open({str(ran)!r}, 'w').close()\n{CODE}")
    says = rf"own: .*text\.trust_remote_code=true and text\.revision={code_digest(folder)}:"
    for use in (text_digest, text.build):
        with pytest.raises(ValueError, match=says):
            use(Text(encoder=str(folder)))
    assert not ran.exists()
    text_digest(trusting(folder))
    assert not ran.exists()
    text.build(trusting(folder))
    assert ran.exists()


def test_code_that_was_changed_after_it_was_pinned_does_not_run(tmp_path):
    folder = own_folder(tmp_path / "own")
    before = trusting(folder)
    (folder / "modeling_own.py").write_text(f"{CODE}\nraise SystemExit\n")
    for use in (text_digest, text.build):
        with pytest.raises(
            ValueError, match=rf"found text\.revision={before.revision} for code .*{code_digest(folder)}"
        ):
            use(before)


def test_code_from_another_repository_is_refused(tmp_path):
    folder = own_folder(tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"]["AutoModelForCausalLM"] = "somebody/else--modeling.Model"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"somebody/else--modeling.Model"):
        text.build(trusting(folder))


@pytest.mark.parametrize("revision", ["main", "v1.0", "abc"])
def test_branches_and_tags_pin_nothing(revision):
    with pytest.raises(ValueError, match=rf"text\.revision={revision}, expected a commit of somebody/model"):
        text_digest(Text(encoder="somebody/model", trust_remote_code=True, revision=revision))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_that_name", "ImportError: .*nothing_of_that_name"),
        ("import torch\ntorch.nothing_of_that_name", "AttributeError: .*nothing_of_that_name"),
    ],
)
def test_code_that_fails_is_one_message(tmp_path, code, message):
    folder = own_folder(tmp_path / "own", code=code)
    with pytest.raises(ValueError, match=rf"own: .*code for it: {message}"):
        text.build(trusting(folder))


@pytest.fixture
def bert(tmp_path):
    shape = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 12}
    BertForMaskedLM(BertConfig(vocab_size=60, **shape)).save_pretrained(tmp_path / "bert")
    tokenizer(*map(str, range(54))).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def test_a_checkpoint_that_lacks_weights_is_an_error_and_not_a_random_model(bert):
    text.build(Text(encoder=str(bert)))  # it lacks the pooler, which no hidden state needs
    weights = load_file(bert / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, bert / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        text.build(Text(encoder=str(bert)))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", r"bert: .*AutoModel .*config\.json"),
        ("model.safetensors", "bert: .*AutoModel .*whole model folder"),
        ("tokenizer*", "bert: .*tokenizer of 5 tokens .*60"),  # transformers makes one up
    ],
)
def test_a_folder_that_is_not_whole_is_one_message(bert, name, message):
    for path in bert.glob(name):
        path.unlink()
    with pytest.raises(ValueError, match=message) as error:
        text.build(Text(encoder=str(bert)))
    assert type(error.value) is ValueError


def test_another_models_tokenizer_is_one_message(bert):
    with_more = tokenizer(*map(str, range(100)))
    with_more.save_pretrained(bert)
    encode = text.build(Text(encoder=str(bert)))
    with pytest.raises(ValueError, match=r"bert: .*tokens beyond .*60"):
        encode(batch_of("i am 99"))


def test_a_name_is_loaded_from_the_cache_and_stands_for_its_commit(bert, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--somebody--bert"
    shutil.copytree(bert, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    by_name = text.build(Text(encoder="somebody/bert"))(batch_of(*TEXTS))
    assert torch.equal(by_name, text.build(Text(encoder=str(bert)))(batch_of(*TEXTS)))
    assert source_digest("somebody/bert", None) == source_digest("somebody/bert", COMMIT)
    assert text_digest(Text(encoder="somebody/bert")) == text_digest(Text(encoder="somebody/bert", revision=COMMIT))
    (repository / "refs" / "main").write_text(COMMIT[::-1])
    Path(repository / "snapshots" / COMMIT).rename(repository / "snapshots" / COMMIT[::-1])
    assert source_digest("somebody/bert", None) == source_digest("somebody/bert", COMMIT[::-1])
    with pytest.raises(ValueError, match="no model 'somebody/bert'"):
        source_digest("somebody/bert", COMMIT)
