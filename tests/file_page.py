"""docs/files.md from the code itself: `python tests/file_page.py > docs/files.md` writes it anew."""

import ast
import re
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "emo_ray"
ROOMS = ("", "experiments", "stages", "reports", "tracking", "inference", "training", "models", "data", "config")
_INTRODUCTION = """\
# The files

Every module with the first line of what it says of itself, room by room, from the verbs down to what they are made of,
each room in an order in which it can be read. (Generated: `python tests/file_page.py > docs/files.md`.)
"""


def page() -> str:
    """The page as Markdown."""
    folders = [room for top in ROOMS for room in ([PACKAGE] if not top else _rooms(PACKAGE / top))]
    return "\n".join([_INTRODUCTION, *(_section(folder) for folder in folders)])


def _rooms(folder: Path) -> list[Path]:
    """A folder and those below it that hold modules, the folder first."""
    return sorted(file.parent for file in folder.rglob("__init__.py"))


def _section(folder: Path) -> str:
    docstring = _docstring(folder / "__init__.py")
    names = {file.stem: file for file in sorted(folder.glob("*.py")) if file.stem != "__init__"}
    order = re.findall(r"\w+", docstring.partition("Reading order:")[2])
    stems = [*dict.fromkeys(stem for stem in order if stem in names), *(stem for stem in names if stem not in order)]
    heading = folder.relative_to(PACKAGE.parent).as_posix() + "/"
    rows = [f"| [{s}.py](../{heading}{s}.py) | {_cell(_first_line(_docstring(names[s])))} |" for s in stems]
    table = ["| file | what it is |", "|---|---|", *rows, ""] if rows else []
    return "\n".join([f"## {heading}", "", _first_line(docstring.partition(" Reading order:")[0]), "", *table])


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""


def _first_line(docstring: str) -> str:
    return " ".join(docstring.partition("\n\n")[0].split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
