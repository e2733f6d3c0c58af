"""YAML of recipes and overrides: the core schema of version 1.2 decides what is a number, a truth value and text."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from emo_ray.config import Config, dump, load, override, parse_overrides, yaml_core
from emo_ray.config.yaml_core import read, write

# Text that a reader of version 1.1 or 1.2 takes for something else unless it is quoted.
LOOKALIKES = (
    "no", "yes", "on", "off", "y", "true", "null", "~", "", "1e-5", "1E5", "1.", ".5", "01", "+1", "0o7", "0x1F", "0b1",
    "1_000", "1:30", "1:30.5", "2024-01-02", "2024-01-02T10:00:00Z", ".inf", ".nan", "=", "<<", "-", "?", "# x", " a",
    "a: b", "[a", "*a", "!x",
)  # fmt: skip
SCALARS = (
    st.sampled_from(LOOKALIKES)
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"))
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E5", 1e5), ("-1.5e+3", -1500.0), ("+.5", 0.5), ("1.", 1.0), (".inf", math.inf), ("0", 0),
        ("+12", 12), ("0o17", 15), ("0x1F", 31), ("true", True), ("FALSE", False), ("null", None), ("~", None),
        ("", None),
    ],
)  # fmt: skip
def test_numbers_truth_values_and_null(text, value):
    assert read(text) == value
    assert type(read(text)) is type(value)


@pytest.mark.parametrize(
    "text",
    ["no", "yes", "On", "off", "y", "N", "01", "-01", "007.5", "1_000", "1:30", "1:30.5", "0b1", "2024-01-02",
     "2024-13-45", "2024-01-02T10:00:00Z", "tRue", "e5", "="],
)  # fmt: skip
def test_what_stays_text(text):
    assert read(text) == text
    assert read(f"[{text}, {{{text}: {text}}}]") == [text, {text: text}]


def test_merged_mappings_are_read():
    assert read("{a: &base {b: 1}, c: {<<: *base, d: 2}}")["c"] == {"b": 1, "d": 2}


@pytest.mark.parametrize(
    "text", ["a: b: c", "[1", "\0", "!!int x", "!!bool x", "!!timestamp x", "!!set [a]", "!!python/name:os.system x"]
)
def test_what_is_no_yaml_is_one_error(text):
    with pytest.raises(ValueError, match="not YAML") as error:
        read(text)
    assert type(error.value) is ValueError


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(SCALARS.map(str), inner), max_leaves=8))
def test_what_is_written_reads_back_and_text_is_text_to_readers_of_version_1_1_too(tree):
    text = write(tree)
    assert repr(read(text)) == repr(tree)
    if isinstance(tree, str):
        assert yaml.safe_load(text) == tree


LINES = st.lists(
    st.text("ab  :#,'\"{}[]-?!&*%~1é好", max_size=40) | st.sampled_from(("word and word", "a: b", *LOOKALIKES)),
    max_size=6,
)
TEXTS = LINES.map(" ".join) | LINES.map("\n".join) | st.text()


@given(st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8))
def test_text_is_the_same_without_libyaml(tree):
    for grown in (tree, {"one": [tree], "two": [tree]}):
        assert write(grown) == yaml.dump(grown, Dumper=yaml_core._Dumper, sort_keys=False, allow_unicode=True)


def test_letters_are_the_same_without_libyaml():
    codes = (*range(0x800), *range(0x800, 0xD800, 37), *range(0xE000, 0x11000, 37))  # of all it takes 7 s
    letters = [chr(code) for code in codes]
    for row in range(0, len(letters), 50):
        tree = {f"{letter} {letter}a": [letter, f"a {letter}"] for letter in letters[row : row + 50]}
        assert write(tree) == yaml.dump(tree, Dumper=yaml_core._Dumper, sort_keys=False, allow_unicode=True)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="PyYAML without libyaml")
def test_a_config_is_written_by_libyaml():
    assert issubclass(yaml_core._FastDumper, yaml.CSafeDumper)
    assert all(yaml_core._is_plain(load(recipe).model_dump(mode="json")) for recipe in ("mini", "small", "mer2024"))


@pytest.mark.parametrize("labels", [["01", "02"], ["no", "yes"], ["1e-5", "null"], ["on", "1:30"], ["2024-01-02", "~"]])
def test_labels_survive_a_dump(labels, tmp_path):
    config = override(Config(), {"data.labels": labels})
    (tmp_path / "resolved.yaml").write_text(dump(config))
    assert load(str(tmp_path / "resolved.yaml")).data.labels == tuple(labels)


def test_overrides_and_recipes_read_alike(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "data: {labels: [01, no]}\nfusion: {lr: 1e-5}\ntune: {space: {fusion.lr: {loguniform: [1e-5, 1e-2]}}}\n"
    )
    words = ["data.labels=[01, no]", "fusion.lr=1e-5", "tune.space.fusion.lr={loguniform: [1e-5, 1e-2]}"]
    config, same = load(str(tmp_path / "mine.yaml")), load("mini", parse_overrides(words))
    for settings in (config, same):
        assert settings.data.labels == ("01", "no")
        assert settings.fusion.lr == 1e-5
        assert settings.tune.space["fusion.lr"] == {"loguniform": [1e-5, 1e-2]}


@pytest.mark.parametrize(("word", "value"), [("no", False), ("off", False), ("yes", True), ("true", True)])
def test_truth_values_may_be_spelt_as_before(word, value):
    assert load("mini", parse_overrides([f"tracking.enabled={word}"])).tracking.enabled is value


@pytest.mark.parametrize("brackets", ["[]", "{}"])
def test_aliases_of_aliases_are_counted_as_what_they_stand_for(brackets):
    """A few hundred bytes that stand for 9 to the power of 9 values."""
    before, after = brackets
    item = "{}" if brackets == "[]" else "k{1}: {0}"
    lines = ["a0: &a0 1"]
    for level in range(1, 10):
        items = ", ".join(item.format(f"*a{level - 1} ", place) for place in range(9))
        lines.append(f"a{level}: &a{level} {before}{items}{after}")
    with pytest.raises(ValueError, match="100000"):
        read("\n".join(lines))
    assert read("a: &a [1, 2]\nb: [*a, *a]") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}


def test_what_is_nested_deep_is_refused():
    with pytest.raises(ValueError, match="50"):
        read("[" * 100_000)


@pytest.mark.parametrize("name", ["films #2/a.csv", "#1.csv", "two\nlines.csv", "my clips #", "a\t# b"])
def test_a_file_name_on_the_command_line_is_not_cut(name):
    """YAML would take `#` for the begin of a comment: the corpus would be another one, or the synthetic one."""
    assert parse_overrides([f"data.manifest={name}"]) == {"data.manifest": name}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("'a #b' # c", "a #b"),
        ('"a\\n" ', "a\n"),
        ("!!str 12", "12"),
        ("[a, 'b #c']", ["a", "b #c"]),
        ("3", 3),
        (" a ", "a"),
    ],
)
def test_other_words_of_a_command_line_are_yaml(word, value):
    assert parse_overrides([f"a={word}"]) == {"a": value}


def test_a_word_that_is_no_yaml_is_told_to_take_quotes():
    with pytest.raises(ValueError, match=r"data\.manifest=\[a\]\.csv: not YAML") as error:
        parse_overrides(["data.manifest=[a].csv"])
    assert "'data.manifest=\"VALUE\"'" in str(error.value)
