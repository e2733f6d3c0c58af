"""The words of a command line: a recipe and changes of keys, in any order."""

import pytest

from emo_ray.config import Words, parse_words


@pytest.mark.parametrize(
    ("words", "recipe", "changes"),
    [
        ("", "mini", {}),
        ("mer2024 train.epochs=3", "mer2024", {"train.epochs": 3}),
        ("train.epochs=3 mer2024", "mer2024", {"train.epochs": 3}),
        ("seed=1 my.yaml train.epochs=3", "my.yaml", {"seed": 1, "train.epochs": 3}),
        ("train.epochs = 3 mini", "mini", {"train.epochs": 3}),
        ("mini train.epochs =3", "mini", {"train.epochs": 3}),
        ("train.epochs= 3 seed= 2", "mini", {"train.epochs": 3, "seed": 2}),
        ("tracking.uri= mini", "mini", {"tracking.uri": None}),
        ("tracking.uri= seed=1", "mini", {"tracking.uri": None, "seed": 1}),
        ("data.columns.video = file", "mini", {"data.columns.video": "file"}),
        ("data.manifest=a=b.csv my.yml", "my.yml", {"data.manifest": "a=b.csv"}),
        ("nosuchrecipe", "nosuchrecipe", {}),  # `load` names the recipes
    ],
)
def test_words_stand_in_any_order(words, recipe, changes):
    assert parse_words(words.split()) == Words(recipe, changes)


def test_a_value_may_stand_for_the_key_that_is_chosen():
    assert parse_words(["mer2024", "all", "seed=1"], "bench.part").changes == {"bench.part": "all", "seed": 1}
    assert parse_words(["all"], "bench.part") == Words("mini", {"bench.part": "all"})


def test_a_job_that_is_misspelt_is_guessed_where_one_is_chosen():
    with pytest.raises(ValueError, match=r"'trian'.*did you mean 'train'"):
        parse_words(["trian", "mini"], "submit.job")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("mini rubbish", "'rubbish'.*key=value"),
        ("rubbish mini", "'rubbish'.*key=value"),
        ("mini mer2024", "'mer2024'.*key=value"),
        ("mini --epochs=3", "'--epochs=3'.*--help"),
        ("--verbose", "'--verbose'.*--json"),
        ("mini train.epochs", "train.epochs=VALUE"),
        ("mini fusion", "--help fusion"),
        ("mini data.manifest=", "'data.manifest='.*data.manifest=null"),
        ("checkpoint= mini", "'checkpoint='.*checkpoint=null"),
    ],
)
def test_words_that_mean_nothing_are_named(words, message):
    with pytest.raises(ValueError, match=message):
        parse_words(words.split())
