"""The wheel: it builds, installs into an empty environment, holds all that is no Python, and brings the command."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")


@pytest.mark.slow  # pip builds and installs
def test_the_wheel_installs_into_an_empty_environment_and_brings_the_command(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "emo_ray", source / "emo_ray", ignore=IGNORED)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    offline = ["--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("emo_ray-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", python, "install", *offline, wheel], check=True)
    (packages,) = (tmp_path / "venv" / "lib").glob("python3*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])  # those of the project's environment
    for path in (ROOT / "emo_ray").rglob("*"):
        if path.is_file() and not {"__pycache__", ".pyc"} & {path.parent.name, path.suffix}:
            assert (packages / path.relative_to(ROOT)).is_file(), path
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [tmp_path / "venv" / "bin" / "emo-ray", "doctor", "mini", "--help"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert "usage: emo-ray doctor" in shown
    assert "small" in shown
    shutil.rmtree(source)
    shutil.rmtree(tmp_path / "venv")  # else templates would pass for pages that the suite writes
