"""Three classes of coloured rectangles, small enough to train on in seconds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

COLORS = {"blue <b>": (40, 60, 220), "green": (40, 200, 60), "red": (220, 40, 40)}


def write_folders(root: Path, names: dict[str, str] | None = None, train: int = 6, val: int = 3) -> Path:
    """Write images of coloured rectangles. `names` maps names of colours to names of folders."""
    random = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name, color in COLORS.items():
            folder = root / split / (names or {}).get(name, name)
            folder.mkdir(parents=True)
            for i in range(count):
                picture = random.integers(90, 150, (72, 96, 3), dtype=np.uint8)
                x, y = (int(v) for v in random.integers(2, 30, 2))
                cv2.rectangle(picture, (x, y), (x + 40, y + 30), color, -1)
                cv2.imwrite(str(folder / f"{i}.png"), picture[..., ::-1])
    return root


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("folders") / "rectangles")


@pytest.fixture(scope="session")
def imagenet_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in folders for tench and bee (synsets) and ant (WordNet word)."""
    names = {"blue <b>": "n01440764", "green": "Ant", "red": "n02206856"}
    return write_folders(tmp_path_factory.mktemp("imagenet") / "rectangles", names)
