"""Which images `predict` reads, and the names of their results."""

import json
import os
from pathlib import Path

import pytest

from backbones.errors import BadInput, UserError, with_flags
from engine.image_sources import find_images, result_names


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Empty files: finding images does not read them."""
    root = tmp_path / "photos"
    for name in ("b.jpg", "a.png", "Z.TIFF", "day 1/a.png", "day 1/sub/c.webp", "day2/a.png", "notes.txt", "._a.png",
                 ".hidden/x.png", "Thumbs.db", "image.json.bak"):  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "folder.jpg").mkdir()
    return root


def names(*places: object, **options: object) -> list[str]:
    return [source.name for source in find_images([str(place) for place in places], **options)]  # type: ignore[arg-type]


def test_a_folder_has_its_image_files(photos: Path) -> None:
    assert names(photos) == ["Z.TIFF", "a.png", "b.jpg"]
    assert names(photos, recursive=True) == [
        "Z.TIFF",
        "a.png",
        "b.jpg",
        "day 1/a.png",
        "day 1/sub/c.webp",
        "day2/a.png",
    ]


def test_results_of_an_earlier_command_are_left_out(photos: Path) -> None:
    (photos / "out").mkdir()
    (photos / "out" / "a.jpg").touch()
    assert "out/a.jpg" in names(photos, recursive=True)
    assert "out/a.jpg" not in names(photos, recursive=True, output=str(photos / "out"))


def test_links_to_folders_are_not_followed_and_dead_links_are_reported_later(photos: Path) -> None:
    os.symlink(photos, photos / "loop")
    os.symlink(photos / "gone.png", photos / "dead.png")
    assert "dead.png" in names(photos)
    assert not any(name.startswith("loop") for name in names(photos, recursive=True))


def test_several_paths_are_named_from_their_common_folder(photos: Path) -> None:
    assert names(photos / "day 1", photos / "day2") == ["day 1/a.png", "day2/a.png"]
    assert names(photos / "b.jpg") == ["b.jpg"]
    assert names(photos / "b.jpg", photos / "day2" / "a.png") == ["b.jpg", "day2/a.png"]


def test_an_image_that_is_named_twice_is_read_once(photos: Path) -> None:
    assert names(photos, photos / "b.jpg", photos / "day2" / ".." / "b.jpg") == ["Z.TIFF", "a.png", "b.jpg"]


def test_patterns(photos: Path) -> None:
    assert names(photos / "*.png") == ["a.png"]
    assert names(photos / "*") == ["Z.TIFF", "a.png", "b.jpg"]
    assert names(photos / "day*" / "a.png") == ["day 1/a.png", "day2/a.png"]
    assert names(photos / "**" / "*.webp") == ["day 1/sub/c.webp"]
    (photos / "x[1].png").touch()
    assert names(photos / "x[1].png") == ["x[1].png"]  # an existing file is no pattern


def test_a_list_of_paths(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Relative to the list's folder, else to the current folder; with a byte order mark, blank lines and CRLF."""
    monkeypatch.chdir(tmp_path)
    lines = ["b.jpg", "", "photos/day2/a.png", str(photos / "day 1" / "a.png"), "gone.png"]
    (photos / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    sources = find_images([str(photos / "list.txt")])
    assert [source.name for source in sources] == ["b.jpg", "day2/a.png", "day 1/a.png", "gone.png"]
    assert [Path(source.path).exists() for source in sources] == [True, True, True, False]


def test_a_coco_file_has_its_own_ids(photos: Path, tmp_path: Path) -> None:
    records = [
        {"id": 7, "file_name": "b.jpg", "width": 60, "height": 40},
        {"id": 3.0, "file_name": "day 1\\a.png"},
        {"id": 5, "file_name": "gone.jpg"},
    ]
    for place in (photos, tmp_path):
        content = {"images": records, "annotations": [{"id": 1, "image_id": 7, "segmentation": [[1] * 6]}]}
        (place / "list.json").write_text(json.dumps(content), encoding="utf-8-sig")
    beside = find_images([str(photos / "list.json")])
    assert [(s.name, s.image_id, s.size) for s in beside] == [
        ("b.jpg", 7, (60, 40)), ("day 1/a.png", 3, None), ("gone.jpg", 5, None)
    ]  # fmt: skip
    elsewhere = find_images([f"{tmp_path / 'list.json'}:{photos}"])
    assert [source.path for source in elsewhere] == [source.path for source in beside]
    with pytest.raises(UserError, match="ids of its own"):
        find_images([str(photos / "list.json"), str(photos)])
    with pytest.raises(BadInput) as caught:
        find_images([str(tmp_path / "list.json")])
    assert f"--images {tmp_path / 'list.json'}:FOLDER" in with_flags(caught.value)


@pytest.mark.case("R16")
@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "..\\x.png"])
def test_a_coco_file_does_not_leave_its_folder(name: str, photos: Path) -> None:
    (photos / "list.json").write_text(json.dumps({"images": [{"id": 1, "file_name": name}]}))
    with pytest.raises(BadInput, match="not a relative path inside the image folder"):
        find_images([str(photos / "list.json")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "no list `images`"),
        ('{"images": {}}', "no list `images`"),
        ('{"images": [5]}', r"images\[0\] has no `file_name`"),
        ('{"images": [{"id": 1, "file_name": 5}]}', r"images\[0\] has no `file_name`"),
        ('{"images": [{"id": "x", "file_name": "b.jpg"}]}', "the id 'x', which is not an integer"),
        ('{"images": [{"id": NaN, "file_name": "b.jpg"}]}', "the id nan"),
        (
            '{"images": [{"id": 1, "file_name": "b.jpg"}, {"id": 1, "file_name": "a.png"}]}',
            "id 1 occurs more than once",
        ),
    ],
)
def test_malformed_coco_files(content: str, message: str, photos: Path) -> None:
    (photos / "list.json").write_text(content)
    with pytest.raises(BadInput, match=message):
        find_images([str(photos / "list.json")])


def test_places_without_images(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError, match="`images` is required"):
        find_images([])
    for place, message in (
        ("gone", "does not exist"),
        ("empty", "contains no images"),
        ("empty/*.png", "no image matches"),
        ("empty.txt", "lists no image"),
        ("binary.txt", "not a text file in UTF-8"),
        ("gone.json", "No such file"),
    ):
        with pytest.raises(BadInput, match=message):
            find_images([str(tmp_path / place)])


def test_results_do_not_overwrite_each_other() -> None:
    assert result_names(["a.jpg", "b.png"]) == ["a", "b"]
    assert result_names(["a.jpg", "a.png", "b.png"]) == ["a.jpg", "a.png", "b"]
    assert result_names(["x/a.jpg", "y/a.jpg"]) == ["x/a", "y/a"]
    assert result_names(["A.jpg", "a.png"]) == ["A.jpg", "a.png"]
    assert result_names(["a.jpg", "a.png", "a.jpg.bmp"]) == ["a.jpg", "a.png", "a.jpg.bmp"]
    assert result_names(["no_suffix", "v1.2.jpg"]) == ["no_suffix", "v1.2"]
