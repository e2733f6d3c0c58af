"""jobs/serve.py: what it refuses before Ray starts, and a real server under many requests at once."""

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from emo_ray.addresses import listening_problem
from emo_ray.cluster import SERVE_TOKEN
from emo_ray.config import override
from emo_ray.experiments.chaos.nodes import Nodes
from emo_ray.experiments.chaos.running import command_of
from emo_ray.stages.serve import APPLICATION, check, check_unused, serve

ROOT = Path(__file__).parents[3]
REQUESTS = 100


@pytest.fixture(scope="module")
def config(evaluated, tiny_config):
    from emo_ray.stages.train import train_model

    return override(tiny_config, {"checkpoint": str(train_model(tiny_config)[0])})


def test_a_server_needs_a_model(tiny_config):
    with pytest.raises(ValueError, match="checkpoint=FOLDER"):
        serve(tiny_config)


def test_a_host_that_others_reach_needs_a_token(config, monkeypatch):
    monkeypatch.delenv(SERVE_TOKEN, raising=False)
    assert check(config)[0] == Path(config.checkpoint)
    others = override(config, {"serve.host": "0.0.0.0"})
    with pytest.raises(ValueError, match=SERVE_TOKEN):
        check(others)
    monkeypatch.setenv(SERVE_TOKEN, "short")
    with pytest.raises(ValueError, match=SERVE_TOKEN):
        check(others)
    monkeypatch.setenv(SERVE_TOKEN, "a-long-and-random-token")
    check(others)


def test_a_port_in_use_is_refused_though_it_could_be_shared(config, monkeypatch):
    """Ray's proxy sets SO_REUSEPORT, with which two servers take turns on one port."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ValueError, match=f"serve.port={port}"):
            serve(override(config, {"serve.port": port}))
    assert listening_problem("127.0.0.1", port) is None
    monkeypatch.setenv(SERVE_TOKEN, "a-long-and-random-token")
    elsewhere = override(config, {"serve.host": "192.0.2.1", "serve.port": port})  # a documentation's address
    with pytest.raises(ValueError, match=f"serve.port={port}.*192.0.2.1"):
        serve(elsewhere)


def test_applications_of_others_and_servers_that_run_are_left_alone():
    check_unused([], replaces=False)
    check_unused([APPLICATION], replaces=True)
    with pytest.raises(ValueError, match=r"serve\.replace"):
        check_unused([APPLICATION], replaces=False)
    for replaces in (True, False):
        with pytest.raises(ValueError, match="by ranking"):
            check_unused(["ranking", APPLICATION], replaces)


@pytest.mark.slow
def test_a_joined_cluster_has_one_server_whose_place_is_taken_on_demand_alone(config, tmp_path):
    ports = free_ports(2)
    addresses = [f"http://127.0.0.1:{port}" for port in ports]
    quiet = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "TUNE_"))}
    with Nodes(tmp_path) as nodes:
        nodes.add(2)

        def start(port, *more):
            words = [f"checkpoint={config.checkpoint}", f"store.root={config.store.root}", f"serve.port={port}"]
            command = command_of("serve", ["mini", *words, "tracking.enabled=false", *more], nodes.variables)
            return subprocess.Popen(command, env=quiet, stderr=subprocess.PIPE, text=True)

        first = start(ports[0])
        wait_for(addresses[0], first)
        second = start(ports[1])
        assert "serve.replace" in second.communicate(timeout=300)[1]
        wait_for(addresses[0], first)
        first.kill()
        first.communicate()
        wait_for(addresses[0])
        third = start(ports[1], "serve.replace=true")
        wait_for(addresses[1], third)
        with pytest.raises(OSError, match="refused"):
            urllib.request.urlopen(addresses[0], timeout=5)
        third.send_signal(signal.SIGINT)
        third.communicate(timeout=120)
        fourth = start(ports[0])
        wait_for(addresses[0], fourth)
        fourth.send_signal(signal.SIGINT)
        fourth.communicate(timeout=120)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for free in sockets:
        free.bind(("127.0.0.1", 0))
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


@pytest.mark.slow
def test_a_hundred_requests_at_once_are_all_answered(config):
    """Latencies and memory are printed: pytest -s."""
    (port,) = free_ports(1)
    words = [f"checkpoint={config.checkpoint}", f"store.root={config.store.root}", f"serve.port={port}"]
    command = [sys.executable, ROOT / "jobs/serve.py", "mini", *words, "tracking.enabled=false"]
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, server)
        video = next((Path(config.store.root) / "corpora").rglob("*.mp4")).read_bytes()
        rounds = [ask_all(address, video) for _ in range(3)]
        memory_mb = [memory for _, _, memory in rounds]
        for statuses, seconds, _ in rounds:
            assert statuses == [200] * REQUESTS
            ranks = statistics.quantiles(seconds, n=100)
            print(f"{REQUESTS} requests at once: p50 {ranks[49]:.2f} s, p99 {ranks[98]:.2f} s")
        print(f"memory after each round: {', '.join(f'{mb:.0f} MB' for mb in memory_mb)}")
        assert memory_mb[-1] < 1.15 * memory_mb[0]
        assert "What does this clip express?" in urllib.request.urlopen(address).read().decode()
        bad = httpx.post(f"{address}/predict", files={"video": ("a.mp4", b"no film")}, timeout=60)
        assert (bad.status_code, "corrupt" in bad.json()["detail"]) == (422, True)
    finally:
        server.terminate()
        server.communicate(timeout=60)


def wait_for(address, server=None):
    """Wait until the server answers; where its job ends instead, fail with what it said."""
    deadline_s = time.monotonic() + 180
    while time.monotonic() < deadline_s:
        assert server is None or server.poll() is None, server.stderr.read()
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5) as response:
                assert json.load(response)["status"] == "ok"
                return
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the server did not answer")


def ask_all(address, video):
    """The statuses and seconds of many requests at once, and the memory of the replicas afterwards in MB."""

    def ask(_):
        start_s = time.monotonic()
        response = httpx.post(f"{address}/predict", files={"video": ("a.mp4", video)}, timeout=120)
        return response.status_code, time.monotonic() - start_s

    with ThreadPoolExecutor(REQUESTS) as pool:
        statuses, seconds = zip(*pool.map(ask, range(REQUESTS)), strict=True)
    replicas = [p for p in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(p.info["cmdline"] or ())]
    return list(statuses), list(seconds), sum(p.memory_info().rss for p in replicas) / 2**20
