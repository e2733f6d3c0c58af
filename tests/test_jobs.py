"""The command line: its last line is a path, its JSON is one line, its errors are one message."""

import ast
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from emo_ray import cli, completion, usage
from emo_ray.commands import COMMANDS
from emo_ray.config import dump, load, parse_words

JOBS = Path(__file__).resolve().parents[1] / "jobs"


def run(name, *words, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, str(JOBS / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=cwd,
        timeout=300,
    )


@pytest.fixture
def recipe(tiny_config, tmp_path):
    (tmp_path / "tiny.yaml").write_text(dump(tiny_config))
    return str(tmp_path / "tiny.yaml")


def test_a_job_answers_with_one_line_of_json(ray_session, evaluated, recipe):
    address = {"RAY_ADDRESS": ray_session.get_runtime_context().gcs_address}
    as_json = run("evaluate", recipe, "--json", **address)
    found = json.loads(as_json.stdout)
    assert len(as_json.stdout.splitlines()) == 1
    assert found["path"] == str(evaluated.path)
    assert found["subsets"] == evaluated.content["subsets"]


def test_stdout_holds_the_path_of_the_answer_alone(ray_session, evaluated, recipe):
    """Whoever prints: Ray does in a thread when a worker was killed."""
    other = "threading.Timer(0.1, print, ['A worker died']).start()"
    code = f"import threading; from emo_ray.cli import main; {other}; main('evaluate')"
    result = subprocess.run(
        [sys.executable, "-c", code, recipe],
        capture_output=True,
        text=True,
        env={**os.environ, "RAY_ADDRESS": ray_session.get_runtime_context().gcs_address},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{evaluated.path}\n", result.stderr
    assert "video + audio + text" in result.stderr
    assert "mlflow ui" in result.stderr
    assert "A worker died\n" in result.stderr


def test_a_folder_of_media_is_predicted(ray_session, evaluated, tiny_config, recipe, media_files, tmp_path):
    """The files hold sound alone, so the process does not import CLIP, which takes seconds."""
    (tmp_path / "raw").mkdir()
    for name, source in {"a": "wav", "b": "wav", "c": "text"}.items():
        shutil.copy(media_files[source], tmp_path / "raw" / f"{name}.wav")
    model = f"{tiny_config.store.root}/checkpoints/{evaluated.content['checkpoint']}"
    words = [f"checkpoint={model}", f"data.manifest={tmp_path / 'raw'}", f"store.root={tmp_path / 'store'}", "--json"]
    result = run("predict", recipe, *words, RAY_ADDRESS=ray_session.get_runtime_context().gcs_address)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["clips"], found["without any usable modality"]) == (3, 1)
    assert found["path"].startswith(str(tmp_path / "store" / "predictions"))
    assert "predicting: 3 clips in" in result.stderr


@pytest.mark.slow  # twice a whole command; tests/stages/test_pseudo_label.py has the rest of it
def test_too_much_broken_media_is_said_when_the_rest_is_labelled(
    ray_session, evaluated, tiny_config, recipe, media_files, tmp_path
):
    (tmp_path / "raw").mkdir()
    for name, source in {"a": "clip", "b": "silent", "c": "text"}.items():
        shutil.copy(media_files[source], tmp_path / "raw" / f"{name}.mp4")
    model = f"{tiny_config.store.root}/checkpoints/{evaluated.content['checkpoint']}"
    words = [f"checkpoint={model}", f"data.manifest={tmp_path / 'raw'}", f"store.root={tmp_path / 'store'}"]
    address = {"RAY_ADDRESS": ray_session.get_runtime_context().gcs_address}
    refused = run("pseudo_label", recipe, *words, **address)
    assert refused.returncode == 2
    assert "error: found 1 of 3 unlabelled clips have broken media" in refused.stderr
    assert "Traceback" not in refused.stderr
    (listed,) = (tmp_path / "store" / "pseudo_labels").rglob("bad_media.csv")
    assert "c,video,corrupt: " in listed.read_text()
    allowed = run("pseudo_label", recipe, *words, "pseudo.max_bad_fraction=0.5", **address)
    assert allowed.returncode == 0, allowed.stderr
    assert allowed.stdout.splitlines()[-1] == str(listed.parent)
    assert "1 of 3 unlabelled clips have broken media" in allowed.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fusion.modalty_dropout=0.3"], "did you mean 'fusion.modality_dropout'"),
        (["nosuchrecipe"], "nosuchrecipe"),
        (["data.manifest=/nowhere/clips.csv"], "/nowhere/clips.csv"),
        (["train.epochs=many"], "train.epochs"),
        (["mini", "rubbish"], "expected key=value"),
    ],
)
def test_what_the_user_can_mend_is_one_message(words, message, tmp_path, ray_session):
    address = ray_session.get_runtime_context().gcs_address
    result = run("train", *words, RAY_ADDRESS=address, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("job", ["bench", "self_train", "train"])
def test_help_of_a_job_tells_its_purpose_an_example_its_result_and_its_sections(job):
    result = run(job, "--help", COLUMNS="80")
    purpose = COMMANDS[job].about.split("\n\n")[0]
    assert result.returncode == 0, result.stderr
    assert " ".join(result.stdout.split()).startswith(purpose)
    assert f"example: python jobs/{job}.py " in result.stdout
    assert "result:  STORE/" in result.stdout
    assert all(f"\n  {name} " in result.stdout for name in ("data", "store", "seed", *COMMANDS[job].sections))
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_every_job_has_a_script_a_function_and_an_example_of_valid_words():
    assert set(COMMANDS) == {path.stem for path in JOBS.glob("*.py")}
    for name, command in COMMANDS.items():
        assert f'main("{name}")' in (JOBS / f"{name}.py").read_text()
        module = ast.parse((JOBS.parent / "emo_ray" / f"{command.module.replace('.', '/')}.py").read_text())
        assert name in {node.name for node in module.body if isinstance(node, ast.FunctionDef)}
        words = parse_words(shlex.split(command.example), command.choice)
        load(words.recipe, words.changes)


@pytest.fixture
def console(monkeypatch, capsys):
    """A function that runs the command `emo-ray` in this process; its exit status and what it wrote."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["/usr/bin/emo-ray", *words])
        monkeypatch.setattr(os, "_exit", sys.exit)
        status = 0
        try:
            cli.console_script()
        except SystemExit as end:
            status = end.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_the_command_names_its_jobs_and_its_version(console):
    status, out, _ = console()
    assert status == 0
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert console("--help")[1] == out
    assert console("--version") == (0, f"emo_ray {metadata.version('emo_ray')}\n", "")
    assert run("train", "mini", "--version").stdout == f"emo_ray {metadata.version('emo_ray')}\n"
    status, out, err = console("trian", "mini")
    assert (status, out) == (2, "")
    assert "did you mean 'train'" in err
    assert "'fish'" in console("completion", "fish")[2]


def test_the_command_runs_the_jobs():
    words = ["train", "--help", "fusion.dropout"]
    code = f"import sys; sys.argv = ['emo-ray', *{words}]; from emo_ray import cli; cli.console_script()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
    assert "fusion.dropout=" in result.stdout


@pytest.mark.parametrize(
    ("line", "expected", "unexpected"),
    [
        ("emo-ray tr", {"train", "transcribe"}, {"predict"}),
        ("emo-ray train mi", {"mini"}, {"mer2024"}),
        ("emo-ray train fusion.drop", {"fusion.dropout="}, {"fusion.lr="}),
        ("emo-ray train train.use_gpu = n", {"no"}, {"auto"}),
        ("emo-ray train --help fus", {"fusion", "fusion.dropout"}, {"fusion.dropout="}),
        ("emo-ray completion z", {"zsh"}, {"bash"}),
    ],
)
def test_a_shell_completes_jobs_recipes_keys_and_values(line, expected, unexpected):
    words = line.split()
    call = (
        f"COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}; _emo_ray; printf '%s\n' \"${{COMPREPLY[@]}}\""
    )
    command = ["bash", "--norc", "-c", f"{completion.script('bash')}\n{call}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.stderr == ""
    offers = set(result.stdout.split())
    assert expected <= offers
    assert not unexpected & offers


@pytest.mark.parametrize(("labels", "offered"), [((), 0), (("sad",), 0), (("happy", "sad"), 1)])
def test_training_is_offered_where_there_are_classes_to_tell_apart(labels, offered, tmp_path):
    from emo_ray.stages.result import Result

    job = cli.Job("prepare")
    job.root = tmp_path
    assert len(job.next_commands(Result(tmp_path, {"labels": list(labels)}))) == offered


@pytest.mark.parametrize(
    ("job", "words", "expected"),
    [
        (
            "prepare",
            ["mini", "data.manifest=my clips.csv", "store.root=s"],
            ["jobs/train.py mini 'data.manifest=my clips.csv' store.root=s"],
        ),
        (
            "train",
            ["data.manifest=c.csv", "small.yaml", "train.epochs=3", "store.root=s", "seed=1"],
            [
                "jobs/evaluate.py small.yaml data.manifest=c.csv train.epochs=3 store.root=s seed=1",
                "jobs/predict.py small.yaml checkpoint=M data.manifest=NEW_CLIPS store.root=s",
            ],
        ),
        (
            "evaluate",
            ["checkpoint=old", "evaluate.split=validation", "data.manifest=c.csv"],
            [
                "jobs/predict.py checkpoint=M data.manifest=NEW_CLIPS",
                "jobs/serve.py checkpoint=M",
                "jobs/self_train.py checkpoint=M data.manifest=c.csv",
            ],
        ),
        ("tune", ["mini", "fusion.lr=0.1", "store.root=s"], ["jobs/evaluate.py P/best.yaml store.root=s"]),
        ("verify", ["mini"], []),
        (
            "segment",
            ["mini", "data.manifest=r/talk.mp4", "data.outside_root=true", "segment.max_s=9", "store.root=s"],
            [
                "jobs/predict.py mini checkpoint=MODEL_FOLDER data.manifest=P data.root=R data.outside_root=true "
                "store.root=s"
            ],
        ),
        (
            "pseudo_label",
            ["mini", "checkpoint=T", "pseudo.quantile=0.3", "train.epochs=3"],
            ["jobs/train.py mini train.pseudo_labels=P train.epochs=3"],
        ),
        ("features", ["checkpoint=T", "seed=1"], ["jobs/train.py seed=1"]),
        ("prepare", ["data.folds=6", "seed=1"], ["jobs/crossvalidate.py data.folds=6 seed=1"]),
        ("crossvalidate", ["data.folds=6", "seed=1"], ["jobs/train.py seed=1"]),
    ],
)
def test_the_next_commands_keep_the_words_that_matter_there(job, words, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"jobs/{job}.py", *words])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    assert usage.next_commands(job, words, "P", "M", "R") == [f"venv/python {line}" for line in expected]
    monkeypatch.setattr(sys, "argv", ["/usr/bin/emo-ray", job, *words])
    for line in usage.next_commands(job, words, "P", None, "R"):
        program, following, *rest = shlex.split(line)
        assert (program, following in COMMANDS) == ("emo-ray", True)
        parsed = parse_words(rest)
        assert load("mini", parsed.changes)


@pytest.mark.parametrize(("job", "key"), [(job, key) for job in COMMANDS for key in COMMANDS[job].refused])
def test_jobs_refuse_the_keys_that_are_taken_out_of_next_commands(job, key, tmp_path):
    config = load("mini", {key: 3 if key == "data.folds" else str(tmp_path), "store.root": str(tmp_path / "store")})
    stage = getattr(importlib.import_module(f"emo_ray.{COMMANDS[job].module}"), job)
    with pytest.raises(ValueError, match=re.escape(f"found {key}=")):
        stage(config)


def test_a_job_that_only_reads_writes_no_page(tmp_path):
    (tmp_path / "logs" / "other").mkdir(parents=True)
    cli.Job("status").run([f"store.root={tmp_path}", "tracking.enabled=false"])
    assert [path.name for path in tmp_path.iterdir()] == ["logs"]


def test_help_on_a_section_and_on_a_key():
    result = run("train", "--help", "fusion", "train.epochs")
    assert result.returncode == 0
    assert "fusion.modality_dropout=0.5" in result.stdout
    assert "train.epochs=10" in result.stdout
    wrong = run("train", "--help", "fusoin")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "did you mean 'fusion'" in wrong.stderr


def test_help_needs_none_of_the_libraries_that_take_seconds_to_import():
    code = "import sys; sys.modules.update(torch=None, ray=None, mlflow=None, pyarrow=None); import emo_ray.cli as cli"
    code += "; sys.argv = ['train.py', '--help', 'fusion']; cli.main('train')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "fusion.dropout" in result.stdout


@pytest.mark.slow  # a whole run of Ray Train for one message
@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_worker_finds_wrong_is_one_message_as_well(ray_session, evaluated, recipe, workers):
    address = ray_session.get_runtime_context().gcs_address
    words = ["emovclip.context_tokens=60", "train.max_failures=0", f"train.num_workers={workers}"]
    result = run("train", recipe, *words, RAY_ADDRESS=address)
    assert result.returncode == 2
    assert "error: found prompts of" in result.stderr
    assert "lower emovclip.context_tokens" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_closes_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as closed:
        command = [sys.executable, str(JOBS / "train.py"), "--help"]
        result = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")
