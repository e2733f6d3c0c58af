"""The words of a command line: a recipe, and changes of its keys, in any order."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emo_ray.config.tree import choices, declarations, is_recipe, leaf_of, parse_overrides, sections

PLACES = ("data.manifest", "data.root")  # beside the settings that are declared as paths
DEFAULT = "mini"  # the recipe where none is named


@dataclass(frozen=True)
class Words:
    """What a command line names: a recipe, and values by dotted key."""

    recipe: str
    changes: dict[str, Any]


def parse_words(words: Sequence[str], choice: str | None = None) -> Words:
    """The recipe and the changes that words name; where `choice` is a key, a word of its values stands for it.

    `key = value` is read as `key=value`. Raises ValueError for a second recipe, an unknown option and a key alone.
    """
    values = choices(choice) if choice else ()
    recipes: list[str] = []
    changes: list[str] = []
    for word in joined_words(words):
        _check_place(word)
        if "=" in word and not word.startswith("-"):
            changes.append(word)
        elif word in values and not any(change.startswith(f"{choice}=") for change in changes):
            changes.append(f"{choice}={word}")
        else:
            _check_plain(word)
            recipes.append(word)
    if len(recipes) > 1:
        odd = next((word for word in recipes if not is_recipe(word)), recipes[-1])
        near = difflib.get_close_matches(odd, values, n=1)
        hint = f": did you mean {near[0]!r}?" if near else ", e.g. fusion.modality_dropout=0.3"
        raise ValueError(f"found {odd!r} beside the recipe, expected key=value{hint}")
    return Words(recipes[0] if recipes else DEFAULT, parse_overrides(changes))


def _check_place(word: str) -> None:
    """Raise ValueError for a file or folder that is empty, as of a shell's variable that is not set.

    It would be null, by which the job would train on the synthetic corpus, or evaluate another model than meant.
    """
    key, _, value = word.partition("=")
    if not value.strip() and (key in PLACES or (leaf_of(key) is not None and declarations()[key].path)):
        raise ValueError(
            f"found {word!r} without a value, expected a file or folder: is a variable of the shell empty? "
            f"{key}=null says that there is none"
        )


def joined_words(words: Sequence[str]) -> list[str]:
    """The words, with `key = value`, `key =value` and `key= value` as one word each.

    An empty value is null, so what follows `key=` is its value only where it is neither a recipe nor key=value itself.
    """
    joined: list[str] = []
    for word in words:
        last = joined[-1] if joined else ""
        is_value = "=" not in word and not word.startswith("-") and not is_recipe(word)
        behind_a_key = "=" not in last and leaf_of(last) is not None
        if (word.startswith("=") and behind_a_key) or (last.endswith("=") and last.count("=") == 1 and is_value):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def _check_plain(word: str) -> None:
    """Raise ValueError for a word without "=" that cannot be a recipe: an option, a key, or a section."""
    if word.startswith("-"):
        raise ValueError(
            f"found {word!r}, expected --help, --version, --json, or key=value without dashes, e.g. train.epochs=20"
        )
    if leaf_of(word) is not None or word in sections():
        raise ValueError(f"found {word!r} without a value, expected {word}=VALUE, or --help {word}")
