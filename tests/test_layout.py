"""The layout as rules: who may import whom, and how long things may get. Every rule names file:line and itself.

Each rule is a function from a repository's root to its violations, so that the tests below can also show it a small
repository that breaks it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Bottom to top. A module imports only from lower floors, and rooms on one floor know nothing of each other. Inside a
# room, a module imports only what stands before it in the room's reading order: see `reading_order`.
FLOORS = (
    ("addresses", "arrow_s3"),
    ("bucket",),
    ("locks", "trouble"),
    ("durable",),
    ("store",),
    ("parquet",),
    ("config",),
    ("data",),
    ("models",),
    ("training",),
    ("reports",),
    ("progress", "redaction", "failures", "commands"),
    ("tracking", "cluster", "completion", "usage", "gauges", "job_log"),
    ("preflight", "resources"),
    ("inference",),
    ("stages",),
    ("experiments",),
    ("cli",),
    ("jobs", "__main__"),
)
LIBRARIES = {  # library: where alone it may be imported
    "ray": ("emo_ray/stages/", "emo_ray/experiments/", "emo_ray/cluster.py", "emo_ray/gauges.py"),
    "mlflow": ("emo_ray/tracking",),
    "av": ("emo_ray/data/",),
    "open_clip": ("emo_ray/models/clip_library.py",),
    "openai": ("emo_ray/stages/chat/client.py",),
}
READS_ENVIRONMENT = "emo_ray/cluster.py"
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
LONGEST_FILE, LONGEST_FUNCTION, LONGEST_JOB, MOST_RECIPES = 400, 59, 40, 6


def sources(root: Path, folder: str = "") -> Iterator[tuple[str, ast.Module]]:
    """(path from the root, syntax tree) of the project's Python files."""
    for place in ("emo_ray", "jobs"):
        for path in sorted((root / place).rglob("*.py")):
            name = path.relative_to(root).as_posix()
            if name.startswith(folder):
                yield name, parsed(path.read_text(encoding="utf-8"), name)


@cache
def parsed(text: str, name: str) -> ast.Module:
    """The syntax tree, which no rule changes."""
    return ast.parse(text, name)


def imports(name: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted target) of every import, wherever it stands; for `from a import b` both `a` and `a.b`."""
    package = name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield node.lineno, base
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def reading_order(folder: Path) -> list[str]:
    """The modules of a folder as its `__init__` lists them; empty where it does not."""
    start = folder / "__init__.py"
    text = ast.get_docstring(ast.parse(start.read_text(encoding="utf-8"))) if start.is_file() else None
    found = re.search(r"Reading order: ([^.]+)\.", text or "")
    return [word.strip() for word in found[1].split(",")] if found else []


def folders(root: Path) -> list[Path]:
    return sorted({path.parent for path in (root / "emo_ray").rglob("*.py")} - {root / "emo_ray"})


def floor_of(parts: list[str]) -> int | None:
    """The floor of `["emo_ray", "data", ...]` or `["jobs", ...]`; the bare package lies below all. None: not given."""
    if parts == ["emo_ray"]:
        return -1
    unit = parts[0] if parts[0] == "jobs" else parts[1]
    return next((level for level, units in enumerate(FLOORS) if unit in units), None)


def modules_of(root: Path) -> set[str]:
    names = (name.removesuffix(".py").removesuffix("/__init__") for name, _ in sources(root))
    return {name.replace("/", ".") for name in names}


def imports_point_down(root: Path) -> list[str]:
    problems, modules = [], modules_of(root)
    orders = {".".join(f.relative_to(root).parts): reading_order(f) for f in folders(root)}
    for name, tree in sources(root):
        importer = name.removesuffix(".py").removesuffix("/__init__").split("/")
        if floor_of(importer) is None:
            problems.append(f"{name}:1: {importer[1]} has no floor: give it one in FLOORS of tests/test_layout.py")
            continue
        targets = {(line, target) for line, target in imports(name, tree) if target in modules}
        for line, target in sorted(targets):
            why = _upward(importer, target.split("."), orders, targets, line)
            if why:
                problems.append(f"{name}:{line}: {'.'.join(importer)} imports {target}: {why}")
    return problems


def _upward(importer: list[str], target: list[str], orders: dict, targets: set, line: int) -> str | None:
    """Why this import is wrong; None where it is right, or only the package of another import of the line."""
    dotted = ".".join(target)
    if any(at == line and other.startswith(dotted + ".") for at, other in targets) or dotted == "emo_ray":
        return None
    if importer == ["emo_ray"] and target[:2] == ["emo_ray", "inference"]:  # what `emo_ray.load` imports when called
        return None
    here, there = floor_of(importer), floor_of(target)
    if there is None or there < here:
        return None
    if there > here:
        return f"imports only point to lower floors, and {'.'.join(target[:2])} is above"
    if importer[1] != target[1]:
        return f"{importer[1]} and {target[1]} lie on one floor and do not import each other"
    return _against_reading_order(importer, target, orders)


def _against_reading_order(importer: list[str], target: list[str], orders: dict[str, list[str]]) -> str | None:
    """Modules and folders of the innermost common folder are compared; a folder's own `__init__` comes last in it."""
    shared = next((i for i, (a, b) in enumerate(zip(importer, target, strict=False)) if a != b), len(importer))
    folder = ".".join(importer[:shared])
    if shared == len(importer) and shared == len(target):
        return None
    order = orders.get(folder, [])
    if shared == len(importer):  # a folder's front door takes what is in it
        return None
    place = {module: position for position, module in enumerate(order)}
    before = place.get(target[shared], len(order)) if shared < len(target) else len(order)
    if before < place.get(importer[shared], -1):
        return None
    return f"inside {folder} only earlier modules of its reading order ({', '.join(order)}) may be imported"


def reading_orders_are_complete(root: Path) -> list[str]:
    problems = []
    for folder in folders(root):
        name = f"{folder.relative_to(root).as_posix()}/__init__.py:1"
        listed, there = reading_order(folder), {p.stem for p in folder.glob("*.py")} - {"__init__"}
        there |= {p.name for p in folder.iterdir() if (p / "__init__.py").is_file()}
        if not listed:
            problems.append(f'{name}: no "Reading order: a, b, c." in its docstring')
            continue
        problems += [f"{name}: the reading order lists {m}, and there is no {m}.py" for m in listed if m not in there]
        problems += [
            f"{name}: {m if (folder / m).is_dir() else f'{m}.py'} is not in the reading order"
            for m in sorted(there - set(listed))
        ]
        problems += [f"{name}: the reading order lists {m} twice" for m in {m for m in listed if listed.count(m) > 1}]
    return problems


def libraries_stay_in_their_places(root: Path) -> list[str]:
    problems = set()
    for name, tree in sources(root):
        for line, target in imports(name, tree):
            library = target.split(".")[0]
            places = LIBRARIES.get(library)
            if places and not name.startswith(places):
                problems.add(f"{name}:{line}: imports {library}, which is allowed in {' and '.join(places)} only")
    return sorted(problems)


def jobs_import_the_project_alone(root: Path) -> list[str]:
    allowed = {"emo_ray", *sys.stdlib_module_names}
    return [
        f"{name}:{line}: imports {target}; jobs import emo_ray and the standard library only"
        for name, tree in sources(root, "jobs/")
        for line, target in imports(name, tree)
        if target.split(".")[0] not in allowed
    ]


def one_reader_of_the_environment(root: Path) -> list[str]:
    problems = set()
    for name, tree in sources(root):
        if name == READS_ENVIRONMENT:
            continue
        nodes = list(ast.walk(tree))
        aliases = {a.asname or a.name for n in nodes if isinstance(n, ast.Import) for a in n.names if a.name == "os"}
        for node in nodes:
            attribute = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            found = {node.attr} if attribute and node.value.id in aliases else set()
            if isinstance(node, ast.ImportFrom) and node.module == "os":
                found = {alias.name for alias in node.names}
            for word in found & ENVIRONMENT:
                problems.add(f"{name}:{node.lineno}: os.{word}; only {READS_ENVIRONMENT} reads the environment")
    return sorted(problems)


def nothing_is_too_long(root: Path) -> list[str]:
    problems = []
    for name, tree in sources(root):
        length = len((root / name).read_text(encoding="utf-8").splitlines())
        most = LONGEST_JOB if name.startswith("jobs/") else LONGEST_FILE
        if length > most:
            problems.append(f"{name}:{length}: {length} lines; at most {most} are allowed here")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = node.end_lineno - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    rule = f"at most {LONGEST_FUNCTION} are allowed in a function"
                    problems.append(f"{name}:{node.lineno}: {node.name} has {length} lines; {rule}")
    return problems


def recipes_are_few(root: Path) -> list[str]:
    recipes = sorted(
        p.name for p in (root / "emo_ray" / "config" / "recipes").glob("*") if p.suffix in {".yaml", ".yml"}
    )
    if len(recipes) <= MOST_RECIPES:
        return []
    return [f"emo_ray/config/recipes/{recipes[-1]}:1: {len(recipes)} recipes; at most {MOST_RECIPES} are allowed"]


RULES = (
    imports_point_down,
    reading_orders_are_complete,
    libraries_stay_in_their_places,
    jobs_import_the_project_alone,
    one_reader_of_the_environment,
    nothing_is_too_long,
    recipes_are_few,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps(rule):
    problems = rule(ROOT)
    assert not problems, "\n" + "\n".join(problems)


MODELS = [f"emo_ray.{name}" for name in ("models.emovclip", "models.fusion", "training.loop")]


@pytest.mark.slow  # open_clip and torch take 5 s to import; another test below reads the imports
def test_models_and_training_work_on_a_bare_machine():
    code = f"import sys; sys.modules.update(ray=None, mlflow=None, av=None); import {', '.join(MODELS)}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def loaded_by(root: Path, module: str) -> set[str]:
    """All that comes with a module when it is imported, whether directly or through others of the project."""
    tree_of = {
        name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): (name, t) for name, t in sources(root)
    }
    loaded: set[str] = set()
    waiting = [module]
    while waiting:
        if (target := waiting.pop()) in loaded:
            continue
        loaded.add(target)
        if target in tree_of:
            name, tree = tree_of[target]
            statements = [each for node in tree.body for each in (node.body if isinstance(node, ast.With) else [node])]
            at_once = [each for each in statements if isinstance(each, ast.Import | ast.ImportFrom)]
            waiting += [imported for _, imported in imports(name, ast.Module(at_once, []))]
    return loaded


def test_models_and_training_ask_for_neither_ray_nor_mlflow_nor_decoders():
    libraries = {name.split(".")[0] for module in MODELS for name in loaded_by(ROOT, module)}
    assert {"torch", "open_clip"} <= libraries
    assert not libraries & {"ray", "mlflow", "av"}


def test_a_process_that_trains_a_head_loads_neither_clip_nor_pictures():
    """They take seconds to import, in every process of Ray; a trial of a sweep loads all that training needs."""
    libraries = {name.split(".")[0] for name in loaded_by(ROOT, "emo_ray.stages.sweeps.trial")}
    assert {"torch", "ray", "optuna"} <= libraries
    assert not libraries & {"open_clip", "torchvision", "timm", "transformers", "mlflow", "matplotlib", "sklearn"}


# The rules themselves: a small repository that keeps all of them, and what each says when it is broken.

LOOP = '"""The loop. Reading order: loop."""\n'
GOOD = {
    "emo_ray/__init__.py": '"""A package."""\n',
    "emo_ray/store.py": "import json\n",
    "emo_ray/config/__init__.py": '"""Settings. Reading order: tree."""\nfrom emo_ray.config.tree import load\n',
    "emo_ray/config/tree.py": "from emo_ray import store\n",
    "emo_ray/config/recipes/mini.yaml": "",
    "emo_ray/data/__init__.py": '"""Clips.\n\nReading order: labels,\nmedia, shards.\n"""\n',
    "emo_ray/data/labels.py": "import os\nHERE = os.getpid()\n",
    "emo_ray/data/media.py": "import av\nfrom emo_ray.data import labels\nfrom . import labels as same\n",
    "emo_ray/data/shards.py": "from emo_ray import store\nfrom .media import decode\n",
    "emo_ray/training/__init__.py": LOOP,
    "emo_ray/training/loop.py": "from emo_ray.data.shards import read\n",
    "emo_ray/tracking.py": "def log():\n    import mlflow\n",
    "emo_ray/cluster.py": "import os\nimport ray\nHOME = os.environ['HOME']\n",
    "emo_ray/stages/__init__.py": '"""Verbs. Reading order: fitting, train."""\n',
    "emo_ray/stages/fitting/__init__.py": '"""Fitting. Reading order: plan, save."""\n',
    "emo_ray/stages/fitting/plan.py": "from emo_ray.config import load\n",
    "emo_ray/stages/fitting/save.py": "from emo_ray.stages.fitting.plan import x\nfrom . import plan\n",
    "emo_ray/stages/train.py": (
        "import ray.train\nfrom emo_ray import cluster, tracking\nfrom ..training import loop\n"
        "from emo_ray.stages.fitting import save\nfrom .fitting.plan import y\n"
    ),
    "emo_ray/cli.py": "import emo_ray.config\n",
    "jobs/train.py": "import sys\nfrom emo_ray.stages.train import train\n",
}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_good_repository_breaks_nothing(tmp_path, rule):
    assert rule(write(tmp_path, GOOD)) == []


BROKEN = [
    (imports_point_down, "emo_ray/data/labels.py", "\nimport emo_ray.training.loop", "labels.py:2: .*lower floors"),
    (imports_point_down, "emo_ray/data/labels.py", "import emo_ray.stages.train", "labels.py:1: .*lower floors"),
    (imports_point_down, "emo_ray/data/labels.py", "from ..training.loop import fit", "labels.py:1: .*lower floors"),
    (imports_point_down, "emo_ray/data/labels.py", "def f():\n import emo_ray.cli", "labels.py:2: .*lower floors"),
    (imports_point_down, "emo_ray/stages/train.py", "from emo_ray.cli import main", "train.py:1: .*lower floors"),
    (imports_point_down, "emo_ray/store.py", "from emo_ray.data import labels", "store.py:1: .*lower floors"),
    (imports_point_down, "emo_ray/data/labels.py", "from emo_ray.data.media import x", "labels.py:1: .*reading order"),
    (imports_point_down, "emo_ray/data/media.py", "from . import shards", "media.py:1: .*reading order"),
    (imports_point_down, "emo_ray/stages/fitting/plan.py", "from emo_ray.stages import train", "plan.py:1: .*reading"),
    (
        imports_point_down,
        "emo_ray/stages/fitting/plan.py",
        "from .. import train",
        "plan.py:1: .*.fitting, train",
    ),
    (imports_point_down, "emo_ray/stages/fitting/plan.py", "from . import save", "plan.py:1: .*order .plan, save"),
    (imports_point_down, "emo_ray/store.py", "from emo_ray.config import x", "store.py:1: .*lower floors"),
    (imports_point_down, "emo_ray/tracking.py", "from emo_ray.cluster import x", "tracking.py:1: .*one floor"),
    (imports_point_down, "emo_ray/cluster.py", "from emo_ray import tracking", "cluster.py:1: .*one floor"),
    (imports_point_down, "emo_ray/__init__.py", "from emo_ray import config", "__init__.py:1: .*lower floors"),
    (imports_point_down, "emo_ray/utils.py", "", "utils.py:1: utils has no floor"),
    (reading_orders_are_complete, "emo_ray/data/extra.py", "", "data/__init__.py:1: extra.py is not in"),
    (reading_orders_are_complete, "emo_ray/training/__init__.py", '"""Reading order: loss, loop."""', "no loss.py"),
    (reading_orders_are_complete, "emo_ray/training/__init__.py", '"""Reading order: loop, loop."""', "twice"),
    (reading_orders_are_complete, "emo_ray/training/__init__.py", "", 'no "Reading order'),
    (reading_orders_are_complete, "emo_ray/stages/fitting/more.py", "", "fitting/__init__.py:1: more.py is not in"),
    (reading_orders_are_complete, "emo_ray/stages/__init__.py", '"""Reading order: train."""', "1: fitting is not in"),
    (libraries_stay_in_their_places, "emo_ray/training/loop.py", "from ray import train", "loop.py:1: imports ray"),
    (libraries_stay_in_their_places, "emo_ray/config/tree.py", "def f():\n  import ray.data", "tree.py:2: imports ray"),
    (libraries_stay_in_their_places, "jobs/train.py", "import ray", "jobs/train.py:1: imports ray"),
    (libraries_stay_in_their_places, "emo_ray/stages/train.py", "import mlflow", "train.py:1: imports mlflow"),
    (libraries_stay_in_their_places, "emo_ray/stages/train.py", "__import__('mlflow')", "train.py:1: imports mlflow"),
    (libraries_stay_in_their_places, "emo_ray/training/loop.py", "import av", "loop.py:1: imports av"),
    (jobs_import_the_project_alone, "jobs/train.py", "import os\nimport torch", "jobs/train.py:2: imports torch"),
    (one_reader_of_the_environment, "emo_ray/store.py", "import os\nos.environ", "store.py:2: os.environ"),
    (one_reader_of_the_environment, "emo_ray/store.py", "import os as o\no.getenv('A')", "store.py:2: os.getenv"),
    (one_reader_of_the_environment, "jobs/train.py", "from os import environ", "jobs/train.py:1: os.environ"),
    (nothing_is_too_long, "emo_ray/config/tree.py", "x = 1\n" * 401, "tree.py:401: 401 lines; at most 400"),
    (nothing_is_too_long, "jobs/train.py", "x = 1\n" * 41, "jobs/train.py:41: 41 lines; at most 40"),
    (nothing_is_too_long, "emo_ray/config/tree.py", "\ndef f():\n" + "  x = 1\n" * 59, "tree.py:2: f has 60 lines"),
    (
        nothing_is_too_long,
        "emo_ray/config/tree.py",
        "class A:\n def f(self):\n" + "  x = 1\n" * 59,
        "tree.py:2: f has 60",
    ),
]


@pytest.mark.parametrize(("rule", "name", "text", "message"), BROKEN)
def test_a_broken_rule_is_named(tmp_path, rule, name, text, message):
    problems = rule(write(tmp_path, GOOD | {name: text}))
    assert len(problems) == 1
    assert re.search(message, problems[0])
    assert re.match(r"(emo_ray|jobs)/\S+\.py:\d+: ", problems[0])


def test_limits_are_inclusive(tmp_path):
    function = "def f():\n" + "  x = 1\n" * 58
    files = {"emo_ray/config/tree.py": function + "x = 1\n" * 341, "jobs/train.py": "x = 1\n" * 40}
    assert nothing_is_too_long(write(tmp_path, GOOD | files)) == []


def test_a_seventh_recipe_is_one_too_many(tmp_path):
    for count in range(5):
        write(tmp_path, GOOD | {f"emo_ray/config/recipes/{count}.yaml": ""})
    assert recipes_are_few(tmp_path) == []
    write(tmp_path, {"emo_ray/config/recipes/seventh.yml": ""})
    assert recipes_are_few(tmp_path) == ["emo_ray/config/recipes/seventh.yml:1: 7 recipes; at most 6 are allowed"]
