"""A comparison on a Ray cluster of two nodes, in network namespaces of their own, of which one is lost."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest

from tests.classification.conftest import write_folders
from tests.commands import run
from tests.detection.conftest import write_coco
from tests.reliability.conftest import environment
from tests.reliability.processes import kill, left, processes
from tests.segmentation.conftest import UNLABELLED, write_masks

HEAD, WORKER = "10.77.0.1", "10.77.0.2"
PORT = 6399
SETTINGS = ["--backbones", "lcnet_035", "mobilenetv3_small_050", "--seeds", "2", "--epochs", "1", "--batch_size", "4",
            "--image_size", "64", "--device", "cpu", "--segmentation.eval_size", "64",
            "--segmentation.data.ignore_index", str(UNLABELLED)]  # fmt: skip
TASKS = ("classification", "detection", "segmentation")


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture
def nodes():
    """Names of two network namespaces that reach each other at HEAD and WORKER. Their processes end with them."""
    names = [f"{side}{os.getpid()}" for side in ("head", "work")]
    ends = [f"v{name[0]}{os.getpid()}" for name in names]
    made = []
    try:
        for name in names:
            ip("netns", "add", name)
            made.append(name)
        ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for name, end, address in zip(names, ends, (HEAD, WORKER), strict=True):
            ip("link", "set", end, "netns", name)
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in made:
            kill([int(pid) for pid in ip("netns", "pids", name).split()], signal.SIGKILL)
            ip("netns", "del", name)
        shutil.rmtree(f"/tmp/ray{os.getpid()}", ignore_errors=True)


def compare(output, roots, *more, node, variables, log):
    words = [sys.executable, "-m", "experiments.compare", *SETTINGS, "--output", str(output), *more]
    for task, root in roots.items():
        words += [f"--data.{task}.root", str(root), f"--data.{task}.workers", "0"]
    inside = ["ip", "netns", "exec", node]
    return subprocess.Popen([*inside, *words], env=environment() | variables, stdout=log, stderr=log)


def start_node(name, *flags, variables):
    """Start Ray in a network namespace."""
    words = ["ip", "netns", "exec", name, sys.executable, "-m", "ray.scripts.scripts", "start", *flags,
             "--num-cpus", "1", "--object-store-memory", "100000000", "--disable-usage-stats"]  # fmt: skip
    done = subprocess.run(
        words, env=environment() | variables, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def trained(output):
    """Run folders of a comparison whose trainings are all done."""
    cells = json.loads((output / "comparison.json").read_text())["cells"]
    assert {cell["status"] for cell in cells} == {"done"}
    return [output / cell["folder"] for cell in cells]


def metrics(folder):
    return json.loads((folder / "record.json").read_text())["metrics"]


@pytest.mark.slow
@pytest.mark.case("R22")
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces")
def test_a_node_is_lost_in_a_comparison(nodes, tmp_path, measured):
    pytest.importorskip("ray")
    head, worker = nodes
    write = {"classification": write_folders, "detection": write_coco, "segmentation": write_masks}
    roots = {task: tmp_path / task for task in TASKS}
    for task, root in roots.items():
        write[task](root)
    output, logs = tmp_path / "cluster", tmp_path / "log"
    # Paths of Ray's sockets must be short. The token is this cluster's own, whatever this machine has.
    variables = {
        "PYTHONPATH": str(Path.cwd()), "RAY_TMPDIR": f"/tmp/ray{os.getpid()}", "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_ADDRESS": f"{HEAD}:{PORT}",
        "RAY_worker_niceness": "0",  # by default trainings would wait for everything else on this machine
    }  # fmt: skip
    with logs.open("a") as log:
        start_node(head, "--head", "--node-ip-address", HEAD, "--port", str(PORT), "--include-dashboard", "false",
                   variables=variables)  # fmt: skip
        start_node(worker, "--address", f"{HEAD}:{PORT}", "--node-ip-address", WORKER, variables=variables)
        process = compare(output, roots, "--runner", "ray", "--slots", "2", node=head, log=log,
                          variables=variables)  # fmt: skip
        namespace = (Path("/run/netns") / worker).stat().st_ino
        trainings = set()
        while len(list(output.glob("cells/*/*/complete.json"))) < 4 or not trainings:
            assert process.poll() is None, logs.read_text()
            time.sleep(0.5)
            trainings = processes(".train", str(tmp_path)).keys() & network_processes(worker)
        (raylet,) = processes("raylet/raylet", f"--node_ip_address={WORKER}")
        assert (Path("/proc") / str(raylet) / "ns" / "net").stat().st_ino == namespace
        finished = len(list(output.glob("cells/*/*/complete.json")))
        os.kill(raylet, signal.SIGKILL)
        killed = time.monotonic()
        while any(Path(f"/proc/{pid}").exists() for pid in trainings):
            assert time.monotonic() < killed + 60
            time.sleep(0.2)
        assert process.wait(3000) == 0, logs.read_text()
        assert not left(".train", str(tmp_path))
        while processes("ray::").keys() & network_processes(worker):
            assert time.monotonic() < killed + 600
            time.sleep(0.2)
    folders = trained(output)
    assert len(folders) == 12
    for number, folder in enumerate(folders):  # one after the other, in this process
        serial = tmp_path / f"serial{number}"
        run(import_module(f"{folder.parent.name}.train"), "--config", folder / "config.yaml", "--output", serial)
        assert str(metrics(serial)) == str(metrics(folder))  # as text, in which NaN equals NaN
    measured(f"{finished} of 12 trainings complete when the node was lost; 12 at the end, metrics equal")


def network_processes(name):
    """Ids of the processes in a network namespace."""
    return {int(pid) for pid in ip("netns", "pids", name).split()}
