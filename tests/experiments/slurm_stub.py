"""SLURM's commands as far as submitit and `SlurmRunner` use them, for one machine: `slurm_stub.py COMMAND ARGUMENTS`.

Jobs start at once. Their state is in the folder SLURM_STUB: a file for each element of a job array, with the id of its
process group, and the script. `submissions` has a line for each call of sbatch.
"""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ.get("SLURM_STUB", "."))
OPTIONS_WITH_VALUE = ("--output", "--error", "--cpus-per-task")


def install(folder: Path, state: Path, monkeypatch) -> None:
    """Put the commands into `folder` and at the front of PATH."""
    folder.mkdir()
    state.mkdir()
    for name in ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol"):
        command = folder / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" {name} "$@"\n')
        command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_STUB", str(state))


def group_of(job: str) -> int:
    """Process group of a job."""
    return int((STATE / job).read_text().split()[0])


def is_running(group: int) -> bool:
    """Whether a process group has a process that has not ended."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False


def start(job: str, script: str) -> None:
    """Run a job's script in a process group of its own."""
    main, _, element = job.partition("_")
    variables = {"SLURM_JOB_ID": main, "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    if element:
        variables |= {"SLURM_ARRAY_JOB_ID": main, "SLURM_ARRAY_TASK_ID": element}
    process = subprocess.Popen(
        ["bash", script],
        env=os.environ | variables,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    (STATE / job).write_text(f"{process.pid} {script}")


def sbatch(script: str) -> None:
    with (STATE / "submissions").open("a+") as file:
        file.write(f"{script}\n")
        file.seek(0)
        number = len(file.readlines())
    array = re.search(r"--array=0-(\d+)", Path(script).read_text())
    # submitit moves the script after this call
    (kept := STATE / f"{number}.sh").write_bytes(Path(script).read_bytes())
    for job in [f"{number}_{i}" for i in range(int(array[1]) + 1)] if array else [str(number)]:
        start(job, str(kept))
    print(f"Submitted batch job {number}")


def srun(*arguments: str) -> None:
    words, options = list(arguments), {}
    while words[0].startswith("--"):
        name = words.pop(0)
        options[name] = words.pop(0) if name in OPTIONS_WITH_VALUE else ""
    job = os.environ["SLURM_JOB_ID"]
    array = "_".join(os.environ.get(k, job) for k in ("SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"))
    for name, stream in (("--output", 1), ("--error", 2)):
        path = options[name].replace("%j", job).replace("%A_%a", array).replace("%t", "0")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    os.execvp(words[0], words)


def squeue(*_: str) -> None:
    for path in STATE.iterdir():
        if re.fullmatch(r"[\d_]+", path.name) and is_running(group_of(path.name)):
            print(path.name)


def scancel(*arguments: str) -> None:
    number = getattr(signal, f"SIG{arguments[arguments.index('--signal') + 1]}") if "--signal" in arguments else 15
    os.killpg(group_of(arguments[0]), number)


def sinfo(*_: str) -> None:
    print("2\n1+")


def scontrol(action: str, job: str) -> None:
    assert action == "requeue"
    group, script = (STATE / job).read_text().split()
    # Called by the job itself: in a process of its own, which waits for the end of the job.
    if os.fork() == 0:
        os.setsid()
        while is_running(int(group)):
            pass
        start(job, script)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
