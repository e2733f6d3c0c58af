"""A job whose result lies in the store reads it, and imports nothing that only making it needs."""

import json
import os
import subprocess
import sys
from pathlib import Path

from emo_ray.config import dump

ROOT = Path(__file__).parents[2]
HEAVY = ("ray", "torch", "open_clip", "sklearn", "mlflow", "transformers")
# None in sys.modules makes every import of that name an ImportError.
WITHOUT = """
import runpy, sys
sys.modules.update(dict.fromkeys(sys.argv[1].split(",")))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_a_finished_report_is_read_without_ray_torch_and_mlflow(evaluated, tiny_config, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(dump(tiny_config))
    job = str(ROOT / "jobs" / "evaluate.py")
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT, ",".join(HEAVY), job, str(recipe), "--json"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr
    printed = json.loads(process.stdout)
    assert {key: printed[key] for key in evaluated.content} == evaluated.content
    assert Path(printed["path"]) == evaluated.path
