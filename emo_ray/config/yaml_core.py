"""YAML as version 1.2 reads it (its core schema): what stands in a recipe, in an override, and in a dumped config.

PyYAML reads by version 1.1, where `1e-5` is text, `no` and `on` are false and true, `01` is 1, `1:30` is 90, and
`2024-01-02` is a date. Here `1e-5` is a number, `true` and `false` are the only truth values, and all the others are
text. One thing differs from 1.2: a whole number with zeros in front, such as the label `01`, is text and not 1.
"""

import re
from typing import Any, ClassVar

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent

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
_UNREADABLE = (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError, RecursionError)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # C: ten times as fast, where it is
    """Reads plain scalars by the core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[tuple[str, re.Pattern[str]]]]] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that a reader of either version would take for something else."""


for _name, (_spelling, _beginnings) in _TYPES.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^({_spelling})$"), list(_beginnings))


def read(text: str) -> Any:
    """The value of a YAML text. Raises ValueError for anything that is not YAML, or nested deeper than any config."""
    try:
        _check_depth(text)
        return yaml.load(text, _Loader)
    except _UNREADABLE as error:  # LookupError and the like: a tag of PyYAML with a value that it does not fit
        raise ValueError(f"not YAML: {error}") from error


def _check_depth(text: str) -> None:
    """Raises ValueError for values nested too deep, on which the loader in C would overflow its stack and crash."""
    depth = 0
    for event in yaml.parse(text, _Loader):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise ValueError(f"found values nested more than {_DEEPEST} deep")


def write(tree: Any) -> str:
    """A YAML text that `read` gives the same value for."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
