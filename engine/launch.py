"""Starts the processes of a distributed training on this machine, and ends them together. Torch-free.

`torchrun` and `srun` start them as well; this module is for `--devices N`. If processes fail, the others are ended. The
message and the exit code of one process are printed and returned: of one that found the cause, not of those whose
connection to it broke.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from backbones.errors import BadInput, UserError
from data.cores import available_cores
from engine.cli import INTERRUPTED
from engine.config import TrainConfig

POLL = 0.1  # seconds between checks of the processes
GRACE = 5.0  # seconds that the others have to notice by themselves that a process has ended
PATIENCE = 40.0  # seconds that processes have to end after SIGTERM
LOST = 75  # exit code of a process that lost its connection to another one; EX_TEMPFAIL of sysexits.h
VARIABLE = "BACKBONE_SWAP_LAUNCH"  # environment variable of the processes that this module starts


def devices_of(config: TrainConfig) -> int:
    """The number of devices of this machine to train on. Raises UserError for several of a kind that has one.

    Under torchrun and srun it is the number of processes that they have started here.
    """
    started = int(os.environ.get("LOCAL_WORLD_SIZE", 0))
    if started and "RANK" in os.environ:
        if config.devices not in (started, 1, "auto"):
            raise UserError(
                f"`devices={config.devices}`, but {started} processes were started on this machine: leave it out",
                settings=("devices",),
            )
        return started
    if config.devices == 1:
        return 1
    import torch

    kind = "cuda" if config.device == "auto" and torch.cuda.is_available() else config.device
    if kind.startswith("cuda"):
        found = torch.cuda.device_count()
        if kind != "cuda" or (config.devices != "auto" and int(config.devices) > found):
            raise UserError(
                f"`devices={config.devices}` and `device={config.device}`: this machine has {found} GPUs",
                settings=("devices", "device"),
            )
        return found if config.devices == "auto" else int(config.devices)
    if kind not in ("auto", "cpu"):
        raise UserError(f"`devices={config.devices}`: there is one device of kind {kind}", settings=("devices",))
    return 1 if config.devices == "auto" else int(config.devices)


def adopt_srun() -> None:
    """Set torchrun's variables from those of srun, if srun has started this process as one of several.

    Raises UserError if srun has started different numbers of processes on its machines.
    """
    variables = os.environ
    if "RANK" in variables or int(variables.get("SLURM_STEP_NUM_TASKS", 1)) < 2:
        return
    here, _, repeated = variables["SLURM_STEP_TASKS_PER_NODE"].partition("(")  # such as "4(x2)", or "4,2"
    if not here.isdecimal() or (repeated and not repeated.endswith(")")):
        raise UserError(f"srun started {variables['SLURM_STEP_TASKS_PER_NODE']} processes: use --ntasks-per-node")
    from lightning.fabric.plugins.environments import SLURMEnvironment

    nodes = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_NODELIST", "127.0.0.1")
    variables["RANK"], variables["LOCAL_RANK"] = variables["SLURM_PROCID"], variables["SLURM_LOCALID"]
    variables["WORLD_SIZE"], variables["LOCAL_WORLD_SIZE"] = variables["SLURM_STEP_NUM_TASKS"], here
    variables.setdefault("MASTER_ADDR", SLURMEnvironment.resolve_root_node_address(nodes))
    # All processes of a job step must choose the same port: one of those that no service is registered for.
    step = 100 * int(variables.get("SLURM_JOB_ID", 0)) + int(variables.get("SLURM_STEP_ID", 0))
    variables.setdefault("MASTER_PORT", str(49152 + step % 16384))


def raise_unless_launchable(config: TrainConfig, is_program: bool) -> None:
    """Raise UserError for a training on several machines, and for several devices without a command."""
    if config.num_nodes > 1:
        raise UserError(
            f"`num_nodes={config.num_nodes}`: start the command on each machine with torchrun, for example `torchrun "
            f"--nnodes {config.num_nodes} --nproc_per_node GPUS --rdzv_backend c10d --rdzv_endpoint HOST:29500 -m "
            "TASK.train ...`, or on all of them with srun",
            settings=("num_nodes",),
        )
    if not is_program:
        raise UserError(
            f"`devices={config.devices}`: only a command can start several processes. Start this program with torchrun",
            settings=("devices",),
        )


def launch(command: Sequence[str], processes: int) -> int:
    """Run a command in several processes and wait for them. Returns the exit code of the first one that failed, or 0.

    SIGTERM and SIGINT are passed on to all processes, which save and stop together.

    Args:
        command: program and arguments.
        processes: how many.
    """
    group = _Group(command, processes)
    handlers = {number: signal.signal(number, group.pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return group.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class _Group:
    """The processes of one launch."""

    def __init__(self, command: Sequence[str], processes: int) -> None:
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        shared |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), VARIABLE: "1"}
        # Each process would otherwise use all cores.
        threads = max(1, len(available_cores()) // processes)
        shared |= {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
        self.is_stopped = False  # by a signal to this process
        self.messages: list[list[str]] = [[] for _ in range(processes)]
        self.members = [self._start(command, rank, shared) for rank in range(processes)]
        self.readers = [threading.Thread(target=self._read, args=(rank,), daemon=True) for rank in range(1, processes)]
        for reader in self.readers:
            reader.start()

    def _start(self, command: Sequence[str], rank: int, shared: dict[str, str]) -> subprocess.Popen[str]:
        # A process group of its own: Ctrl-C in a terminal reaches the processes once, through `pass_on`.
        posix: dict[str, Any] = {"start_new_session": True, "preexec_fn": partial(die_with, os.getpid())}
        return subprocess.Popen(
            command,
            env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=None if rank == 0 else subprocess.PIPE,  # process 0 prints for all, unless another one fails
            text=True,
            errors="replace",
            **(posix if os.name == "posix" else {}),
        )

    def _read(self, rank: int) -> None:
        stream = self.members[rank].stderr
        assert stream is not None
        for line in stream:
            self.messages[rank].append(line)

    def pass_on(self, number: int, frame: Any) -> None:
        """Send a signal that this process received to all processes."""
        self.is_stopped = True
        self._send(number)

    def _send(self, number: int) -> None:
        for member in self.members:
            if member.poll() is None:
                member.send_signal(number)

    def wait(self) -> int:
        """Wait for all processes. Ends the others if one fails."""
        failures: dict[int, int] = {}  # exit codes by rank, of the processes that were not ended here
        first: float | None = None  # when the first process failed
        last_signal = 0
        while any(member.poll() is None for member in self.members):
            failures = failures if last_signal else self._failures()
            if failures:
                now = time.monotonic()
                first = now if first is None else first
                due = signal.SIGKILL if now > first + GRACE + PATIENCE else signal.SIGTERM if now > first + GRACE else 0
                if due != last_signal:
                    last_signal = due
                    self._send(due)
            time.sleep(POLL)
        for reader in self.readers:
            reader.join(1.0)
        return self._report(failures if last_signal else self._failures())

    def _failures(self) -> dict[int, int]:
        return {rank: code for rank, member in enumerate(self.members) if (code := member.poll())}

    def _report(self, failures: dict[int, int]) -> int:
        """Print the message of the process that failed first, and return its exit code, or 0."""
        if not failures:
            return 0
        if set(failures.values()) == {LOST}:
            print("error: the connection between the processes broke, but none of them failed", file=sys.stderr)
            return BadInput.exit_code
        # All processes find wrong settings or a divergence. Process 0 has printed its message already.
        rank = min(failures, key=lambda rank: (failures[rank] == LOST, failures[rank] == 1, rank))
        code = failures[rank]
        if rank:
            sys.stderr.write("".join(self.messages[rank]))
        if code < 0 and self.is_stopped:  # before it could handle signals
            print("stopped before the first checkpoint: nothing is saved", file=sys.stderr)
            return INTERRUPTED
        if code < 0:
            print(f"error: process {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
            return 128 - code
        return code


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason. PR_SET_PDEATHSIG is 1 on Linux."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
