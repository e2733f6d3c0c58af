"""The settings in words, from their declarations: for `--help SECTION`, and docs/settings.md.

`python -m emo_ray.config.explain > docs/settings.md` makes that page anew.
"""

import difflib
import inspect
import json
import shutil
import textwrap
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from emo_ray.config.decides import ARTEFACTS, decided_by
from emo_ray.config.tree import Config, declarations, field_of, flatten, leaves, sections

_WORDS = {
    int: "whole number",
    float: "number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    Any: "any value",
}
_INTRODUCTION = """\
# Settings

Every key of the configuration; `jobs/NAME.py --help SECTION` shows the same. A key is changed on the command line by
`KEY=VALUE`, and in a recipe by a nested mapping; values are YAML. The column "decides" names artefacts: change the
setting, and they and what is made from them are made anew. Settings that decide nothing say where, how fast and how
patiently a job runs.

This page is made from the code: `python -m emo_ray.config.explain > docs/settings.md`.
"""


def width() -> int:
    """Columns to write in: those of the terminal, but from 80 to 120."""
    return min(120, max(80, shutil.get_terminal_size().columns))


def explain(word: str, columns: int = 100) -> str:
    """The help on a section ("fusion") or a dotted key ("fusion.dropout").

    Raises ValueError for any other word, naming the nearest key.
    """
    if word in leaves():
        return _entry(word, columns) + "\n" + _decides(word, columns)
    if not word or word not in sections():
        names = [name for name in sections() if name]
        near = difflib.get_close_matches(word, [*names, *leaves()], n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"the sections are {', '.join(names)}"
        raise ValueError(f"found --help {word}, expected a section or a key: {hint}")
    keys = [key for key in leaves() if key.startswith(f"{word}.")]
    first, *others = _paragraphs(word)
    about = [textwrap.fill(paragraph, columns) for paragraph in (f"{word}: {first}", *others)]
    return "\n\n".join([*about, *(_entry(key, columns) for key in keys)])


def first_line(section: str) -> str:
    """What a section is about, in one line."""
    return _paragraphs(section)[0]


def type_words(annotation: Any, bounds: Sequence[Any] = ()) -> str:
    """The values that a type admits, in words: `int | None` with `ge=1` gives "whole number ≥ 1, or null"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0], [*bounds, *(part for field in arguments[1:] for part in _bounds(field))])
    if origin in (Union, types.UnionType):
        *first, last = (type_words(kind, bounds) for kind in arguments)
        return f"{', '.join(first)}, or {last}"
    if origin is Literal:
        *first, last = map(str, arguments)
        return f"{', '.join(first)} or {last}"
    if origin in (tuple, list):
        some = "non-empty list" if any(hasattr(part, "min_length") for part in bounds) else "list"
        return f"{some} of {type_words(arguments[0]).replace('number', 'numbers')}"
    if origin is dict:
        return f"mapping of {type_words(arguments[0])} to {type_words(arguments[1])}"
    return _WORDS[annotation] + (_interval(bounds) if annotation in (int, float) else "")


def markdown() -> str:
    """The page of all settings, a table for each section."""
    defaults = flatten(Config())
    parts = [_INTRODUCTION]
    for section in sections():
        keys = [key for key in leaves() if key.rpartition(".")[0] == section]
        title = f"## {section}" if section else "## Keys without a section"
        head = "| key | default | values | what it is | decides |\n|---|---|---|---|---|"
        rows = [_row(key, defaults[key]) for key in keys]
        parts.append(
            "\n\n".join([title, *_paragraphs(section)[: 9 if section else 0], "\n".join([head, *rows])]) + "\n"
        )
    rows = [
        f"| {name} | {about.about} | {', '.join(about.made_from) or '-'} | {', '.join(about.repeats) or '-'} |"
        for name, about in ARTEFACTS.items()
    ]
    table = "\n".join(["| artefact | what it is | made from | makes in it |", "|---|---|---|---|", *rows])
    return "\n".join([*parts, f"## Artefacts\n\n{table}\n"])


def _paragraphs(section: str) -> list[str]:
    text = inspect.cleandoc(sections()[section].__doc__ or "")
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _entry(key: str, columns: int) -> str:
    """A key with its default, its values and its description."""
    field = field_of(key)
    default = json.dumps(flatten(Config())[key], ensure_ascii=False)
    values = f"({type_words(field.annotation, _bounds(field))})"
    head = f"{key}={default}"
    if len(head) > columns - 2:
        head = f"{key}=...\n" + _indented(f"default: {default}", columns)
    together = f"  {head}  {values}"
    lines = [together] if len(together) <= columns and "\n" not in head else [f"  {head}", _indented(values, columns)]
    return "\n".join([*lines, _indented(field.description or "", columns)])


def _decides(key: str, columns: int) -> str:
    names = {decision.artefact for decision in declarations()[key].decides}
    direct = [name for name in ARTEFACTS if name in names]
    if not direct:
        return _indented("Decides no artefact: nothing is made anew when it changes.", columns)
    through = [name for name in decided_by(key) if name not in direct]
    text = f"Decides {', '.join(direct)}{'; through that ' if through else ''}{', '.join(through)}."
    return _indented(text, columns)


def _row(key: str, default: Any) -> str:
    field = field_of(key)
    declared = declarations()[key]
    by = {decision.artefact: decision for decision in declared.decides}
    decides = ", ".join(name + (f" (where {d.only_if.words})" if d.only_if else "") for name, d in by.items()) or "-"
    values = type_words(field.annotation, _bounds(field))
    shown = json.dumps(default, ensure_ascii=False).replace("|", "\\|")
    return f"| `{key}` | `{shown}` | {values} | {(field.description or '').replace('|', chr(92) + '|')} | {decides} |"


def _bounds(field: Any) -> list[Any]:
    """The bounds (annotated_types' Ge, Gt, Le, Lt, MinLen) among a field's metadata."""
    names = ("ge", "gt", "le", "lt", "min_length")
    return [part for part in field.metadata if any(hasattr(part, name) for name in names)]


def _interval(bounds: Sequence[Any]) -> str:
    """Bounds as they stand behind a kind of value: " ≥ 1", " ≥ 0 and < 1"."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {getattr(part, name):.3g}" for part in bounds for name, sign in signs.items() if hasattr(part, name)
    ]
    return f" {' and '.join(limits)}" if limits else ""


def _indented(text: str, columns: int) -> str:
    return textwrap.fill(text, columns, initial_indent=" " * 6, subsequent_indent=" " * 6)


if __name__ == "__main__":
    print(markdown(), end="")
