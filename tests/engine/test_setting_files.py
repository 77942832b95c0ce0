"""Files of class weights: formats, names, and errors."""

import pytest

from backbones.errors import BadInput
from engine.setting_files import in_order, read_class_weights


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("w.yaml", "cat: 2.0\nno: 0.5\n3: 1\n"),
        ("w.json", '{"cat": 2, "no": "0.5",\n\t"3": 1e0}'),
        ("w.csv", "class,weight\ncat,2.0\nno,0.5\n3,1\n"),
        ("w.csv", "\ufeffcat,2.0\r\nno,0.5\r\n3,1\r\n"),
        ("w.tsv", "cat\t2.0\nno\t0.5\n3\t1\n"),
    ],
)
def test_formats(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    weights = read_class_weights(str(tmp_path / name))
    assert weights == {"cat": 2.0, "no": 0.5, "3": 1.0}
    assert read_class_weights(weights) == weights
    assert in_order(weights, ["3", "cat", "no"]) == [1.0, 2.0, 0.5]


def test_a_name_in_quotes_may_have_commas(tmp_path):
    (tmp_path / "w.csv").write_text('"tench, Tinca tinca",2\n')
    assert read_class_weights(str(tmp_path / "w.csv")) == {"tench, Tinca tinca": 2.0}


@pytest.mark.parametrize("word", ["none", "auto"])
def test_words(word):
    assert read_class_weights(word) == word


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("w.yaml", "- cat\n", "must map"),
        ("w.yaml", "", "must map"),
        ("w.yaml", "{}", "no weights"),
        ("w.yaml", "cat: [", "not valid"),
        ("w.yaml", "cat: !!python/object/apply:os.system ['exit 1']", "weight"),
        ("w.yaml", "cat: 0", "above 0"),
        ("w.yaml", "cat: .inf", "above 0"),
        ("w.yaml", "cat: many", "above 0"),
        ("w.json", '{"cat": true}', "above 0"),
        ("w.json", "{", "not valid"),
        ("w.csv", "cat,1,2\n", "'cat,1,2'"),
        ("w.csv", "cat,1\ncat,2\n", "two weights for the class 'cat'"),
        ("w.csv", "cat,-1\n", "above 0"),
    ],
)
def test_errors(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        read_class_weights(str(tmp_path / name))


def test_a_missing_file_is_named_with_the_other_values(tmp_path):
    with pytest.raises(BadInput, match=r"`class_weights=atuo` is neither none, auto nor a file"):
        read_class_weights("atuo")


def test_unknown_and_missing_classes_are_named():
    with pytest.raises(BadInput, match="called dgo, and there is no weight for dog"):
        in_order({"cat": 1.0, "dgo": 2.0}, ["cat", "dog"])
