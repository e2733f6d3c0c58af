"""A job asks a chat endpoint about each distinct transcript once, within one budget, however many stages it has."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from emo_ray.config import override
from emo_ray.models.checkpoint_files import WEIGHTS
from emo_ray.stages.evaluate import evaluate
from emo_ray.stages.pseudo_label import pseudo_label
from emo_ray.stages.self_train import self_train
from emo_ray.stages.train import train_model
from emo_ray.stages.tune import tune

pytestmark = pytest.mark.usefixtures("ray_session")

LABELS = ("calm", "glad", "upset")
CLIPS = {"train": 12, "validation": 30, "test": 9, "unlabelled": 60}
LABELLED = ("train", "validation", "test")
OTHER_PROMPT = "Again in {language}: {transcript}"


@pytest.fixture(scope="module")
def rows():
    """A corpus of transcripts alone: a word of the class and two of six others, so that clips share transcripts."""
    dice = np.random.default_rng(0)
    rows = []
    for split, count in CLIPS.items():
        for i in range(count):
            label, (first, second) = LABELS[i % 3], sorted(dice.integers(6, size=2))
            row = {"clip_id": f"{split}-{i:02d}", "split": split, "speaker": f"{split} {i // 3}"}
            row["text"] = f"say {label}{dice.integers(2)} word{first} word{second}"
            rows.append(row | ({} if split == "unlabelled" else {"label": label}))
    return rows


@pytest.fixture
def config_of(rows, tiny_config, asking_of, tmp_path):
    """A function to a config that asks a server about the transcripts."""
    (tmp_path / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def config(server, **changes):
        asking = {f"annotate.{key}": value for key, value in asking_of(server).model_dump().items()}
        places = {"data.manifest": str(tmp_path / "clips.jsonl"), "store.root": str(tmp_path / "store")}
        quick = {"tracking.enabled": False, "media.clips_per_part": 128}  # so few are decoded in this process
        return override(tiny_config, places | quick | asking | changes)

    return config


def texts_of(rows, *splits):
    """The distinct transcripts of these splits."""
    return {row["text"] for row in rows if row["split"] in splits}


def prompts_of(server):
    """How often each prompt was sent."""
    return Counter(body["messages"][0]["content"] for body in server.bodies)


def show(job, requests, questions):
    print(f"\n{job}: {requests} requests, {questions} distinct questions")


def test_rounds_of_self_training_ask_once_and_a_student_that_is_trained_by_itself_reads_what_they_read(
    chat, config_of, rows, tmp_path
):
    """The student is trained in a separate store, which holds no features and no readings of the round."""
    server = chat()
    keys = {"rounds.most": 2, "rounds.patience": 2, "pseudo.policy": "fixed", "pseudo.threshold": 0.0}
    keys |= {"train.epochs": 3, "fusion.passes_per_epoch": 4, "fusion.lr": 3e-3}
    config = config_of(server, **keys)
    content = self_train(config).content
    assert len(content["rounds"]) - 1 == 2
    texts = texts_of(rows, *LABELLED, "unlabelled")
    assert len(texts) < len(rows)
    show("self_train, 2 rounds", sum(server.asked.values()), len(texts))
    assert server.asked == dict.fromkeys(texts, 1)

    root, student = Path(config.store.root), content["rounds"][1]
    alone = {"train.pseudo_labels": str(root / student["pseudo_labels"]), "store.root": str(tmp_path / "other")}
    path, _ = train_model(override(config, alone))
    weights, same_weights = (load_file(folder / WEIGHTS) for folder in (root / student["checkpoint"], path))
    assert {name: value.tolist() for name, value in weights.items()} == {
        name: value.tolist() for name, value in same_weights.items()
    }


@pytest.mark.slow  # the processes of Ray Tune take half a minute of CPU
def test_trials_of_a_sweep_ask_once(chat, config_of, rows):
    server = chat()
    space = {"fusion.lr": {"loguniform": [1e-4, 1e-2]}}
    keys = {"tune.space": space, "tune.trials": 4, "tune.bulk": "no", "tune.scheduler": "none", "train.epochs": 1}
    keys["tune.max_concurrent"] = 2  # each process takes seconds to start
    content = tune(config_of(server, **keys)).content
    assert [trial["state"] for trial in content["trials"]] == ["complete"] * 4
    texts = texts_of(rows, *LABELLED)
    show("tune, 4 trials of Ray Tune", sum(server.asked.values()), len(texts))
    assert server.asked == dict.fromkeys(texts, 1)


def test_training_and_evaluation_share_a_budget_and_the_next_job_asks_what_is_left(chat, config_of, rows):
    server, texts = chat(), texts_of(rows, *LABELLED)
    config = config_of(server, **{"train.epochs": 1})
    evaluate(override(config, {"annotate.max_requests": 7}))
    show("train and evaluate, budget of 7 requests", sum(server.asked.values()), len(texts))
    assert sum(server.asked.values()) == 7 < len(texts)
    train_model(config)
    show("train without a budget", sum(server.asked.values()) - 7, len(texts) - 7)
    assert server.asked == dict.fromkeys(texts, 1)


def test_rounds_of_self_training_share_a_budget(chat, config_of, rows):
    server, texts = chat(), texts_of(rows, *LABELLED, "unlabelled")
    self_train(config_of(server, **{"annotate.max_requests": 20, "rounds.most": 1, "train.epochs": 1}))
    show("self_train, budget of 20 requests", sum(server.asked.values()), len(texts))
    assert sum(server.asked.values()) == 20 < len(texts)


def test_teachers_with_other_prompts_share_a_budget_and_ask_once_each(chat, config_of, rows):
    """Both were trained, and have asked about labelled clips, before."""
    server = chat()
    config = config_of(server, **{"train.epochs": 1})
    teacher, corpus = train_model(config)
    other_teacher, _ = train_model(override(config, {"annotate.prompt": OTHER_PROMPT}))
    asked_before = prompts_of(server)
    assert corpus.texts.readings.usage.requests == len(texts_of(rows, *LABELLED))
    keys = {"checkpoint": str(teacher), "pseudo.teachers": [str(other_teacher)], "pseudo.agreement": 0.5}
    new = texts_of(rows, "unlabelled") - texts_of(rows, *LABELLED)
    limit = len(new) + 3
    pseudo_label(override(config, keys | {"annotate.max_requests": limit}))
    requests = sum((prompts_of(server) - asked_before).values())
    show(f"pseudo_label, two prompts, budget of {limit} requests", requests, 2 * len(new))
    assert requests == limit < 2 * len(new)
    pseudo_label(override(config, keys))
    show("the same again without a budget", len(server.bodies) - asked_before.total() - limit, 2 * len(new) - limit)
    prompts = [config.annotate.prompt, OTHER_PROMPT]
    every_text = texts_of(rows, *LABELLED, "unlabelled")
    expected = {prompt.format(language="English", transcript=text) for prompt in prompts for text in every_text}
    assert prompts_of(server) == dict.fromkeys(expected, 1)
