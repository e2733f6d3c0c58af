"""YAML as version 1.2 reads it (its core schema): what stands in a recipe, in an override, and in a dumped config.

PyYAML reads by version 1.1, where `1e-5` is text, `no` and `on` are false and true, `01` is 1, `1:30` is 90, and
`2024-01-02` is a date. Here `1e-5` is a number, `true` and `false` are the only truth values, and all the others are
text. One thing differs from 1.2: a whole number with zeros in front, such as the label `01`, is text and not 1.
"""

import re
from typing import Any, ClassVar

import yaml
from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, ScalarEvent

_TYPES = {  # from the end of YAML's tag to how such a value is spelt, and the characters that it may begin with
    "null": (r"~|null|Null|NULL|", ("~", "n", "N", "")),
    "bool": (r"true|True|TRUE|false|False|FALSE", tuple("tTfF")),
    "int": (r"[-+]?(0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", tuple("-+0123456789")),
    "float": (
        r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        tuple("-+.0123456789"),
    ),
    "merge": (r"<<", ("<",)),  # of mappings; of version 1.1, and in use
}
_DEEPEST = 50  # levels of nested values
_MOST_VALUES = 100_000  # with each alias counted as all that it stands for
# Text in the common scripts, no spaces around its line breaks: C folds other long text elsewhere, and escapes emoji.
_PLAIN = re.compile(r"(?:[ -~\u00a1-\u1fff\u3040-\ud7ff]|(?<=[^\s])\n(?=\S))*")
_LONGEST_KEY = 60  # letters; longer ones are written as `? key`, from another length on in C
_QUOTES = ("'", '"', "|", ">", "!", "&")  # of text that is not as it is written
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C: ten times as fast, where it is
    """Reads plain scalars by the core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of either version would take for something else."""


class _FastDumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]  # C: four times as fast
    """Writes the same text as `_Dumper` where all strings of a tree are `_is_plain`."""


for _name, (_spelling, _beginnings) in _TYPES.items():
    for _class in (_Loader, _Dumper, _FastDumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^({_spelling})$"), list(_beginnings))


def read(text: str) -> Any:
    """The value of a YAML text. Raises ValueError for anything that is not YAML, or nested deeper than any config."""
    try:
        _check_size(text)
        return yaml.load(text, _Loader)
    except _UNREADABLE as error:  # LookupError and the like: a tag of PyYAML with a value that it does not fit
        raise ValueError(f"not YAML: {error}") from error


def read_word(text: str) -> Any:
    """The value of a word of a command line, as `read` gives it, but text without quotes is all of the word.

    `#` begins no comment and a line break is no space there: both may stand in the name of a file.
    """
    value, word = read(text), text.strip()
    is_text = isinstance(value, str) and not word.startswith(_QUOTES)
    return word if is_text or word.startswith("#") else value


def _check_size(text: str) -> None:
    """Raises ValueError for values nested too deep, or too many of them.

    On deep ones the loader in C would overflow its stack and crash. Aliases of aliases are few bytes that stand for
    any number of values.
    """
    count = 0
    started: list[tuple[str | None, int]] = []  # anchor of each open collection, and how many values came before it
    size_of: dict[str, int] = {}  # anchor -> values
    for event in yaml.parse(text, _Loader):
        if isinstance(event, AliasEvent):
            count += size_of.get(event.anchor or "", 1)
        elif isinstance(event, ScalarEvent | CollectionStartEvent):
            count += 1
        if isinstance(event, CollectionStartEvent):
            started.append((event.anchor, count))
        elif isinstance(event, CollectionEndEvent):
            anchor, before = started.pop()
            if anchor is not None:
                size_of[anchor] = count - before + 1
        if len(started) > _DEEPEST:
            raise ValueError(f"found values nested more than {_DEEPEST} deep")
        if count > _MOST_VALUES:
            raise ValueError(f"found more than {_MOST_VALUES} values, aliases counted as what they stand for")


def write(tree: Any) -> str:
    """A YAML text that `read` gives the same value for."""
    is_fast = isinstance(tree, dict | list) and _is_plain(tree)
    return yaml.dump(tree, Dumper=_FastDumper if is_fast else _Dumper, sort_keys=False, allow_unicode=True)


def _is_plain(tree: Any) -> bool:
    """Whether PyYAML in C gives the same text for a tree as PyYAML in Python."""
    if isinstance(tree, dict):
        are_short = all(isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY and "\n" not in key for key in tree)
        return are_short and all(map(_is_plain, tree)) and all(map(_is_plain, tree.values()))
    if isinstance(tree, list | tuple):
        return all(map(_is_plain, tree))
    return not isinstance(tree, str) or _PLAIN.fullmatch(tree) is not None
