"""The words of a command line: a recipe, and changes of its keys, in any order."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from emo_ray.config.tree import choices, is_recipe, leaf_of, parse_overrides, sections

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
        if "=" in word and not word.startswith("-"):
            changes.append(word)
        elif word in values and not any(change.startswith(f"{choice}=") for change in changes):
            changes.append(f"{choice}={word}")
        else:
            _check_plain(word)
            recipes.append(word)
    if len(recipes) > 1:
        odd = next((word for word in recipes if not is_recipe(word)), recipes[-1])
        raise ValueError(f"found {odd!r} beside the recipe, expected key=value, e.g. fusion.modality_dropout=0.3")
    return Words(recipes[0] if recipes else DEFAULT, parse_overrides(changes))


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
