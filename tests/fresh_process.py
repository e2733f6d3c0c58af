"""Code in a new Python process that knows nothing of this one's settings."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = ("RAY_", "TUNE_", "OPENAI_")  # beginnings of variables that the new process does without


def process_of(code, home, **environment):
    """A new process with no setting of this one's and its own home folder, which prints its `answers` at the end."""
    code = f"import json, os\nanswers = []\n{code}\nprint(json.dumps(answers))"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    process = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), **environment},
        cwd=home,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process


def answers_of(code, home, **environment):
    return json.loads(process_of(code, home, **environment).stdout.splitlines()[-1])
