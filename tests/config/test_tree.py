import json
import math
from uuid import uuid4

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emo_ray import config as cfg
from emo_ray.config import RECIPES, Config, absolute_paths, dump, flatten, leaves, load, override, recipe, sections
from emo_ray.config.model_settings import CLIP_FIELDS, MODALITIES

RECIPE_NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
# What scripts and other people's recipes may rely on.
STABLE = {
    "seed": 3,
    "data.manifest": "clips.csv",
    "data.root": "/media",
    "data.labels": ["happy", "sad"],
    "store.root": "/shared/store",
    "train.num_workers": 2,
    "train.epochs": 5,
    "fusion.modality_dropout": 0.3,
    "emovclip.global_prompts": 4,
    "emovclip.context_tokens": 2,
    "emovclip.clip": "ViT-L-14",
    "emovclip.weights": "openai",
    "tracking.uri": "http://localhost:5000",
    **{f"data.columns.{field}": f"my {field}" for field in CLIP_FIELDS},
}
RATES = st.floats(0, 1)
# PyYAML writes Unicode's own line breaks as they are and reads them as spaces.
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0),
        "data.manifest": st.none() | TEXT,
        "data.columns": st.dictionaries(st.sampled_from(CLIP_FIELDS), TEXT),
        "data.labels": st.none() | st.lists(TEXT, min_size=2, unique=True),
        "data.test_fraction": st.floats(0.01, 0.5),
        "fusion.modality_dropout": RATES | st.dictionaries(st.sampled_from(MODALITIES), RATES),
        "fusion.lr": st.floats(0, 1e300, exclude_min=True),
        "train.use_gpu": st.sampled_from(["auto", "yes", "no"]),
        "emovclip.weights": st.none() | TEXT,
        "audio.layers": st.lists(st.integers(-99, 99), min_size=1),
    },
)


def test_relative_paths_become_absolute_where_they_exist_and_names_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clip.pt").touch()
    (tmp_path / "trained").mkdir()
    changes = {"emovclip.weights": "clip.pt", "emovclip.clip": "ViT-B-16", "audio.encoder": "facebook/hubert"}
    starts = dict.fromkeys(("emovclip.start_from", "fusion.start_from", "train.pseudo_labels"), "trained")
    lists = {"tables.audio": ["trained", "nowhere"], "pseudo.teachers": ["trained"]}
    config = absolute_paths(override(Config(), changes | starts | lists))
    trained = str(tmp_path / "trained")
    assert config.emovclip.weights == str(tmp_path / "clip.pt")
    assert {flatten(config)[key] for key in starts} == {trained}
    assert (config.tables.audio, config.pseudo.teachers) == ((trained, "nowhere"), (trained,))
    assert absolute_paths(override(Config(), {"emovclip.clip": "trained"})).emovclip.clip == trained
    assert (config.emovclip.clip, config.audio.encoder) == ("ViT-B-16", "facebook/hubert")


@settings(max_examples=40)  # what YAML does to text and numbers has tests of its own
@given(changes=CHANGES)
def test_a_dump_is_a_recipe_for_the_same_config(changes, tmp_path_factory):
    config = override(Config(), changes)
    path = tmp_path_factory.mktemp("recipe") / "resolved.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(str(path)) == config


@settings(max_examples=40)  # what YAML does to text and numbers has tests of its own
@given(changes=CHANGES)
def test_a_recipe_holds_what_differs_and_not_where_it_ran(changes, tmp_path_factory):
    config = override(Config(), changes)
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(recipe(config), encoding="utf-8")
    loaded, left_out = flatten(load(str(path))), ("checkpoint", "tune", "cluster", "tracking")
    kept = {key: value for key, value in flatten(config).items() if key.split(".")[0] not in left_out}
    assert {key: loaded[key] for key in kept} == kept
    assert recipe(Config()) == "{}\n"
    secret = uuid4().hex  # hypothesis draws words that stand in the code
    assert secret not in recipe(override(config, {"tracking.uri": f"http://me:{secret}@127.0.0.1"}))


@given(changes=CHANGES)
def test_override_changes_the_keys_it_was_given_and_no_other(changes):
    before, after = flatten(Config()), flatten(override(Config(), changes))
    assert list(after) == leaves()
    assert {key: value for key, value in after.items() if key not in changes} == {
        key: value for key, value in before.items() if key not in changes
    }
    assert {key: after[key] for key in changes} == changes
    assert json.loads(json.dumps(after)) == after


def test_overrides_can_be_made_one_by_one_or_together():
    one_by_one = Config()
    for key, value in STABLE.items():
        one_by_one = override(one_by_one, {key: value})
    assert one_by_one == override(Config(), STABLE)


@pytest.mark.parametrize(("key", "value"), STABLE.items(), ids=STABLE)
def test_keys_that_others_rely_on_exist(key, value):
    flat = flatten(override(Config(), {key: value}))
    if key.startswith("data.columns."):
        assert flat["data.columns"] == {key.removeprefix("data.columns."): value}
    else:
        assert flat[key] == value


def _leaves(tree, prefix=""):
    for name, value in tree.items():
        yield from _leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]


@pytest.mark.parametrize("name", RECIPE_NAMES)
def test_every_recipe_loads_and_says_nothing_that_is_the_default(name):
    tree = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    stated = dict(_leaves(tree))
    flat = flatten(load(name))
    assert {key: flat[key] for key in stated} == stated
    assert {key: value for key, value in flat.items() if key not in stated} == {
        key: value for key, value in flatten(Config()).items() if key not in stated
    }


def test_overrides_win_over_the_recipe():
    assert load("mini").emovclip.clip == "mini_clip.json"
    assert load("mini", {"emovclip.clip": "RN50"}).emovclip.clip == "RN50"


def test_a_recipe_that_is_not_there_names_those_that_are(tmp_path):
    with pytest.raises(ValueError, match=r"no recipe 'maxi', expected one of .*mini") as error:
        load("maxi")
    assert all(name in str(error.value) for name in RECIPE_NAMES)
    with pytest.raises(ValueError, match=r"no recipe .*nothing\.yaml"):
        load(str(tmp_path / "nothing.yaml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", None),
        (b"# nothing but a comment\n", None),
        (b"fusion: {modality_dropout: {video: 0.3}}\ndata: {columns: {video: x}}\n", None),
        (b"fusion.modality_dropout: 0.3\n", None),
        (b"- a\n- b\n", r"mine\.yaml: found list, expected a mapping"),
        (b"a: b: c\n", r"mine\.yaml: not YAML"),
        (b"\xff\xfe\x00", r"mine\.yaml: not YAML"),
        (b"seed: !!int x\n", r"mine\.yaml: not YAML"),
        (b"fusoin: {dropout: 0.1}\n", r"unknown config key 'fusoin\.dropout': did you mean 'fusion\.dropout'"),
        (b"fusoin: {}\n", r"unknown config key 'fusoin'"),
        (b"fusion:\n", r"found a value for the section 'fusion', expected one for a key of it: fusion\.lr"),
        (b"1: 2\n", r"unknown config key '1'"),
    ],
)
def test_recipe_files_that_are_odd(content, message, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(content)
    if message is None:
        load(str(path))
    else:
        with pytest.raises(ValueError, match=message):
            load(str(path))


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("fusion.modalitydropout", "fusion.modality_dropout"),
        ("fusion.modality_droput", "fusion.modality_dropout"),
        ("modality_dropout", "fusion.modality_dropout"),
        ("emovlcip.clip", "emovclip.clip"),
        ("train.num_worker", "train.num_workers"),
        ("num_workers", "train.num_workers"),
        ("data.column.video", "data.columns"),
        ("store.rot", "store.root"),
    ],
)
def test_an_unknown_key_names_the_nearest(key, nearest):
    with pytest.raises(ValueError, match=f"unknown config key '{key}': did you mean '{nearest}'"):
        override(Config(), {key: 1})


@given(key=st.text())
def test_any_other_key_is_a_value_error_that_repeats_it(key):
    if key not in leaves():
        with pytest.raises(ValueError, match=r"found|unknown") as error:
            override(Config(), {key: 1})
        assert key in str(error.value) or repr(key) in str(error.value)


@pytest.mark.parametrize("section", [name for name in Config.model_fields if name not in leaves()])
def test_a_section_is_not_a_key(section):
    with pytest.raises(ValueError, match=f"section '{section}', expected one for a key of it: ") as error:
        override(Config(), {section: {}})
    assert all(key in str(error.value) for key in leaves() if key.startswith(f"{section}."))


def test_a_key_below_a_plain_value_is_an_error():
    with pytest.raises(ValueError, match=r"found seed\.more, expected seed=VALUE: seed holds 0"):
        override(Config(), {"seed.more": 1})


def test_tables_are_changed_whole_or_by_key():
    config = override(Config(), {"data.columns": {"video": "x"}})
    both = override(config, {"data.columns.text": "y"})
    assert both.data.columns == {"video": "x", "text": "y"}
    assert override(both, {"data.columns": {"label": "z"}}).data.columns == {"label": "z"}
    rates = override(Config(), {"fusion.modality_dropout": {"video": 0.3}})
    assert override(rates, {"fusion.modality_dropout.text": 0.2}).fusion.modality_dropout == {"video": 0.3, "text": 0.2}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", "abc"),
        ("fusion.dropout", 1.5),
        ("fusion.dropout", math.nan),
        ("fusion.lr", math.inf),
        ("fusion.hidden", 2.5),
        ("train.epochs", 0),
        ("train.use_gpu", "perhaps"),
        ("data.corpus", "imagenet"),
        ("data.labels", ["happy", "happy"]),
        ("data.labels", ["happy"]),
        ("data.columns", {"smell": "x"}),
        ("data.columns", None),
        ("data.test_fraction", 0.9),
        ("fusion.modality_dropout", {"smell": 0.1}),
        ("fusion.modality_dropout", {"video": 1.5}),
        ("fusion.modality_dropout", "high"),
        ("audio.layers", []),
        ("store.root", None),
    ],
)
def test_a_bad_value_is_named_with_its_key(key, value):
    with pytest.raises(ValueError, match=key) as error:
        override(Config(), {key: value})
    shown = next(iter(value.items())) if isinstance(value, dict) else (repr(value).removesuffix("0"),)
    assert all(str(part) in str(error.value) for part in shown)
    assert str(error.value).count(f"found {value!r}") <= 2  # once per kind of value that was tried


def test_values_that_only_together_are_wrong():
    with pytest.raises(ValueError, match=r"found emovclip\.batch_size=32 with train\.num_workers=3"):
        override(Config(), {"train.num_workers": 3})
    override(Config(), {"train.num_workers": 3, "emovclip.batch_size": 30, "fusion.batch_size": 33})
    with pytest.raises(ValueError, match=r"text: found text\.trust_remote_code=true without text\.revision") as error:
        override(Config(), {"text.trust_remote_code": True})
    assert "ngrams" not in str(error.value)  # not the whole section
    override(Config(), {"text.trust_remote_code": True, "text.revision": "abc"})


def test_configs_are_frozen_and_share_nothing():
    config = Config()
    for section, name in ((config, "seed"), (config.fusion, "dropout"), (config.data, "manifest")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, 1)
    config.data.columns["video"] = "x"  # a plain dict, so this cannot be forbidden; it must stay in this config
    assert Config().data.columns == override(Config(), {"seed": 1}).data.columns == {}


def test_override_leaves_the_old_config_alone():
    config = override(Config(), {"data.columns": {"video": "x"}})
    override(config, {"data.columns.text": "y", "seed": 4})
    assert config.data.columns == {"video": "x"}
    assert config.seed == 0


def test_the_environment_says_nothing(monkeypatch):
    for key in leaves():
        monkeypatch.setenv(key.upper().replace(".", "_"), "7")
        monkeypatch.setenv(key, "7")
    assert Config() == load(str(RECIPES / "mini.yaml"), {k: flatten(Config())[k] for k in leaves()})


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("a=1", 1),
        ("a=0.3", 0.3),
        ("a=true", True),
        ("a=", None),
        ("a=null", None),
        ("a=text with spaces", "text with spaces"),
        ("a=b=c", "b=c"),
        ("a=[happy, sad]", ["happy", "sad"]),
        ("a={video: 0.3}", {"video": 0.3}),
        ("a='7'", "7"),
        ("a=s3://bucket/key", "s3://bucket/key"),
        ("a=悲しい", "悲しい"),
    ],
)
def test_values_of_the_command_line_are_yaml(word, value):
    assert cfg.parse_overrides([word]) == {"a": value}


@pytest.mark.parametrize("word", ["", "a", "=1", "a='x", "a=[1,", "a=*x", "a=!!bool x", "a=!!int x", "a=\0"])
def test_words_that_are_no_overrides_are_repeated(word):
    with pytest.raises(ValueError, match=r"expected key=value|not YAML") as error:
        cfg.parse_overrides([word])
    assert (repr(word) if "=value" in str(error.value) else word) in str(error.value)


def test_the_command_line_reaches_the_config():
    words = ["fusion.modality_dropout={video: 0.3}", "data.columns.video=file", "fusion.lr=1e-3", "train.use_gpu=yes"]
    config = load("mini", cfg.parse_overrides(words))
    assert config.fusion.modality_dropout == {"video": 0.3}
    assert config.data.columns == {"video": "file"}
    assert config.fusion.lr == 0.001
    assert config.train.use_gpu == "yes"
    assert load("mini", cfg.parse_overrides(["train.use_gpu=no"])).train.use_gpu == "no"


def test_every_leaf_is_a_key_of_the_dump():
    def keys_of(branch, prefix=""):
        for key, value in branch.items():
            if isinstance(value, dict) and f"{prefix}{key}" in sections():
                yield from keys_of(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    assert set(keys_of(yaml.safe_load(dump(Config())))) == set(leaves())


def test_a_section_in_a_section_is_changed_by_its_keys_and_written_as_a_recipe():
    config = override(Config(), {"media.face.margin": 1.5, "media.frames": 4})
    assert (config.media.face.margin, config.media.frames) == (1.5, 4)
    assert yaml.safe_load(recipe(config)) == {"media": {"face": {"margin": 1.5}, "frames": 4}}
    with pytest.raises(ValueError, match=r"section 'media\.face'"):
        override(Config(), {"media.face": {}})
    with pytest.raises(ValueError, match=r"media\.face\.margin"):
        override(Config(), {"media.face.margn": 1})


@pytest.mark.parametrize(
    ("key", "value", "form"),
    [("data.labels", "happy", r"list, such as \[a, b\]"), ("data.columns", "file", "mapping, such as {a: b}")],
)
def test_a_value_of_another_form_says_how_it_is_written(key, value, form):
    with pytest.raises(ValueError, match=rf"{key}: expected a {form}; found '{value}'"):
        cfg.load("mini", {key: value})
