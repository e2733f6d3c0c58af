"""annotate: readings of a whole corpus, through faults, kills and budgets."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch

from emo_ray.config import dump, override
from emo_ray.stages.annotate import annotate
from emo_ray.stages.chat import answer_log, chat_labels
from emo_ray.stages.chat.answer_log import FINAL
from emo_ray.stages.chat.readings import readings_of
from emo_ray.stages.decoding.corpus import plan_corpus

pytestmark = pytest.mark.usefixtures("ray_session")

KEY = "sk-never-to-be-written-anywhere"  # conftest's
JOB = Path(__file__).resolve().parents[2] / "jobs" / "annotate.py"


def ask(config):
    """The readings that `annotate` shows."""
    return readings_of(config, plan_corpus(config).clips)


def rows_of(readings):
    return {row["clip_id"]: row for row in pq.read_table(readings.path).to_pylist()}


def test_two_hundred_transcripts_faults_a_kill_and_a_budget(chat, asking_config, ray_session, tmp_path):
    server = chat(fault_rate=0.2, delay_s=0.05)
    config = asking_config(server, {f"clip {i}": f"say {i}" for i in range(200)})
    folder = killed_in_the_middle(server, config, ray_session, tmp_path)
    with answer_log.locked(folder):  # the killed run's processes are gone
        kept = answer_log.read(folder, answer_log.ChatAnswer)
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
    (tmp_path / "recipe.yaml").write_text(dump(config))
    address = ray_session.get_runtime_context().gcs_address
    with (tmp_path / "job.log").open("w") as log:
        job = subprocess.Popen(
            [sys.executable, str(JOB), str(tmp_path / "recipe.yaml")],
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


def test_without_an_endpoint_it_says_what_is_missing(tiny_config):
    with pytest.raises(ValueError, match=r"annotate\.url.*OPENAI_API_KEY"):
        annotate(tiny_config)


def test_clips_are_labelled_once_and_the_job_says_how_often_it_is_right(chat, asking_config, tmp_path):
    server = chat()
    config = asking_config(server, {}, task="label")
    rows = [("a", "I am sad", "sad", "train"), ("b", "I am happy", "happy", "validation")]
    rows += [("c", "so sad", "happy", "validation"), ("d", "what", "", "unlabelled"), ("e", "so sad", "", "unlabelled")]
    lines = ["clip_id,text,label,split", *map(",".join, rows)]
    (tmp_path / "clips.csv").write_text("\n".join(lines))
    result = annotate(config)
    assert {clip_id: row["label"] for clip_id, row in rows_of(result).items()} == {
        **{"b": "happy", "c": "sad", "d": None, "e": "sad"},
    }
    assert result.content["statuses"] == {"ok": 3, "unclear": 1}
    assert result.content["validation"] == {"clips": 2, "right": 1}
    assert sum(server.asked.values()) == 3, "equal words are one question, and no training clip is asked about"
    assert annotate(config).path == result.path
    assert sum(server.asked.values()) == 3
    assert chat_labels.read(result.path, ("sad", "happy")) == {"b": "happy", "c": "sad", "e": "sad"}
    with pytest.raises(ValueError, match=r"pseudo\.chat_labels: .*happy, sad.*expected calm"):
        chat_labels.read(result.path, ("calm",))
    with pytest.raises(ValueError, match=r"pseudo\.chat_labels: found no file"):
        chat_labels.read(tmp_path / "none.parquet", ("sad", "happy"))


SERVER = """
import sys
from transformers import AutoModelForCausalLM
from transformers.cli.serve import Serve
from transformers.cli.serving import model_manager

class Manager(model_manager.ModelManager):  # transformers' own loading requires accelerate
    def _load_model(self, name, *args, **kwargs):
        return AutoModelForCausalLM.from_pretrained(name.split("@")[0])

model_manager.ModelManager = Manager
Serve(force_model=sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]), device="cpu")
"""


@pytest.mark.slow  # the server takes half a minute to import
def test_a_real_server_reads_transcripts(asking_config, tmp_path):
    """`transformers serve` with a model of random weights: its words mean nothing, its protocol is the real one."""
    pytest.importorskip("fastapi")
    folder, port = tiny_chat_model(tmp_path / "model"), free_port()
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen([sys.executable, "-c", SERVER, str(folder), str(port)], stdout=log, stderr=log)
    try:
        wait_for(port, server, tmp_path / "server.log")
        endpoint = SimpleNamespace(url=f"http://127.0.0.1:{port}/v1")
        texts = {f"clip {i}": f"i am {'happy' if i % 2 else 'sad'} {'so ' * i}" for i in range(12)}
        config = asking_config(endpoint, texts, model=str(folder), timeout_s=60.0, concurrency=4, max_answer_tokens=6)
        readings = ask(config)
        rows = rows_of(readings)
        assert set(readings.statuses) <= set(FINAL), readings.statuses
        assert readings.usage.requests == len(rows) == 12
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
    splitter = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    splitter.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=splitter, unk_token="[UNK]", pad_token="[PAD]", eos_token="[EOS]", model_max_length=128
    )
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}they feel"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = LlamaConfig(**shape, vocab_size=len(words), max_position_embeddings=128, pad_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[:3] = 0  # so that it says words, and never [EOS]
    model.save_pretrained(folder)
    return folder


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for(port, server, log):
    until_s = time.monotonic() + 240
    while True:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < until_s, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.5)
