"""The table of reliability: tests carry `case` marks; `--reliability FILE` runs them in full and writes it."""

import os
from collections import defaultdict
from datetime import date
from pathlib import Path

import pytest

CASES = {
    "R1": "A run stopped at any point and resumed ends with the weights, averages and files of one never stopped",
    "R2": "Killed while it writes a checkpoint: the file is the old or the new one, and nothing else is left",
    "R3": "Disk full: older checkpoints intact, one message, exit 3; goes on once there is space",
    "R4": "Loss or gradient not finite: stops within the step, names the images, keeps the last checkpoint, exit 4",
    "R5": "Images and batches without boxes: finite loss and gradients",
    "R6": "Boxes without area or outside of the image: dropped or clipped, and counted",
    "R7": "Crowds: no part of the loss, ignored by AP as pycocotools does, the 12 numbers equal",
    "R8": "Category ids with gaps: result files carry the original ids",
    "R9": "Mask values beyond the classes name the file; a wholly ignored crop has loss 0",
    "R10": "Gray, CMYK, RGBA, palette, 16 bits, EXIF-turned, wrong suffix: height x width x 3 uint8",
    "R11": "Truncated, empty, missing images: named; `--data.skip_bad N` leaves out up to N and reports them",
    "R12": "Decompression bombs: refused from the header, without the memory",
    "R13": "Loader process killed, shared memory full: one message with advice, no process left",
    "R14": "Out of memory: evaluation halves its batch and says so, training names a batch size to try",
    "R15": "Pickle payloads: never executed, whatever the file",
    "R16": "`../`, absolute paths and links out of the data set: refused, nothing touched outside",
    "R17": "Hostile YAML is data; HTML in names is text",
    "R18": "No network: every test passes; absent weights say where to put them",
    "resume": "`--resume` refuses settings that contradict the run's",
    "seed": "The same seed gives the same numbers, whatever the number of loader processes",
    "geometry": "Boxes stay inside, flips and letterbox invert, masks and boxes move together",
    "formats": "What earlier versions stored opens with the same results; what a newer version stored is refused",
    "fuzz": "Mutated annotations, masks, images, settings and checkpoints: work, or end in one message",
}


def pytest_addoption(parser):
    parser.addoption("--reliability", metavar="FILE", help="run kills and fuzzing in full, and write the table to FILE")


def pytest_configure(config):
    config.addinivalue_line("markers", "case(name): a row of the reliability table")
    if config.getoption("--reliability") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Table(Path(config.getoption("--reliability"))))


def pytest_collection_modifyitems(items):
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
    """`measured("100 kills survived")`: what the table says beside a test's name."""
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
            "# What holds when things go wrong",
            "",
            f"Written by `make reliability` on {date.today()}, {os.cpu_count()} cores. Each test provokes the fault "
            "itself: a process that is killed, a disk that is full, a file that is damaged. `make test` runs them all "
            "too, the long ones on a seeded sample. Exit codes are in [exit-codes.md](exit-codes.md).",
            "",
            "| case | must hold | tests | measured |",
            "|---|---|---|---|",
        ]
        for case, promise in CASES.items():
            tests = self.tests.get(case, {})
            names = "<br>".join(f"`{name.removeprefix('tests/')}` {_told(found)}" for name, (found, _) in tests.items())
            told = "<br>".join(dict.fromkeys(text for _, measurements in tests.values() for text in measurements))
            lines.append(f"| {case} | {promise} | {names or '**no test ran**'} | {told} |")
            if not tests and session.exitstatus == 0:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text("\n".join(lines) + "\n")


def _told(outcomes):
    if "failed" in outcomes:
        return "**failed**"
    passed = outcomes.count("passed")
    return "skipped here" if not passed else f"({passed})" if passed > 1 else ""
