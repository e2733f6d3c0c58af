"""A changed setting changes the names of the artefacts that it is declared to decide, and of no other."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from artefact_names import folds_name, lay_model, mark, names_of, opened
from changed_settings import BASE_OF, BASES, COMMITS, LABELS, OTHER
from huggingface_hub import constants
from other_values import other_value
from small_media import numbered, stereo, write_media

from emo_ray.config import ARTEFACTS, declarations, flatten, leaves, override
from emo_ray.config.model_settings import MODALITIES
from emo_ray.stages.fitting.plan import check_no_folds, resolve_training


@pytest.fixture(scope="module")
def folder(tiny_config, tmp_path_factory, pseudo_round):
    """Manifests, feature tables, rounds, weights and a hub's cache: what the settings of BASES and OTHER name."""
    folder = tmp_path_factory.mktemp("keys")
    write_media(folder / "video.mp4", numbered(8, 48, 48), stereo(2.0))
    rows = [row_of(i) for i in range(15)]
    another = rows[0] | {"clip_id": "clip-15", "video": "media/clip-15.mp4"}
    for i, row in enumerate([*rows, another]):
        for place in ("", "elsewhere"):
            target = folder / place / row["video"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / "video.mp4", target)
            mark(target, i + len(place))
    splits = ["training"] + ["train"] * 8 + ["test"] * 3 + ["unlabelled"] * 3
    write_lines(folder / "uncut.jsonl", rows)
    wordless = [row | {"text": None, "language": f"language {i}"} for i, row in enumerate(rows)]
    write_lines(folder / "wordless.jsonl", wordless)
    write_lines(folder / "cut.jsonl", [row | {"split": split} for row, split in zip(rows, splits, strict=True)])
    write_lines(
        folder / "voted.jsonl", [row | {"votes": {LABELS[0]: 1, LABELS[i % 3]: 2}} for i, row in enumerate(rows)]
    )
    write_lines(folder / "more.jsonl", [*rows, another])
    for i, name in enumerate((*MODALITIES, "other")):
        np.savez(folder / f"{name}.npz", **{row["clip_id"]: np.full(3, i, np.float32) for row in rows})
    unlabelled = [row["clip_id"] for row in rows[12:]]
    for name, chance in (("round", 0.8), ("other round", 0.7)):
        probabilities = {clip_id: [chance, 1 - chance, 0.0] for clip_id in unlabelled}
        pseudo_round(folder / name, probabilities, LABELS, unlabelled)
    architecture = json.loads(Path(tiny_config.emovclip.clip).read_text())
    architecture["vision_cfg"]["image_size"] = 64
    (folder / "other_clip.json").write_text(json.dumps(architecture))
    (folder / "weights.bin").write_bytes(b"weights")
    for name in ("labels", "other labels"):
        (folder / f"{name}.parquet").write_text(name)
    (folder / "boxes.csv").write_text("clip_id,frame,x,y,w,h\nclip-00,0,1,2,30,40\n")
    for name in ("hubert", "llm", "whisper"):
        for commit in COMMITS:  # a hub's cache, in which a revision is the name of a folder
            snapshot = folder / "hub" / f"models--some--{name}" / "snapshots" / commit
            snapshot.mkdir(parents=True)
            (snapshot / "config.json").write_text("{}")
            (snapshot / "tokenizer_config.json").write_text("{}")
    return folder


def row_of(i):
    """A row of a manifest; the last three of 15 have no label."""
    about = {"clip_id": f"clip-{i:02d}", "video": f"media/clip-{i:02d}.mp4", "speaker": f"person {i // 2}"}
    return about | {"text": f"säg {i}", "translation": f"dis {i}"} | ({"label": LABELS[i % 3]} if i < 12 else {})


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


@pytest.fixture(scope="module")
def base_of(tiny_config, folder):
    """A function to a base: its config, and the names of its artefacts."""
    small = {"train_clips": 6, "validation_clips": 6, "test_clips": 6, "unlabelled_clips": 3}
    common = {f"synthetic.{name}": count for name, count in small.items()} | {"store.root": str(folder / "store")}
    names = {}

    def base(name):
        config = changed(tiny_config, common | BASES[name], folder)
        if name not in names:
            names[name] = names_of(config, folder / "video.mp4")
        return config, names[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        other = changed(tiny_config, common | BASES["student"] | {"train.pseudo_labels": None, "seed": 7}, folder)
        plan = resolve_training(other, opened(other, folder / "video.mp4"))
        lay_model(plan, other)
        shutil.copytree(plan.path, folder / "model")
        yield base


def changed(config, changes, folder):
    """A config with FOLDER in the changes replaced by the folder."""
    return override(config, json.loads(json.dumps(changes).replace("FOLDER", str(folder))))


# What stays although its declaration lets it change, each for the reason above it: key -> artefacts.
STAYS = {
    # The same texts lie in another place, or beside media that are told from others by more or fewer bytes.
    **{key: {"readings"} for key in ("data.root", "data.identity")},
    # Folds are cut from all labelled clips, whatever their splits.
    **{key: {"folds"} for key in ("data.validation_fraction", "data.test_fraction")},
    # Another table in the place of a first one needs the same media.
    **{f"tables.{name}": {"corpus"} for name in MODALITIES},
    # No folder here holds a long recording.
    "segment.auto": {"predictions"},
    "segment.auto_over_s": {"predictions"},
    # Reports of their own, beside that of the model on the config's corpus.
    "evaluate.compare": {"report"},
    "evaluate.noise": {"report"},
    # Reports of corpora that are not the config's own.
    "crosscorpus.corpora": {"report"},
    # More rounds continue the same ones. The folder's name has their number, once they are played.
    "rounds.most": {"self_training"},
}
KEYS = [key for key in leaves() if declarations()[key].decides and key != "data.folds"]
# Key, base, value (None: `other_value`), and the artefacts that stay.
CASES = [
    *((key, BASE_OF.get(key, BASE_OF.get(key.split(".")[0], "readings")), None, STAYS.get(key, set())) for key in KEYS),
    # Without a table, media are decoded.
    *((key, "tables", [], set()) for key in ("tables.video", "tables.audio")),
    # The same stored frames, of which fewer or more are seen.
    ("media.frames", "more frames", None, set()),
    # Conditions that do not hold.
    *((key, "tables", None, set()) for key in ("emovclip.lr", "train.precision", "audio.layers", "text.max_tokens")),
    *((key, "tables", None, set()) for key in ("text.template", "text.template_with_reading", "synthetic.seed")),
    *((key, "synthetic", None, set()) for key in ("annotate.model", "annotate.max_requests", "audio.layers")),
    *((key, "synthetic", None, set()) for key in ("text.layers", "text.template_with_reading")),
    ("text.ngram_features", "readings", None, set()),
    # An endpoint's answers are named after the model, and depend on the language all the same; dtype is its own affair.
    *((key, "sounds", None, set()) for key in ("transcribe.model", "transcribe.dtype")),
    # Each of these clips has a language of its own.
    ("transcribe.language", "sounds", None, {"readings"}),
    # Targets and weights of pseudo-labels where there are none, and of EmoVCLIP where it is not trained on them.
    ("train.pseudo_targets", "synthetic", None, {"emovclip", "fusion"}),
    # Splits that the manifest brings along are not cut.
    ("seed", "synthetic", None, {"splits"}),
    ("data.test_fraction", "student", None, {"splits"}),
]


def expected(key, before, after, stays):
    """The artefacts that a changed setting decides by its declaration: directly, and through what is made from them.

    `before` and `after` are configs.
    """
    decisions = declarations()[key].decides

    def holds(decision):
        return decision.only_if is None or decision.only_if.holds(before) or decision.only_if.holds(after)

    changed = set()
    for name, artefact in ARTEFACTS.items():  # each stands behind what it is made from
        values = [decision for decision in decisions if decision.by == "value"]
        is_direct = any(decision.artefact == name and holds(decision) for decision in decisions)
        is_repeated = any(
            decision.artefact in artefact.repeats and (artefact.searches or holds(decision)) for decision in values
        )
        if name not in stays and (is_direct or is_repeated or changed & set(artefact.made_from)):
            changed.add(name)
    return changed


@pytest.mark.parametrize(
    ("key", "base", "value", "stays"), CASES, ids=lambda part: part if isinstance(part, str) else ""
)
def test_a_changed_setting_changes_the_names_of_what_it_decides_and_no_other(base_of, folder, key, base, value, stays):
    before, names_before = base_of(base)
    after = changed(before, {key: other_value(key, flatten(before)[key], OTHER) if value is None else value}, folder)
    names_after = names_of(after, folder / "video.mp4")
    # An artefact that neither config has decides nothing; one that only one of them has is not another one.
    missing = {name for name in names_before if names_before[name] is names_after[name] is None}
    compared = [name for name in names_before if None not in (names_before[name], names_after[name])]
    moved = {name for name in compared if names_before[name] != names_after[name]}
    assert moved == expected(key, before, after, stays | missing) & set(compared)


def test_every_declared_decision_is_seen_in_some_case(tiny_config, folder):
    """Except decisions on claims, which no stage makes, and those whose reasons are in STAYS."""
    seen = set()
    for key, base, value, stays in CASES:
        before = changed(tiny_config, BASES[base], folder)
        after = changed(
            before, {key: other_value(key, flatten(before)[key], OTHER) if value is None else value}, folder
        )
        seen |= {(key, name) for name in expected(key, before, after, stays)}
    declared = {(key, decision.artefact) for key in KEYS for decision in declarations()[key].decides}
    unseen = {(key, name) for key, name in declared - seen if name != "claims"}
    assert unseen == {
        ("tables.text", "corpus"),
        ("crosscorpus.corpora", "report"),
        ("evaluate.compare", "report"),
        ("evaluate.noise", "report"),
        ("rounds.most", "self_training"),
        ("segment.auto", "predictions"),
        ("segment.auto_over_s", "predictions"),
    }


def test_folds_are_artefacts_of_their_own_and_no_other_stage_takes_them(base_of, folder):
    config, names = base_of("student")
    in_folds = changed(config, {"data.folds": 3}, folder)
    assert folds_name(in_folds, folder / "video.mp4") != names["folds"]
    assert opened(in_folds, folder / "video.mp4").prepared.path.name != names["splits"]
    with pytest.raises(ValueError, match=r"data\.folds=3"):
        check_no_folds(in_folds)


def test_where_how_fast_and_how_patiently_a_job_runs_changes_no_name(base_of, folder):
    config, names = base_of("readings")
    inert = [key for key in leaves() if not declarations()[key].decides and key != "store.root"]
    others = {key: other_value(key, flatten(config)[key], OTHER) for key in inert}
    assert names_of(changed(config, others, folder), folder / "video.mp4") == names


def test_another_store_changes_no_name(base_of, folder):
    config, names = base_of("student")
    elsewhere = changed(config, {"store.root": "FOLDER/another store"}, folder)
    assert names_of(elsewhere, folder / "video.mp4") == names
