"""Code in the documentation's pages: fenced blocks, commands in them, and code within lines."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted(ROOT.glob("docs/**/*.md")),
    )
)
RUN = "<!-- run -->"  # the line above a bash block whose commands are run, not only parsed
SCRIPT = "<!-- script -->"  # the line above a python block that needs an extra, and that a test of the extra runs
FENCE = re.compile(r"^```(.*)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: the page and line that it starts on, its language, its text, and whether its commands are run.

    `script`: whether another test runs it.
    """

    page: str
    line: int
    language: str
    text: str
    run: bool
    script: bool = False

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks_of(page):
    """All fenced blocks of a page. Fails for fences that are indented, unclosed or without a language."""
    lines = (ROOT / page).read_text().splitlines()
    found, start = [], None
    for number, line in enumerate(lines):
        assert not re.match(r"^\s+```|^~~~", line), f"{page}:{number + 1}: fences start the line, with three backticks"
        if not (fence := FENCE.match(line)):
            continue
        if start is None:
            start, language = number, fence[1]
            assert language, f"{page}:{number + 1}: the block names no language"
        else:
            assert not fence[1], f"{page}:{number + 1}: a block starts within another"
            text = "\n".join(lines[start + 1 : number]) + "\n"
            mark = lines[start - 1] if start else ""
            found.append(Block(page, start + 1, language, text, mark == RUN, mark == SCRIPT))
            start = None
    assert start is None, f"{page}:{start}: the block does not end"
    marks = sum(line == RUN for line in lines)
    assert marks == sum(block.run for block in found), f"{page}: a run mark does not stand right above its block"
    return found


def commands_of(block):
    """The command lines of a bash block as lists of words; `\\` joins lines, comments are dropped."""
    joined = block.text.replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def spans_of(page):
    """Code within lines, outside of fenced blocks."""
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]
