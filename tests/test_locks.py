"""A lock has one holder, and goes with its process; who waits is told for whom."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from emo_ray import locks
from emo_ray.locks import lock


def test_a_lock_has_one_holder_and_goes_with_it(tmp_path):
    is_held = threading.Event()

    def second():
        with lock(tmp_path / "a" / "lock"):
            is_held.set()

    waiting = threading.Thread(target=second)
    with lock(tmp_path / "a" / "lock"):
        waiting.start()
        with pytest.raises(TimeoutError, match=r"lock: .*0 s"), lock(tmp_path / "a" / "lock", 0.0):
            pass
        assert not is_held.is_set()
    waiting.join(30)
    assert is_held.is_set()


def test_who_waits_for_a_lock_says_for_which_process_on_which_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(locks, "_QUIET_WAIT_S", 0.2)
    code = "import sys; from pathlib import Path; from emo_ray.locks import lock\nwith lock(Path(sys.argv[1])):\n"
    command = [sys.executable, "-c", f"{code} print(flush=True); sys.stdin.read()", str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline()
        os.kill(holder.pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError), lock(tmp_path / "lock", 1.0):
            pass
        os.kill(holder.pid, signal.SIGCONT)
        said = capsys.readouterr().err
        (tmp_path / "lock").write_text(f"{holder.pid}\nanother-machine\n")
        with pytest.raises(TimeoutError), lock(tmp_path / "lock", 0.5):
            pass
        holder.communicate()
    assert said.count("\n") == 1
    assert f"process {holder.pid} on this machine" in said
    assert str(tmp_path / "lock") in said
    assert f"process {holder.pid} on another-machine" in capsys.readouterr().err
    assert (tmp_path / "lock").read_text() == ""
