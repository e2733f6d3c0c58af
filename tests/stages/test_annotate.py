"""annotate: a row for every clip with words, each transcript asked about once, through faults, kills and budgets."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emo_ray.config import dump, override
from emo_ray.data.batch import FeatureBatch, TextBatch, unlabelled
from emo_ray.data.manifest import Clip
from emo_ray.models import checkpoint, text
from emo_ray.models.fusion import FusionHead
from emo_ray.models.trainable_state import trained_state
from emo_ray.stages.annotate import annotate
from emo_ray.stages.chat import answer_log
from emo_ray.stages.chat.answer_log import FINAL
from emo_ray.stages.chat.readings import readings_of
from emo_ray.stages.decoding.corpus import plan_corpus
from emo_ray.stages.encoding.actor import encode_rows
from emo_ray.stages.encoding.encoders import frozen_encoders, of_checkpoint
from emo_ray.stages.features import features
from emo_ray.stages.predict import predict

pytestmark = pytest.mark.usefixtures("ray_session")
KEY = "sk-never-to-be-written-anywhere"  # conftest's


def ask(config):
    """The readings that `annotate` shows."""
    return readings_of(config, plan_corpus(config).clips)


JOB = Path(__file__).resolve().parents[2] / "jobs" / "annotate.py"


@pytest.fixture(autouse=True)
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def config_of(tiny_config, asking_of, tmp_path):
    """A function to the config that asks an endpoint about transcripts by clip_id."""

    def config(server, texts, **changes):
        with (tmp_path / "clips.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("clip_id", "text"), *texts.items()])
        asking = {f"annotate.{key}": value for key, value in asking_of(server, **changes).model_dump().items()}
        places = {"data.manifest": str(tmp_path / "clips.csv"), "store.root": str(tmp_path / "store")}
        return override(tiny_config, places | asking)

    return config


def rows_of(readings):
    return {row["clip_id"]: row for row in pq.read_table(readings.path).to_pylist()}


def test_every_transcript_is_asked_about_once_over_clips_and_runs(chat, config_of):
    texts = {"a": "say hello", "b": "say hello", "c": "empty words", "silent": "", "blank": "  "}
    server = chat()
    config = config_of(server, texts)
    first = ask(config)
    rows = rows_of(first)
    assert list(rows) == ["a", "b", "c"]
    assert rows["a"] == rows["b"] | {"clip_id": "a"}
    assert (rows["a"]["reading"], rows["a"]["status"]) == ("They mean: say hello", "ok")
    assert (rows["c"]["reading"], rows["c"]["status"]) == (None, "empty")
    assert rows["a"]["digest"] == answer_log.digest(config.annotate, "say hello")
    assert first.content() == {
        **{"clips": 3, "transcripts": 2, "statuses": {"ok": 2, "empty": 1}, "requests": 2, "tokens": 30}
    }
    again = ask(config)
    assert (again.path, again.digest, again.usage.requests) == (first.path, first.digest, 0)
    more = ask(config_of(server, texts | {"d": "say more"}))
    assert (more.usage.requests, more.digest) == (1, first.digest)
    assert len(rows_of(more)) == 4
    assert set(server.answered.values()) == {1}
    other = ask(override(config, {"annotate.language": "French"}))
    assert (other.usage.requests, other.path.parent == first.path.parent) == (3, False)


def test_two_hundred_transcripts_faults_a_kill_and_a_budget(chat, config_of, ray_session, tmp_path):
    server = chat(fault_rate=0.2, delay_s=0.05)
    config = config_of(server, {f"clip {i}": f"say {i}" for i in range(200)})
    folder = killed_in_the_middle(server, config, ray_session, tmp_path)
    with answer_log.locked(folder):  # the killed run's processes are gone
        kept = answer_log.read(folder)
        while server.busy:
            time.sleep(0.01)
        sent, at_kill = sum(server.asked.values()), dict(server.answered)
    assert 40 <= len(kept) <= len(at_kill) < 200
    assert len(at_kill) - len(kept) <= 16, "only what was under way is lost"
    with max(folder.glob("answers-*.jsonl")).open("ab") as torn:
        torn.write(b'{"digest": "')

    short = ask(override(config, {"annotate.max_requests": 40}))
    assert sum(server.asked.values()) - sent == short.usage.requests == 40
    assert sum(short.statuses.values()) == 200
    assert short.statuses["budget"] > 0
    whole = ask(config)
    assert whole.statuses == {"ok": 200}
    rows = rows_of(whole)
    assert {row["reading"] for row in rows.values()} == {f"They mean: say {i}" for i in range(200)}
    assert len(rows) == len({row["digest"] for row in rows.values()}) == 200

    twice = {words for words, count in server.answered.items() if count > 1}
    assert not {answer_log.digest(config.annotate, words) for words in twice} & kept.keys()
    assert twice <= at_kill.keys(), "no answer that reached a living run was asked for again"
    before = sum(server.asked.values())
    assert ask(config).path == whole.path
    assert sum(server.asked.values()) == before
    assert short.digest != whole.digest
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]


def killed_in_the_middle(server, config, ray_session, tmp_path):
    """Start the job, kill it with SIGKILL when the server has given 60 answers; the folder of its answers."""
    (tmp_path / "own.yaml").write_text(dump(config))
    address = ray_session.get_runtime_context().gcs_address
    with (tmp_path / "job.log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, str(JOB), str(tmp_path / "own.yaml")],
            env={**os.environ, "RAY_ADDRESS": address},
            stdout=log,
            stderr=log,
        )
        until_s = time.monotonic() + 120
        while sum(server.answered.values()) < 60:
            assert job.poll() is None, (tmp_path / "job.log").read_text()
            assert time.monotonic() < until_s
            time.sleep(0.01)
        os.kill(job.pid, signal.SIGKILL)
        job.wait()
    return answer_log.open_folder(Path(config.store.root), config.annotate)[0]


def test_what_failed_is_asked_again_by_the_next_run(chat, config_of, capsys):
    server = chat(script=[(503, {}, "{}")] * 4)
    config = config_of(server, {"a": "say a", "b": "say b"}, max_attempts=2)
    failed = ask(config)
    assert failed.statuses == {"error": 2}
    assert rows_of(failed)["a"]["status"].startswith("error: Error code: 503")
    assert "2 of 2 transcripts have no answer yet" in capsys.readouterr().err
    assert ask(config).statuses == {"ok": 2}


def test_without_an_endpoint_it_says_what_is_missing(tiny_config):
    with pytest.raises(ValueError, match=r"annotate\.url.*OPENAI_API_KEY"):
        annotate(tiny_config)


def encoded(config, words, reading=None):
    batch = TextBatch(
        clip_ids=("x",),
        present_BM=torch.tensor([[False, False, True]]),
        label_B=unlabelled(1),
        texts=(words,),
        readings=(reading,),
    )
    return text.build(config.text)(batch)[0].numpy()


def rows_encoded(encoder, texts):
    """The features of transcripts by clip_id, as an actor makes them."""
    columns = {"clip_id": list(texts), "text": list(texts.values()), "text_status": ["ok"] * len(texts)}
    table = pa.table(columns | {f"{name}_status": ["missing"] * len(texts) for name in ("video", "audio")})
    found = encode_rows(encoder, encoder.build(), table, "cpu")
    return {row["clip_id"]: np.array(row["feature"], np.float32) for row in found.to_pylist()}


def test_features_are_of_transcripts_with_their_readings(chat, config_of):
    texts = {f"clip {i}": f"say {i}" for i in range(12)} | {"none": "refuse this"}
    clips = [Clip(clip_id, text=words) for clip_id, words in texts.items()]
    server = chat()
    config = config_of(server, texts)
    assert readings_of(override(config, {"annotate.url": None}), clips) is None
    assert not server.asked
    short = readings_of(override(config, {"annotate.max_requests": 5}), clips)
    whole = readings_of(config, clips)
    alone, part, encoder = (frozen_encoders(config, readings)[1] for readings in (None, short, whole))
    assert len({found.digest for found in (alone, part, encoder)}) == 3
    for clip_id, values in rows_encoded(encoder, texts).items():
        reading = f"They mean: {texts[clip_id]}" if clip_id != "none" else None
        np.testing.assert_array_equal(values, encoded(config, texts[clip_id], reading))
    bare, partly = rows_encoded(alone, texts), rows_encoded(part, texts)
    assert sum(np.array_equal(partly[clip_id], bare[clip_id]) for clip_id in texts) == 8, "no answer, no reading"
    more = readings_of(config, [*clips, Clip("new", text="say something new")])
    assert (more.usage.requests, frozen_encoders(config, more)[1].digest) == (1, encoder.digest)


def test_the_features_job_makes_readings_and_uses_them(chat, config_of):
    texts = {"a": "say a", "b": "say b", "none": ""}
    server = chat()
    config = config_of(server, texts)
    table = pq.read_table(next(Path(features(config).content["text"]).glob("part-*")))
    found = dict(zip(table["clip_id"].to_pylist(), table["feature"].to_pylist(), strict=True))
    for name in ("a", "b"):
        expected = encoded(config, texts[name], f"They mean: {texts[name]}")
        np.testing.assert_array_equal(np.array(found[name], np.float32), expected)
    assert server.answered == {"say a": 1, "say b": 1}


@pytest.fixture
def model(tiny_config, tmp_path):
    """A function that writes a checkpoint of a head of text, trained with readings from some other endpoint."""

    def write(config):
        head = FusionHead(config.fusion, {"text": torch.ones(2, config.text.ngram_features)}, 2)
        (tmp_path / "model").mkdir()
        own = override(config, {"annotate.url": "http://elsewhere.example/v1", "annotate.concurrency": 3})
        checkpoint.write(tmp_path / "model", trained_state(head), own, ("happy", "sad"), "card")
        return tmp_path / "model"

    return write


def test_a_model_asks_its_questions_of_its_callers_endpoint(chat, config_of, model):
    server = chat()
    config = config_of(server, {"a": "say a", "b": "say b"})
    path = model(config)
    caller = override(config, {"annotate.prompt": "{transcript}?", "annotate.model": "other"})
    found = of_checkpoint(caller, path).annotate
    assert found == config.annotate
    assert of_checkpoint(override(caller, {"annotate.url": None}), path).annotate.url is None
    predicted = predict(override(caller, {"checkpoint": str(path)}))
    table = pq.read_table(next(predicted.path.glob("*.parquet")))
    head = checkpoint.load_fusion(path)
    for row in table.to_pylist():
        words = f"say {row['clip_id']}"
        feature_BD = torch.from_numpy(encoded(config, words, f"They mean: {words}"))[None]
        batch = FeatureBatch(
            clip_ids=("x",),
            present_BM=torch.tensor([[False, False, True]]),
            label_B=unlabelled(1),
            features={"text": feature_BD},
        )
        expected = head(batch).logits_BK.softmax(dim=-1)[0].tolist()
        assert row["probabilities"] == pytest.approx(expected, abs=1e-6)
    assert server.answered == {"say a": 1, "say b": 1}


SERVER = """
import sys
from transformers import AutoModelForCausalLM
from transformers.cli.serve import Serve
from transformers.cli.serving import model_manager

class Manager(model_manager.ModelManager):  # its own loading wants accelerate, which we do not need
    def _load_model(self, name, *args, **kwargs):
        return AutoModelForCausalLM.from_pretrained(name.split("@")[0])

model_manager.ModelManager = Manager
Serve(force_model=sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), device="cpu")
"""


@pytest.mark.slow  # the server takes half a minute to import
def test_a_real_server_reads_transcripts(config_of, tmp_path):
    """`transformers serve` with a model of random weights: its words mean nothing, its protocol is the real one."""
    from types import SimpleNamespace

    pytest.importorskip("fastapi")
    folder, port = tiny_chat_model(tmp_path / "model"), free_port()
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder), str(port)], stdout=log, stderr=log)
    try:
        wait_for(port, server, tmp_path / "server.log")
        there = SimpleNamespace(url=f"http://127.0.0.1:{port}/v1")
        texts = {f"clip {i}": f"i am {'happy' if i % 2 else 'sad'} {'so ' * i}" for i in range(12)}
        config = config_of(there, texts, model=str(folder), timeout_s=60.0, concurrency=4, max_answer_tokens=6)
        found = ask(config)
        rows = rows_of(found)
        assert set(found.statuses) <= set(FINAL), found.statuses
        assert found.usage.requests == len(rows) == 12
        assert all(row["prompt_tokens"] > 4 and 1 <= row["answer_tokens"] <= 6 for row in rows.values())
        assert all(len(row["reading"].split()) == 6 and row["status"] == "cut" for row in rows.values())
        assert ask(config).usage.requests == 0
    finally:
        server.terminate()
        server.wait(30)


def tiny_chat_model(folder):
    """A Llama of two layers with random weights, a tokenizer of words and a chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["[UNK]", "[PAD]", "[EOS]", "i", "am", "so", "happy", "sad", "they", "feel", "calm", "angry"]
    own = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    own.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=own, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]", model_max_length=128
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}they feel"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = LlamaConfig(**shape, vocab_size=len(words), max_position_embeddings=128, pad_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[:3] = 0  # never the likeliest: it says words, and not [EOS]
    model.save_pretrained(folder)
    return folder


def free_port():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def wait_for(port, server, log):
    import socket

    until_s = time.monotonic() + 240
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.5)
