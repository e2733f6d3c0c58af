"""README, CONTRIBUTING and docs against the project: shell blocks run or say why not, and what pages name is there.

A shell block is run as it stands, in a folder that looks like a fresh clone with a few clips beside it. A comment above
it may say otherwise: `<!-- run in make slow -->`, or `<!-- not run: WHY -->`.
"""

import ast
import csv
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import file_page
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_ray.commands import COMMANDS
from emo_ray.config import (
    Config,
    dump,
    leaf_of,
    leaves,
    load,
    override,
    parse_overrides,
    parse_words,
    recipe_names,
)

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
README = ROOT / "README.md"
MOST_LINES = 150  # of the README
SLOW, NOT_RUN = "run in make slow", "not run: "
LANGUAGES = {"sh", "text", "python", "yaml"}
SECTIONS = {key.split(".")[0] for key in leaves() if "." in key}
PLACES = [ROOT, ROOT / "emo_ray", *(folder for folder in (ROOT / "emo_ray").rglob("*") if folder.is_dir())]
BLOCK = re.compile(r"(?:^<!-- (?P<marker>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    marker: str
    language: str
    text: str

    def __str__(self):
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page):
    text = page.read_text(encoding="utf-8")
    for match in BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        yield Block(page, line, match["marker"] or "", match["language"], match["text"])


def prose_of(page):
    """A page without its blocks and comments."""
    return re.sub(r"<!--.*?-->", "", BLOCK.sub("", page.read_text(encoding="utf-8")), flags=re.S)


def code_spans(page):
    return re.findall(r"`([^`\n]+)`", prose_of(page))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [block for block in BLOCKS if block.language == "sh"]
RUN = [block for block in SHELL if not block.marker.startswith(NOT_RUN)]


def commands(text):
    """The commands of a shell block as lists of words, those in `name=$(...)` too."""
    for line in text.replace("\\\n", " ").splitlines():
        line = re.sub(r"^\w+=\$\((.*?)\)", r"\1", line.strip())
        words = shlex.split(line, comments=True)
        if words:
            yield words


def test_blocks_are_of_a_known_language():
    wrong = [str(block) for block in BLOCKS if block.language not in LANGUAGES]
    assert not wrong, f"expected one of {', '.join(sorted(LANGUAGES))} behind ```: {wrong}"


def test_a_shell_block_that_is_not_run_says_why():
    for block in BLOCKS:
        marker = block.marker
        assert not marker or marker == SLOW or len(marker.removeprefix(NOT_RUN)) > 8, f"{block}: {marker!r}"
        assert not marker or block.language == "sh", f"{block}: a marker above a block that is no shell block"


def test_shell_is_shell_and_python_is_python():
    for block in BLOCKS:
        if block.language == "sh":
            checked = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
            assert checked.returncode == 0, f"{block}: {checked.stderr}"
        elif block.language == "python":
            ast.parse(block.text, str(block))


def config_of(job, words):
    """The config that a job's words make; a recipe that only exists in the text counts as `mini`."""
    parsed = parse_words([word for word in words if word != "--json"], COMMANDS[job].choice)
    return load(parsed.recipe if parsed.recipe in recipe_names() else "mini", parsed.changes)


def test_commands_name_jobs_settings_targets_and_modules_that_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for block in SHELL:
        for words in commands(block.text):
            jobs = [i for i, word in enumerate(words) if re.fullmatch(r"jobs/\w+\.py", word)]
            for i in jobs:
                assert (ROOT / words[i]).is_file(), f"{block}: {words[i]}"
                if "--help" not in words:
                    assert config_of(Path(words[i]).stem, words[i + 1 :]), block
            if "--help" in words:
                assert set(words[words.index("--help") + 1 :]) <= SECTIONS, f"{block}: {words}"
            if words[0] == "make":
                assert set(words[1:]) <= targets, f"{block}: make {words[1:]}"
            if "-m" in words and words[0].endswith("python"):
                module = words[words.index("-m") + 1]
                assert importlib.util.find_spec(module.split(".")[0]), f"{block}: {module}"


def test_settings_in_prose_exist_and_take_their_values():
    """A value of capitals, or with dots, stands for whatever the reader has: its key alone is checked."""
    for page in PAGES:
        for span in code_spans(page):
            for word in shlex.split(span) if re.match(r"'?[a-z_]+(\.[a-z_]+)*=", span) else []:
                key, _, value = word.partition("=")
                assert leaf_of(key) is not None, f"{page.name}: {span}"
                if not re.search(r"\b[A-Z]{4,}\b|\.\.\.", value):
                    changes = parse_overrides(shlex.split(span))
                    assert override(Config(), changes), f"{page.name}: {span}"
            if re.fullmatch(r"[a-z_]+\.[a-z_.]+", span) and span.split(".")[0] in SECTIONS:
                is_file = "." + span.rsplit(".", 1)[-1] in (".py", ".yaml", ".json", ".csv")
                assert is_file or leaf_of(span) is not None, f"{page.name}: {span}"


def anchors(page):
    titles = re.findall(r"^#+ (.*)$", prose_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_links_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.relative_to(ROOT)}: {link}"
            assert not anchor or anchor in anchors(target), f"{page.relative_to(ROOT)}: {link}"


def test_files_that_pages_name_exist():
    """Python files by any path that ends in them, and paths of the project's folders; capitals stand for any name."""
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # which names what was there once
            continue
        for span in code_spans(page):
            ours = re.fullmatch(r"(emo_ray|tests|docs|jobs)/[a-z_/.*]*", span)
            if re.fullmatch(r"[a-z_0-9/]+\.py", span) or ours:
                assert any((place / span).exists() for place in PLACES), f"{page.relative_to(ROOT)}: {span}"


def test_names_in_recipes_exist():
    """Names of code in CONTRIBUTING, which is where a renamed function would leave a reader alone."""
    sources = [path.read_text("utf-8") for folder in ("emo_ray", "tests") for path in (ROOT / folder).rglob("*.py")]
    words = set(re.findall(r"\w+", " ".join(sources)))
    named = {span.partition("(")[0] for span in code_spans(ROOT / "CONTRIBUTING.md") if "/" not in span}
    missing = [name for name in named if re.fullmatch(r"\w+", name) and name not in words | {"VERB", "make"}]
    assert not missing, missing


def test_the_readme_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES, f"README.md has {len(lines)} lines: move what is not for everybody to docs/"


def test_the_page_of_files_is_up_to_date():
    assert (ROOT / "docs" / "files.md").read_text(encoding="utf-8") == file_page.page()


def test_the_readme_knows_every_room():
    rooms = {file.parent.relative_to(ROOT).as_posix() for file in (ROOT / "emo_ray").rglob("__init__.py")}
    tree = list(blocks_of(README))[-1].text
    assert not [room for room in rooms if f"{room.rpartition('/')[2]}/" not in tree]


def test_the_table_of_jobs_has_every_job():
    table = set(re.findall(r"^\| `jobs/(\w+)\.py` \|", README.read_text("utf-8"), re.M))
    assert table == {path.stem for path in (ROOT / "jobs").glob("*.py")}


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index]
    assert missing == ["README.md"]


def test_make_help_knows_every_target():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.search(r"^\.PHONY: (.*)$", makefile, re.M)[1].split())
    # Under `make test` a make within a make would also print the folders that it enters and leaves.
    command = ["make", "--no-print-directory", "help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    described = dict(line.split(maxsplit=1) for line in shown.splitlines())
    assert targets == set(described)
    assert targets == set(re.findall(r"^([a-z]+):", makefile, re.M))


def test_the_citation_is_of_this_version():
    import tomllib

    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "type"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    (paper,) = citation["references"]
    assert {"type", "title", "authors", "year"} <= set(paper)
    assert all("family-names" in author or "name" in author for author in [*citation["authors"], *paper["authors"]])
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


LABELS, SPEAKERS = ("angry", "happy", "sad"), 6
CLIPS_AND_TABLES = ("clips", "face.parquet", "hubert", "whisper.npz", "llm.npz")  # made where a block names one


@pytest.fixture(scope="module")
def clone(ray_session, tiny_config, tmp_path_factory):
    """A function that runs a block in a folder with jobs, .venv, clips and feature tables; `mini` is tiny there."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "jobs").symlink_to(ROOT / "jobs")
    recipe = override(tiny_config, {"store.root": "artifacts", "synthetic.unlabelled_clips": 24})
    for name in ("tiny.yaml", "my.yaml"):
        (folder / name).write_text(dump(recipe), encoding="utf-8")
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    change = 'words=(); for word in "$@"; do [ "$word" = mini ] && word=tiny.yaml; words+=("$word"); done'
    python.write_text(f'#!/bin/bash\n{change}\nexec {shlex.quote(sys.executable)} "${{words[@]}}"\n', encoding="utf-8")
    python.chmod(0o755)

    def run(text):
        if any(name in text for name in CLIPS_AND_TABLES) and not (folder / "clips").exists():
            write_clips(folder)
        address = {"RAY_ADDRESS": ray_session.get_runtime_context().gcs_address}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=folder,
            env={**os.environ, **address, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )

    return run


def write_clips(folder):
    """36 small clips, a manifest of them, and random features for each, in the forms that docs/data.md names."""
    from emo_ray.data import synthetic

    settings = load("mini", {"synthetic.train_clips": 36, "synthetic.missing_rate": 0.0}).synthetic
    scripts = synthetic.write_scripts(settings)[:36]
    (folder / "clips").mkdir()
    files = [Path(synthetic.render(script, folder).video).relative_to(folder / "clips") for script in scripts]
    rows = [(str(file), LABELS[i % 3], f"actor-{i % SPEAKERS}") for i, file in enumerate(files)]
    with (folder / "clips.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "emotion", "actor"), *rows])
    ids, rng = [file.stem for file in files], np.random.default_rng(0)
    features = {clip_id: rng.normal(size=8).astype(np.float32) for clip_id in ids}
    lists = pa.array([values.tolist() for values in features.values()], pa.list_(pa.float32()))
    pq.write_table(pa.table({"clip_id": ids, "feature": lists}), folder / "face.parquet")
    (folder / "hubert").mkdir()
    for clip_id, values in features.items():
        np.save(folder / "hubert" / f"{clip_id}.npy", values)
    np.savez(folder / "whisper.npz", **features)
    np.savez(folder / "llm.npz", **features)


SPEED = [pytest.param(block, marks=[pytest.mark.slow] if block.marker == SLOW else [], id=str(block)) for block in RUN]


@pytest.mark.parametrize("block", SPEED)
def test_shell_blocks_run(clone, block):
    done = clone(block.text)
    assert done.returncode == 0, f"{block}\n{done.stderr[-4000:]}"
