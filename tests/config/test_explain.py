from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from emo_ray.config import Config, field_of, flatten, leaves, sections
from emo_ray.config.explain import explain, markdown, type_words

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


@pytest.mark.parametrize("key", leaves())
def test_every_setting_is_described_in_a_sentence(key):
    description = field_of(key).description
    assert description[0] == description[0].strip()
    assert description.endswith(".")
    assert len(description.split()) > 1


@pytest.mark.parametrize("section", [name for name in sections() if name])
@pytest.mark.parametrize("columns", [80, 120])
def test_the_help_on_a_section_tells_every_key_with_default_values_and_description(section, columns):
    text = explain(section, columns)
    words = " ".join(text.split())
    keys = [key for key in leaves() if key.startswith(f"{section}.")]
    assert keys
    for key in keys:
        assert f"{key}=" in words
        assert " ".join(field_of(key).description.split()) in words
    assert max(map(len, text.splitlines())) <= columns


def test_the_help_on_a_key_tells_its_bounds_and_what_it_decides():
    text = explain("fusion.dropout")
    assert "fusion.dropout=0.3  (number ≥ 0 and < 1)" in text
    assert "Decides fusion, folds; through that predictions" in text
    assert "Decides no artefact" in explain("store.root")


@pytest.mark.parametrize("key", leaves())
def test_no_default_is_left_out(key):
    default = flatten(Config())[key]
    if isinstance(default, int | float) or default is None:
        assert f"{key}={str(default).lower().replace('none', 'null')}" in explain(key)


@pytest.mark.parametrize(
    ("word", "nearest"), [("fusoin", "fusion"), ("fusion.droput", "fusion.dropout"), ("", "the se")]
)
def test_help_on_what_is_not_there_names_the_nearest(word, nearest):
    with pytest.raises(ValueError, match=nearest):
        explain(word)


@pytest.mark.parametrize(
    ("annotation", "bounds", "words"),
    [
        (int, [], "whole number"),
        (int | None, [Field(ge=1)], "whole number ≥ 1, or null"),
        (float, [Field(gt=0, le=0.5)], "number > 0 and ≤ 0.5"),
        (bool, [], "true or false"),
        (Literal["a", "b", "c"], [], "a, b or c"),
        (tuple[str, ...], [], "list of text"),
        (tuple[int, ...], [Field(min_length=1)], "non-empty list of whole numbers"),
        (dict[str, Annotated[float, Field(ge=0)]], [], "mapping of text to number ≥ 0"),
        (float | dict[str, float], [], "number, or mapping of text to number"),
        (dict[str, Any], [], "mapping of text to any value"),
    ],
)
def test_types_in_words(annotation, bounds, words):
    assert type_words(annotation, [part for field in bounds for part in field.metadata]) == words


def test_the_page_of_all_settings_is_up_to_date():
    found = PAGE.read_text(encoding="utf-8")
    assert found == markdown(), "run: python -m emo_ray.config.explain > docs/settings.md"
    assert all(f"| `{key}` |" in found for key in leaves())
