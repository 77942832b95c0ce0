"""Label maps as tools write them: names of values and of colours, and each kind of damage."""

import json

import pytest

from backbones.errors import BadInput
from data.label_maps import class_list, parse_pairs, read_label_map

COLORS = {0x000000: "background", 0x804080: "road", 0x4682B4: "sky"}
VALUES = {0: "background", 1: "road", 2: "sky"}

FILES = {
    "cvat/labelmap.txt": "# label:color_rgb:parts:actions\nbackground:0,0,0::\nroad:128,64,128::\nsky:70,130,180::\n",
    "class_dict.csv": "name,r,g,b\nbackground,0,0,0\nroad,128,64,128\nsky,70,130,180\n",
    "spaces.csv": "name, r, g, b\nbackground, 0, 0, 0\nroad, 128, 64, 128\n\nsky, 70, 130, 180\n",
    "semicolons.csv": "R;G;B;Class\n0;0;0;background\n128;64;128;road\n70;130;180;sky\n",
    "no_header.csv": "background,0,0,0\nroad,128,64,128\nsky,70,130,180\n",
    "hex.csv": "label,color\nbackground,#000000\nroad,#804080\nsky,#4682b4\n",
    "rgb.csv": 'name,rgb\nbackground,"(0, 0, 0)"\nroad,"(128, 64, 128)"\nsky,"[70, 130, 180]"\n',
    "lines.txt": "0 0 0 background\n128 64 128 road\n70 130 180 sky\n",
    "tabs.txt": "0 0 0\t\tbackground\n128 64 128\t\troad\n70 130 180\t\tsky\n",
    "commas.txt": "0,0,0: background\n128,64,128: road\n70,130,180: sky\n",
    "names.json": '{"background": [0, 0, 0], "road": [128, 64, 128], "sky": [70, 130, 180]}',
    "names.yaml": "background: [0, 0, 0]\nroad: [128, 64, 128]\nsky: '#4682b4'\n",
    "supervisely.json": json.dumps({"classes": [{"title": "background", "shape": "bitmap", "color": "#000000"},
                                                {"title": "road", "color": "#804080"},
                                                {"title": "sky", "color": "#4682B4"}], "tags": []}),
    "mapillary.json": json.dumps({"labels": [{"color": [0, 0, 0], "name": "background", "readable": "Background"},
                                             {"color": [128, 64, 128], "name": "road"},
                                             {"color": [70, 130, 180], "name": "sky"}]}),
}  # fmt: skip
VALUE_FILES = {
    "_classes.csv": "Pixel Value, Class\n0, background\n1, road\n2, sky\n",
    "ids.csv": "id,name\n2,sky\n0,background\n1,road\n",
    "list.txt": "background\nroad\nsky\n",
    "mark.txt": "\ufeffbackground\r\nroad\r\nsky\r\n",
    "labelme.txt": "__ignore__\nbackground\nroad\nsky\n",
    "numbered.txt": "# comment\n0: background\n1: road\n2: sky\n",
    "pairs.txt": "2=sky\n0=background\n1=road\n",
    "list.json": '["background", "road", "sky"]',
    "ids.json": '{"0": "background", "2": "sky", "1": "road"}',
    "names_first.json": '{"background": 0, "sky": 2, "road": 1}',
    "ids.yaml": "0: background\n1: road\n2: sky\n",
    "names.yaml": "names:\n  0: background\n  1: road\n  2: sky\nnc: 3\n",
    "list.yaml": "classes: [background, road, sky]\n",
    "coco.json": '{"categories": [{"id": 1, "name": "road"}, {"id": 0, "name": "background"},'
    ' {"id": 2, "name": "sky"}]}',
    "id2label.json": '{"id2label": {"0": "background", "1": "road", "2": "sky"}}',
    "hasty.json": '[{"png_index": 0, "class_name": "background"}, {"png_index": 1, "class_name": "road"},'
    ' {"png_index": 2, "class_name": "sky"}]',
    "records.yaml": "0: {name: background}\n1: {name: road}\n2: {name: sky}\n",
}


def written(folder, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, "utf-8", newline="")
    return path


@pytest.mark.parametrize("name", FILES)
def test_colours(name, tmp_path):
    found = read_label_map(written(tmp_path, name, FILES[name]))
    assert found.colors == COLORS
    assert list(found.colors) == list(COLORS)
    assert found.values == {}


@pytest.mark.parametrize("name", VALUE_FILES)
def test_values(name, tmp_path):
    found = read_label_map(written(tmp_path, name, VALUE_FILES[name]))
    assert found.values == VALUES
    assert list(found.values) == [0, 1, 2]
    assert found.colors == {}


def test_values_and_colours(tmp_path):
    content = [{"id": 7, "name": "road", "color": [128, 64, 128]}, {"id": 11, "name": "sky", "color": "#4682B4FF"}]
    found = read_label_map(written(tmp_path, "both.json", json.dumps(content)))
    assert found.values == {7: "road", 11: "sky"}
    assert found.colors == {0x804080: "road", 0x4682B4: "sky"}


def test_several_values_of_one_class(tmp_path):
    content = "0: {name: background, values: [0, 255]}\n1: {name: road, labels: [1, 2]}\n"
    found = read_label_map(written(tmp_path, "a.yaml", content))
    assert found.values == {0: "background", 1: "road", 2: "road", 255: "background"}
    content = "- {name: a, values: [[0, 0, 0], [1, 1, 1]]}\n- {name: b, values: [[2, 2, 2]]}\n"
    assert read_label_map(written(tmp_path, "b.yaml", content)).colors == {0: "a", 0x010101: "a", 0x020202: "b"}


def test_names_are_texts(tmp_path):
    """In YAML, `no` is false, 3 is a number and 1_0 is ten."""
    found = read_label_map(written(tmp_path, "a.yaml", "0: no\n1: 3\n2: null\n3: 2001-01-01\n4: 1_0\n"))
    assert found.values == {0: "no", 1: "3", 2: "null", 3: "2001-01-01", 4: "1_0"}


def test_pairs():
    assert parse_pairs(["255=a lesion", "0=back=ground"], "x").values == {0: "back=ground", 255: "a lesion"}


@pytest.mark.parametrize("content", ["", "\n\n", "a\nb\na\n"])
def test_class_lists(content, tmp_path):
    with pytest.raises(BadInput, match=r"classes\.txt (is empty|has 3 names, with duplicates)"):
        class_list(written(tmp_path, "classes.txt", content))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "name,r,g,b\nroad,1,2\n", "row 2 has 3 cells"),
        ("a.csv", "name,r,g,b\nroad,1,2,256\n", "has the colour"),
        ("a.csv", "name,r,g,b\nroad,1,2,3\nsky,1,2,3\n", "two names for one value or colour: 'road' and 'sky'"),
        ("a.csv", "filename,cat,dog\na.jpg,0,1\n", "no column with names"),
        ("a.csv", "Pixel Value,Class\nx,road\n", "the mask value 'x'"),
        ("a.csv", "", "no column with names"),
        ("a.csv", "name,r,g,b\n,1,2,3\n", "an empty name"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\n", "is empty"),
        ("a.txt", "a\na\n", "with duplicates"),
        ("a.json", "{", "is not valid JSON"),
        ("a.yaml", "a: [", "is not valid YAML"),
        ("a.yaml", "!!python/object/apply:os.system {a: 'touch OWNED'}", "has the entry"),
        ("a.yaml", "&a [*a, *a]", "is not valid YAML"),
        ("a.yaml", "classes: &a\n  classes: *a\n", "is not valid YAML"),
        ("a.yaml", "5", "is not a label map"),
        ("a.json", '{"0": ["a"]}', "has the colour"),
        ("a.json", '[{"id": 1}]', "without a name"),
        ("a.json", '[{"id": -1, "name": "a"}]', "without a name or with an invalid value"),
        ("a.json", '{"0": null}', "has the entry"),
        ("a.json", '["a", "a"]', "with duplicates"),
        ("a.json", '{"a": 70000}', "has the entry"),
    ],
)
def test_damage(name, content, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        read_label_map(written(tmp_path, name, content))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_other_damage(tmp_path):
    with pytest.raises(BadInput, match="cannot read"):
        read_label_map(tmp_path / "gone.txt")
    (tmp_path / "latin.txt").write_bytes("straße".encode("latin-1"))
    with pytest.raises(BadInput, match="cannot read"):
        read_label_map(tmp_path / "latin.txt")
    bomb = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
    )
    with pytest.raises(BadInput, match="has the colour"):
        read_label_map(written(tmp_path, "bomb.yaml", bomb))
    written(tmp_path, "large.txt", "a" * 11_000_000)
    with pytest.raises(BadInput, match="more than 10 MB"):
        read_label_map(tmp_path / "large.txt")


@pytest.mark.parametrize("content", ["2 lesion\n0 background\n1 vessel\n", "1: vessel\n2: lesion\n"])
def test_a_class_list_with_numbers_that_are_not_line_numbers(content, tmp_path):
    with pytest.raises(BadInput, match="numbers its names"):
        class_list(written(tmp_path, "classes.txt", content))
    assert read_label_map(tmp_path / "classes.txt").values[2] == "lesion"


def test_a_class_list_with_line_numbers(tmp_path):
    assert class_list(written(tmp_path, "classes.txt", "0 background\n1 vessel\n")).values[1] == "1 vessel"
