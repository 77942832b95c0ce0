"""Every code block of README, CONTRIBUTING and the documentation is run, or parsed by the command that it calls.

- bash: each command is parsed by its own parser. A block below a line `<!-- run -->` is also run, at a tiny size; ROOT
  and PHOTOS are then folders of drawn scenes.
- python: run, the blocks of a page one after the other in one namespace. A first line `# mine.py` names a file that
  the block is written to first.
- yaml and json: parsed. text: listings of files and output, which are not checked.
"""

import json
import os
import re
import shutil
import sys
import tomllib
import traceback
from pathlib import Path

import pytest
import yaml

from backbones.errors import BadInput
from data.demo.writer import Plan, write_demo
from data.formats import Split
from data.options import BoxOptions
from experiments.tasks import TASKS
from tests.docs.blocks import PAGES, ROOT, blocks_of, commands_of, spans_of
from tests.docs.commands import check_module, known_flags, main_of

LANGUAGES = ("bash", "python", "yaml", "json", "text")
LEAST = {"bash": 30, "python": 8, "yaml": 1, "run": 5}  # fewer mean that blocks are no longer found
TINY = ["--epochs", "1", "--image_size", "64", "--batch_size", "4", "--data.workers", "0"]
PLAN = Plan(scenes=(4, 2), portraits=(1, 1), scene_sizes=((96, 112),), portrait_sides=(64, 72))


def test_blocks_are_found():
    blocks = [block for page in PAGES for block in blocks_of(page)]
    assert {block.language for block in blocks} <= set(LANGUAGES)
    for language in ("bash", "python", "yaml"):
        assert sum(block.language == language for block in blocks) >= LEAST[language]
    assert sum(block.run for block in blocks) >= LEAST["run"]
    assert all(block.language == "bash" for block in blocks if block.run)


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    listed = re.findall(r"'([^']+\.md)'", str(settings["nav"]))
    assert sorted(listed) == sorted(page.removeprefix("docs/") for page in PAGES if page.startswith("docs/"))


@pytest.mark.parametrize("page", PAGES)
def test_commands_parse(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where no file has a preset's name
    for block in blocks_of(page):
        if block.language == "bash":
            for words in commands_of(block):
                _check(words, block)
        elif block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "json":
            json.loads(block.text)


def _check(words, block):
    """Fail for a command that would not be accepted."""
    place = f"{block}: {' '.join(words)}"
    match words:
        case ["python", "-m", "pytest", *paths]:
            assert paths, place
            assert all((ROOT / path).exists() for path in paths), place
        case ["python", "-m", "pip", "install", requirement]:
            extra = re.fullmatch(r"backbone-swap\[(\w+)\]", requirement)
            assert extra, place
            project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
            assert extra[1] in project["optional-dependencies"], place
        case ["python", "-m", module, *arguments]:
            try:
                check_module(module, arguments)
            except AssertionError as error:
                raise AssertionError(f"{place}: {error}") from error
        case ["torchrun", *rest] | ["srun", *rest] if "-m" in rest:
            _check(["python", *rest[rest.index("-m") :]], block)
        case ["make", *words]:
            targets = [word for word in words if "=" not in word]
            known = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert targets, place
            assert set(targets) <= set(known), place
        case ["export", *variables]:
            assert all(re.fullmatch(r"SBATCH_[A-Z_]+=\S+", variable) for variable in variables), place
        case ["curl", "-F", "image=@photo.jpg", "http://127.0.0.1:8000/predict"]:
            pass  # tests/experiments/test_serve.py sends such forms
        case ["tensorboard", "--logdir", _] | ["source", ".venv/bin/activate"]:
            pass
        case _:
            pytest.fail(f"{place}: no rule says how to check this command")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])  # which names what was renamed
def test_flags_in_text_exist(page):
    flags = known_flags()
    for span in spans_of(page):
        for flag in re.findall(r"(?<!\S)--[a-zA-Z][\w.]*", span):
            plain = re.sub(rf"^--(data\.)?(TASK|{'|'.join(TASKS)})\.", r"--\1", flag)
            assert plain in flags or plain == "--FLAG", f"{page}: `{span}`: no command has {flag}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with drawn scenes, photographs to predict on, and a finished run of each task."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "demo").mkdir()
    write_demo(folder / "demo", PLAN)
    shutil.copytree(folder / "demo" / "detection" / "val", folder / "PHOTOS")
    shutil.copy(folder / "PHOTOS" / "val_00000.jpg", folder / "photo.jpg")
    before = os.getcwd()
    os.chdir(folder)
    try:
        for task in TASKS:
            main_of(f"{task}.train")(["--data.root", f"demo/{task}", "--output", f"runs/{task}/lite0", *TINY])
    finally:
        os.chdir(before)
    return folder


def test_blocks_run(place, monkeypatch):
    """In one test, so that the runs above are trained once, whatever the number of test processes."""
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.chdir(place)
    ran, failures = 0, []
    for page in PAGES:
        namespace = {"__name__": "docs"}
        for block in blocks_of(page):
            try:
                if block.language == "python" and not block.script:
                    _run_python(block, namespace)
                elif block.run:
                    for words in commands_of(block):
                        _run_command(words)
                else:
                    continue
            except (Exception, SystemExit):
                failures.append(f"{block}\n{traceback.format_exc(limit=-3)}")
            ran += 1
    for name in ("mine", "mynet"):
        sys.modules.pop(name, None)
    assert not failures, "\n".join(failures)
    assert ran >= LEAST["python"] + LEAST["run"]


def _run_python(block, namespace):
    if named := re.match(r"# (\w+)\.py\n", block.text):
        Path(f"{named[1]}.py").write_text(block.text)
        sys.modules.pop(named[1], None)
    exec(compile(block.text, str(block), "exec"), namespace)


def _run_command(words):
    python, m, module, *arguments = words
    assert (python, m) == ("python", "-m")
    task = module.split(".")[0] if module.split(".")[0] in TASKS else "detection"
    arguments = [f"demo/{task}" if word == "ROOT" else word for word in arguments]
    if module.endswith(".train"):
        arguments += TINY
        for place in (arguments[i + 1] for i, word in enumerate(arguments) if word == "--output"):
            shutil.rmtree(place, ignore_errors=True)
    code = main_of(module)(arguments)
    assert not isinstance(code, int) or code == 0


def test_the_format_in_contributing_reads_boxes(tmp_path):
    block = next(block for block in blocks_of("CONTRIBUTING.md") if "FORMAT = Format(" in block.text)
    namespace = {"__name__": "docs"}
    exec(compile(block.text, str(block), "exec"), namespace)
    form = namespace["FORMAT"]
    (tmp_path / "images").mkdir()
    shutil.copy(next((ROOT / "tests/fixtures/v1/data/detection/train").iterdir()), tmp_path / "images/a.jpg")
    (tmp_path / "train.boxes").write_text("a.jpg,cat,1,2,30,40\na.jpg,dog,5,6,7,8.5\n")
    assert form.sniff(tmp_path)
    columns = form.read(Split(tmp_path, *form.splits(tmp_path)), BoxOptions())
    assert (columns.names, columns.classes) == (["a.jpg"], ("cat", "dog"))
    assert columns.boxes.tolist() == [[1, 2, 30, 40], [5, 6, 7, 8.5]]
    (tmp_path / "train.boxes").write_text("a.jpg,cat,1,2,30\n")
    with pytest.raises(BadInput, match=r"train\.boxes: line 1 has not six values"):
        form.read(Split(tmp_path, "train"), BoxOptions())
