"""The reliability table: `case` marks assign tests to its rows; `--reliability FILE` runs them and writes it."""

import os
from collections import defaultdict
from datetime import date
from pathlib import Path

import pytest

CASES = {
    "R1": "A run stopped at any point and resumed ends with the weights, averages and files of an uninterrupted run",
    "R2": "Process killed while it writes a checkpoint: the file is the old or the new one, no temporary file remains",
    "R3": "Disk full: older checkpoints stay intact, one message, exit 3; the run resumes once there is space",
    "R4": "Loss or gradient not finite: stops in that step, names the images, keeps the last checkpoint, exit 4",
    "R5": "Images and batches without boxes: finite loss and gradients",
    "R6": "Boxes without area or outside of the image: dropped or clipped, and counted",
    "R7": "Crowds: excluded from the loss, handled in AP as in pycocotools, with equal 12 numbers",
    "R8": "Category ids with gaps: result files contain the original ids",
    "R9": "Mask values beyond the classes: the error names the file. Crops in which every pixel is ignored: loss 0",
    "R10": "Gray, CMYK, RGBA, palette, 16 bits, EXIF-rotated, wrong suffix: all become height x width x 3 uint8",
    "R11": "Truncated, empty, missing images: the error names them; `--data.skip_bad N` skips up to N and reports them",
    "R12": "Decompression bombs: refused after reading the header, before memory is allocated",
    "R13": "Loader process killed, shared memory full: one message with advice, no process remains",
    "R14": "Out of memory: evaluation halves its batch and reports it; training suggests a batch size",
    "R15": "Pickle payloads: never executed, in any kind of file",
    "R16": "`../`, absolute paths and links out of the data set: refused, nothing touched outside",
    "R17": "Hostile YAML: read as data only. HTML in names: shown as text",
    "R18": "No network: every test passes; the error for missing weights says where to put them",
    "R19": "A distributed training loses a process: it ends within a minute, resumes, and ends with the same weights",
    "R20": "Evaluation by several processes counts each image once: the scores of one process, in every digit",
    "R21": "Signals to one or all processes of a distributed training: the same, resumed with any number of processes",
    "R22": "A worker of a cluster is lost in a comparison: its training runs elsewhere, scores equal a serial run's",
    "R23": "Network drives without locks, or that do not replace open files: works, or one message with the cause",
    "compare": "`compare` stopped at any time: exit code 130, and the same command ends with the same results",
    "serve": "`serve`: bombs, 100 MB and text named .jpg are refused; memory does not grow; no request is lost",
    "resume": "`--resume` refuses settings that contradict the run's, and changed data; it accepts data that moved",
    "seed": "The same seed leads to the same numbers, with any number of loader processes",
    "geometry": "Boxes stay inside, flips and letterbox invert, masks and boxes move together",
    "formats": "Files of earlier versions load with the same results; files of a newer version are refused",
    "boxes": "Boxes of every layout, random and damaged: a perfect detector scores 1, or the files are refused",
    "fuzz": "Mutated annotations, masks, images, settings and checkpoints: each works or leads to one message",
}


def pytest_addoption(parser):
    parser.addoption("--reliability", metavar="FILE", help="run kills and fuzzing in full, and write the table to FILE")


def pytest_configure(config):
    config.addinivalue_line("markers", "case(name): a row of the reliability table")
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(Path(config.getoption("--reliability"))))


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--reliability"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    for item in items:
        for mark in item.iter_markers("case"):
            assert mark.args[0] in CASES, f"{item.nodeid} belongs to no known case"
            item.user_properties.append(("case", mark.args[0]))


@pytest.fixture
def amount(request):
    """`amount(few, many)`: few in `make test`, many in `make reliability`."""
    full = request.config.getoption("--reliability") is not None
    return lambda few, many: many if full else few


@pytest.fixture
def measured(record_property):
    """`measured("100 kills survived")`: a text for the table's column `measured`."""
    return lambda text: record_property("measured", text)


class Table:
    """Collects the marked tests' results."""

    def __init__(self, file):
        self.file = file
        self.tests = defaultdict(dict)  # case -> test -> [outcomes, measured]

    def pytest_runtest_logreport(self, report):
        name = report.nodeid.split("[")[0]
        for case in [value for key, value in report.user_properties if key == "case"]:
            outcomes, measurements = self.tests[case].setdefault(name, ([], []))
            if report.when == "call" or report.outcome != "passed":
                outcomes.append(report.outcome)
            if report.when == "call":
                measurements += [value for key, value in report.user_properties if key == "measured"]

    def pytest_sessionfinish(self, session):
        lines = [
            "# Reliability",
            "",
            f"Written by `make reliability` on {date.today()}, {os.cpu_count()} cores. Each test causes the fault: it "
            "kills a process, fills a disk or damages a file. `make test` runs those that are not marked slow, some of "
            "them on a seeded sample. Exit codes are in [exit-codes.md](exit-codes.md).",
            "",
            "| case | must hold | tests | measured |",
            "|---|---|---|---|",
        ]
        for case, promise in CASES.items():
            tests = self.tests.get(case, {})
            names = "<br>".join(
                f"`{name.removeprefix('tests/')}` {_outcome(found)}" for name, (found, _) in tests.items()
            )
            figures = "<br>".join(dict.fromkeys(text for _, measurements in tests.values() for text in measurements))
            lines.append(f"| {case} | {promise} | {names or '**no test ran**'} | {figures} |")
            if not tests and session.exitstatus == 0:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("\n".join(lines) + "\n")


def _outcome(outcomes):
    if "failed" in outcomes:
        return "**failed**"
    passed = outcomes.count("passed")
    return "skipped here" if not passed else f"({passed})" if passed > 1 else ""
