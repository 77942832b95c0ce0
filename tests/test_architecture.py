"""Imports that import-linter cannot see, of modules that a string names, obey the same layers.

The names that reach `import_module`, `__import__` or `python -m` in a process of our own are read from the source, and
checked against the layers that pyproject.toml states for import-linter.
"""

import ast
import re
import tomllib
from importlib import import_module
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES = CONTRACTS["root_packages"]
# Names that the user of a command writes, so that no source holds them.
NAMED_BY_THE_USER = {("backbones.custom", "module_name")}


def module_name(file, root):
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_of(root):
    """Every module of our packages under `root` by name, with its syntax tree."""
    files = [file for package in PACKAGES for file in sorted((root / package).rglob("*.py"))]
    return {module_name(file, root): ast.parse(file.read_text()) for file in files}


def called(node):
    """The function that a call names: `import_module` of `importlib.import_module(...)`."""
    return getattr(node.func, "attr", getattr(node.func, "id", None))


def is_interpreter(node):
    return isinstance(node, ast.Attribute) and node.attr == "executable"


def module_expressions(tree):
    """The expressions in `tree` that name a module: arguments of import functions, and what follows `-m`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in ("import_module", "__import__", "run_module"):
            yield node.args[0] if node.args else node.keywords[0].value
        if isinstance(node, (ast.List, ast.Tuple)) and any(map(is_interpreter, node.elts)):
            for flag, module in pairwise(node.elts):
                if isinstance(flag, ast.Constant) and flag.value == "-m":
                    yield module


def constant_dicts(tree):
    """The dictionaries of strings that a module defines at its top, or in an `if` there, by name."""
    found = {}
    branches = [node for node in tree.body if isinstance(node, ast.If)]
    for node in [*tree.body, *(inner for branch in branches for inner in (*branch.body, *branch.orelse))]:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(getattr(node, "value", None), ast.Dict):
            found[target.id] = [value.value for value in node.value.values if isinstance(value, ast.Constant)]
    return found


def patterns(expression, tree):
    """What the name may be, as regular expressions; None where the source does not say.

    A placeholder of an f-string stands for one part of a dotted name.
    """
    if isinstance(expression, ast.Constant):
        return [re.escape(expression.value)]
    if isinstance(expression, ast.JoinedStr):
        parts = [re.escape(p.value) if isinstance(p, ast.Constant) else r"[^.]+" for p in expression.values]
        return ["".join(parts)]
    if isinstance(expression, ast.Subscript) and isinstance(expression.value, ast.Name):
        names = constant_dicts(tree).get(expression.value.id)
        return None if names is None else [re.escape(name) for name in names]
    return None


def named_modules(root):
    """(importer, imported) for each module of ours that a string names, and (importer, source) that no rule reads."""
    modules = modules_of(root)
    found, unread = set(), set()
    for importer, tree in modules.items():
        for expression in module_expressions(tree):
            known = patterns(expression, tree)
            if known is None:
                unread.add((importer, ast.unparse(expression)))
                continue
            for pattern in known:
                found |= {(importer, name) for name in modules if re.fullmatch(pattern, name)}
    return found, unread


def layer(module, container=""):
    """The rank of a module in a layers contract, 0 for the top, and its name there; None where it is in none."""
    for contract in CONTRACTS["contracts"]:
        if contract["type"] != "layers" or contract.get("containers", [""]) != [container]:
            continue
        prefix = f"{container}." if container else ""
        head = module.removeprefix(prefix).partition(".")[0]
        for rank, names in enumerate(contract["layers"]):
            if head in re.split(r"\s*[|:]\s*", names.replace("(", "").replace(")", "")):
                return rank, head
    return None


def is_allowed(importer, imported):
    """Whether the layers let `importer` import `imported`: within a layer's package, or further down."""
    for container in ("", "experiments"):
        if container and not (importer.startswith(f"{container}.") and imported.startswith(f"{container}.")):
            continue
        above, below = layer(importer, container), layer(imported, container)
        if above and below and above[1] != below[1]:
            return above[0] < below[0]
    return True


def test_names_that_reach_import_functions_point_down():
    found, unread = named_modules(ROOT)
    assert {pair for pair in found if not is_allowed(*pair)} == set()
    assert unread == NAMED_BY_THE_USER
    # What the checker has to see at least, or it reads nothing.
    assert ("backbones", "backbones.factory") in found
    assert ("data", "data.box_dataset") in found
    assert ("experiments.jobs.local", "segmentation.train") in found
    assert ("experiments.claims.accuracy", "classification.eval") in found
    assert ("backbones", "backbones.necks") in found


@pytest.mark.parametrize(
    ("importer", "source", "imported"),
    [
        ("engine.upward", "import importlib\nimportlib.import_module('detection.config')", "detection.config"),
        ("engine.upward", "from importlib import import_module\nimport_module(f'{task}.config')", "detection.config"),
        ("data.upward", "__import__('experiments.jobs.cell')", "experiments.jobs.cell"),
        ("detection.sideways", "import_module('classification.task')", "classification.task"),
        ("experiments.jobs.upward", "import_module('experiments.report.html')", "experiments.report.html"),
        ("experiments.search.sideways", "import_module('experiments.compare.runner')", "experiments.compare.runner"),
        ("backbones.upward", "run([sys.executable, '-m', 'data.demo', out])", "data.demo"),
        ("engine.upward", "run((sys.executable, '-W', 'ignore', '-m', f'{task}.eval'))", "segmentation.eval"),
        ("data.upward", "HOMES = {'fit': 'engine.trainer'}\nimport_module(HOMES[name])", "engine.trainer"),
    ],
)
def test_a_name_that_points_upwards_or_sideways_is_refused(tmp_path, importer, source, imported):
    for name, text in ((importer, source), (imported, "")):
        file = tmp_path / (name.replace(".", "/") + ".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    found, unread = named_modules(tmp_path)
    assert (found, unread) == ({(importer, imported)}, set())
    assert not is_allowed(importer, imported)


def test_what_points_down_is_allowed():
    assert is_allowed("experiments.jobs.local", "detection.train")
    assert is_allowed("experiments.compare.runner", "experiments.jobs.cell")
    assert is_allowed("experiments.costs.meter", "experiments.costs.isolated_timing")
    assert is_allowed("segmentation.task", "backbones.base")


def test_a_name_that_no_rule_reads_is_reported(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hidden.py").write_text("import_module(name)")
    assert named_modules(tmp_path) == (set(), {("data.hidden", "name")})


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_exist(package):
    module = import_module(package)
    assert all(getattr(module, name) is not None for name in getattr(module, "__all__", ()))


def test_all_packages_are_listed_for_the_build():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {file.parent for package in PACKAGES for file in (ROOT / package).rglob("*.py")}
    assert sorted(listed) == sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


FOR_UNIX_ONLY = {"fcntl", "resource", "pwd", "grp", "termios"}


def test_no_module_imports_what_only_unix_has():
    """At the top of a module, where Windows would stop; inside of functions it may be guarded."""
    for name, tree in modules_of(ROOT).items():
        for node in tree.body:
            imported = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            imported |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            assert not imported & FOR_UNIX_ONLY, f"{name} imports {imported & FOR_UNIX_ONLY} at its top"


def test_the_version_is_the_distribution_s():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert import_module("backbones").__version__ == import_module("experiments").__version__ == stated
