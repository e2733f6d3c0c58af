"""Faults that somebody means: endpoints, weights, manifests and tables of a stranger, and small files that grow."""

import csv
import gzip
import itertools
import json
import os
import shutil
import threading
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from emo_ray.experiments.chaos.chat_server import USAGE, Chat, Reply, completion
from emo_ray.experiments.chaos.faults import check, fault
from emo_ray.experiments.chaos.running import finished, refused
from emo_ray.experiments.chaos.workshop import Workshop, copied_clips
from emo_ray.models.checkpoint_files import CONFIG

_MOST_MB = 1500.0  # of a job that only reads a small file
_MOST_TOKENS = 10_000  # of a short prompt, as estimated where an endpoint does not count
_SECRET = "nobody-may-read-this"


class Hostile(nn.Module):
    """Overwrites a file when torch loads it."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.numbers = torch.zeros(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing is computed."""
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        self.numbers = torch.from_file(self.path, True, 16)


@contextmanager
def _endpoint(replies: Sequence[Reply]) -> Iterator[Chat]:
    """A chat endpoint that gives these answers first."""
    chat = Chat(script=replies)
    threading.Thread(target=chat.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield chat
    finally:
        chat.shutdown()
        chat.server_close()


@fault("chat endpoints", "exit 2; nothing sent on; rerun equal")
def an_endpoint_redirects(workshop: Workshop) -> str:
    """Every answer is a redirect to another host's endpoint."""
    workshop.undisturbed("annotate")
    workshop.open_store("annotate")
    with _endpoint([]) as other:
        redirect: Reply = (307, {"Location": f"{other.url}/chat/completions"}, "")
        with _endpoint([redirect] * 1000) as chat:
            words = refused(workshop.run("annotate", f"annotate.url={chat.url}"), "redirect")
        check(not other.asked, f"{sum(other.asked.values())} transcripts were sent on")
    return f"{words}; nothing sent on; {workshop.goes_on('annotate')}"


@fault("chat endpoints", "bounded memory; no reading; rerun equal")
def an_endpoint_answers_without_end(workshop: Workshop) -> str:
    """A body without end, a megabyte of gzip that unpacks to a gigabyte, and JSON that is nested 100,000 deep."""
    workshop.undisturbed("annotate")
    bomb = gzip.compress(b"\0" * 2**30, 9)
    words = []
    replies: dict[str, Reply] = {
        "endless": (200, {}, itertools.repeat(b" " * 2**16)),
        "gzip": (200, {"Content-Encoding": "gzip"}, bomb),
        "nested": (200, {}, "[" * 100_000 + "]" * 100_000),
    }
    for name, reply in replies.items():
        workshop.open_store("annotate")
        with _endpoint([reply] * 1000) as chat:
            ended = workshop.run("annotate", f"annotate.url={chat.url}", "annotate.max_attempts=1")
        check(ended.status in (0, 2), f"{name}: exit {ended.status}: {ended.words[-300:]}")
        check("Traceback" not in ended.words, f"{name}: a traceback")
        check(ended.peak_mb < _MOST_MB, f"{name}: {ended.peak_mb:.0f} MB")
        words.append(f"{name}: exit {ended.status}")
        for table in workshop.store.glob(
            "readings/*/readings-*.parquet"
        ):  # named by its content: later ones stand beside
            readings = [reading for reading in pq.read_table(table)["reading"].to_pylist() if reading]
            check(not readings, f"{name}: {len(readings)} readings are stored")
            table.unlink()
        workshop.goes_on("annotate")
    return f"{', '.join(words)}; reruns equal"


@fault("chat endpoints", "no such count is stored; later runs go on")
def an_endpoint_counts_tokens_that_no_answer_has(workshop: Workshop) -> str:
    """Answers that are said to have 1e30 tokens, and fewer than none."""
    for count in (1e30, -5):
        workshop.open_store("annotate")
        usage = USAGE | {"prompt_tokens": count, "total_tokens": count}
        answer = json.dumps(json.loads(completion("a", None)) | {"usage": usage})
        with _endpoint([(200, {}, answer)] * 1000) as chat:
            finished(workshop.run("annotate", f"annotate.url={chat.url}"))
        table = pq.read_table(next(workshop.store.glob("readings/*/readings-*.parquet")))
        counts = [value for value in table["prompt_tokens"].to_pylist() if value is not None]
        check(all(0 <= value < _MOST_TOKENS for value in counts), f"stored: {counts[:3]}")
        finished(workshop.run("annotate", "annotate.max_tokens=1000000"))
    return "2 of 2: exit 0, the count is estimated; the next run goes on"


@fault("weights of strangers", "exit 2, 1 line; no program runs")
def clip_weights_with_a_program(workshop: Workshop) -> str:
    """A TorchScript archive that overwrites a file when torch loads it."""
    workshop.open_store("train")
    victim, weights = workshop.scratch / "victim", workshop.scratch / "hostile.pt"
    torch.jit.script(Hostile(str(victim))).save(str(weights))
    victim.unlink(missing_ok=True)
    words = refused(workshop.run("train", f"emovclip.weights={weights}"), weights.name, lines=1)
    check(not victim.exists(), "the program ran")
    return f"{words}; no program ran"


@fault("checkpoints of strangers", "exit 2, 1 line")
def a_checkpoint_that_names_files_elsewhere(workshop: Workshop) -> str:
    """The config of a checkpoint from elsewhere names a file of this machine as its weights."""
    workshop.after("train")
    model = workshop.scratch / "model"
    shutil.copytree(workshop.model(), model)
    secret = workshop.scratch / "secret.safetensors"
    secret.write_text(_SECRET)
    for folder in (model, model / "emovclip"):
        text = (folder / CONFIG).read_text(encoding="utf-8")
        (folder / CONFIG).write_text(text.replace("mini_clip.safetensors", str(secret)), encoding="utf-8")
    ended = workshop.run("predict", f"checkpoint={model}")
    check(_SECRET not in ended.words, "its content is shown")
    return refused(ended, "secret.safetensors" if "secret" in ended.words else CONFIG, lines=1)


@fault("manifests of strangers", "exit 2, 1 line that names the rows")
def manifests_that_leave_their_folder(workshop: Workshop) -> str:
    """Rows with .., absolute paths and links out of the folder, and addresses of storage and hosts."""
    private = _private(workshop)
    corpus = workshop.scratch / "corpus"
    corpus.mkdir()
    (corpus / "link.mp4").symlink_to(private)
    paths = ["../private.mp4", str(private), "link.mp4"]
    addresses = ["s3://bucket/a.mp4", "http://127.0.0.1:1/a.sdp", f"file://{private}"]
    for path in (*paths, *addresses):
        _write_table(corpus / "clips.csv", [("clip_id", "video"), ("a", path)])
        refused(workshop.run("prepare", f"data.manifest={corpus / 'clips.csv'}"), "clips.csv", "data.", lines=2)
    return f"{len(paths) + len(addresses)} of {len(paths) + len(addresses)}: exit 2"


@fault("tables of strangers", "exit 2, nothing read")
def a_clip_id_that_leaves_the_folder_of_features(workshop: Workshop) -> str:
    """Features of the clip "../secret", beside the folder of the table."""
    tables = workshop.scratch / "features"
    tables.mkdir()
    np.save(workshop.scratch / "secret.npy", np.ones(4, np.float32))
    rows = [(f"c{i}", ("happy", "sad")[i % 2], ("train", "validation")[i // 4]) for i in range(8)]
    for clip_id, _, _ in rows:
        np.save(tables / f"{clip_id}.npy", np.ones(4, np.float32))
    manifest = workshop.scratch / "clips.csv"
    _write_table(manifest, [("clip_id", "label", "split"), *rows, ("../secret", "happy", "train")])
    words = (f"data.manifest={manifest}", f"tables.audio={tables}", "modalities=[audio]")
    ended = workshop.run("features", *words)
    check("Traceback" not in ended.words, ended.words[-300:])
    if ended.status == 2:
        return refused(ended, "secret")
    return f"exit {finished(ended).status}: the clip is without features"


@fault("media of strangers", "the clip is corrupt; its neighbour is not read")
def a_playlist_that_names_a_file(workshop: Workshop) -> str:
    """A playlist under the name of a video, that names a private video."""
    private = _private(workshop)
    corpus = workshop.scratch / "corpus"
    corpus.mkdir()
    (corpus / "a.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\n{private}\n#EXT-X-ENDLIST\n")
    (corpus / "b.mp4").write_text(f"ffconcat version 1.0\nfile {private}\n")
    (corpus / "c.mp4").write_text("v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n")
    ended = finished(workshop.run("prepare", f"data.manifest={corpus}"))
    with (Path(ended.answer.strip()) / "bad_media.csv").open(encoding="utf-8", newline="") as file:
        statuses = {(row["clip_id"], row["modality"]): row["status"] for row in csv.DictReader(file)}
    for name in "abc":
        status = statuses.get((name, "video"), "ok")
        check(status.startswith("corrupt"), f"{name} is {status}")
    return "3 of 3 corrupt"


@fault("names of strangers", "spelt out; text in tables")
def control_characters_and_formulas(workshop: Workshop) -> str:
    """Labels that give a terminal orders, and clip_ids that a spreadsheet would run."""
    corpus = copied_clips(workshop, "corpus")
    names = sorted(path.name for path in corpus.iterdir())
    rows = [(f"=cmd{i}", name, f"\x1b]0;owned\x07label{i % 2}") for i, name in enumerate(names)]
    _write_table(corpus / "clips.csv", [("clip_id", "video", "label"), *rows, ("=bad", "none.mp4", rows[0][2])])
    ended = workshop.run("prepare", f"data.manifest={corpus / 'clips.csv'}")
    check("\x1b" not in ended.words and "\x07" not in ended.words, "orders reach the terminal")
    check("Traceback" not in ended.words, ended.words[-300:])
    if ended.status == 2:
        return refused(ended)
    for table in Path(finished(ended).answer.strip()).glob("*.csv"):
        check("\n=" not in table.read_text(encoding="utf-8"), f"{table.name} holds a formula")
    return "exit 0, no orders, no formulas"


@fault("umask", "files and folders follow it")
def the_umask_of_a_group_and_of_one_person(workshop: Workshop) -> str:
    """002 and 077: whatever a training writes may be read and written by whom the umask lets."""
    for mask in (0o002, 0o077):
        workshop.open_store("train")
        old = set(workshop.store.rglob("*"))
        finished(workshop.run("train", prepare=partial(os.umask, mask)))
        for path in set(workshop.store.rglob("*")) - old:
            mode, full = path.stat().st_mode & 0o777, 0o777 if path.is_dir() else 0o666
            name = path.relative_to(workshop.store)
            check(mode == full & ~mask, f"umask {mask:03o}: {name} has mode {mode:03o}")
    return "002 and 077: every file and folder"


@fault("small files that grow", "exit 2, 1 line; bounded memory")
def small_files_that_are_large_inside(workshop: Workshop) -> str:
    """JSONL with ever new keys, a recipe of aliases of aliases, and an npz that unpacks to a gigabyte."""
    corpus = workshop.scratch
    (corpus / "keys.jsonl").write_text("".join(json.dumps({"clip_id": f"{i}", f"k{i}": 1}) + "\n" for i in range(9000)))
    layers = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    (corpus / "aliases.yaml").write_text("\n".join(["a0: &a0 [1]", *layers]))
    with zipfile.ZipFile(corpus / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (2**28,)})
        for _ in range(2**10):
            file.write(b"\0" * 2**20)
    rows = [(f"c{i}", ("happy", "sad")[i % 2], ("train", "validation", "test")[i // 2]) for i in range(6)]
    _write_table(corpus / "clips.csv", [("clip_id", "label", "split"), *rows])
    cases: dict[str, Iterable[str]] = {
        "keys.jsonl": (f"data.manifest={corpus / 'keys.jsonl'}",),
        "bomb.npz": (f"data.manifest={corpus / 'clips.csv'}", f"tables.audio={corpus / 'bomb.npz'}"),
        "aliases.yaml": (f"checkpoint={corpus}",),
    }
    for name, words in cases.items():
        ended = workshop.run("features", *words, recipe=corpus / name if name.endswith("yaml") else None)
        refused(ended, name, lines=1)
        check(len(ended.words) < 5000, f"{name}: a message of {len(ended.words)} characters")
        check(ended.peak_mb < _MOST_MB, f"{name}: {ended.peak_mb:.0f} MB")
    return f"{len(cases)} of {len(cases)}: exit 2, 1 line"


def _private(workshop: Workshop) -> Path:
    """A video that no corpus may read."""
    folder = copied_clips(workshop, "private", count=1)
    return Path(shutil.move(next(folder.iterdir()), workshop.scratch / "private.mp4"))


def _write_table(path: Path, rows: Iterable[Sequence[str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
