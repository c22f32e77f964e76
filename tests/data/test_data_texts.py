"""Class lists, templates and descriptions."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridcascade.data.classes import read_classes
from hybridcascade.data.texts import TEMPLATE_SETS, build_texts, default_templates, read_descriptions
from hybridcascade.errors import ClassListError, TextError, UnknownNameError

NAMES = ("awe", "fear", "polar_bear")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("c.txt", "awe\n\n  fear \r\npolar_bear\n"),
        ("c.txt", "\ufeffawe\nfear\npolar_bear"),
        ("c.json", '["awe", "fear", "polar_bear"]'),
        ("c.json", '{"classes": ["awe", "fear", "polar_bear"]}'),
        ("c.yaml", "- awe\n- fear\n- polar_bear\n"),
        ("c.yml", "classes: [awe, fear, polar_bear]\n"),
        ("list", "awe\nfear\npolar_bear\n"),
    ],
)
def test_class_files(file, content, tmp_path):
    path = tmp_path / file
    path.write_text(content, encoding="utf-8")
    assert read_classes(path) == NAMES
    assert read_classes(str(path)) == NAMES


def test_class_lists_keep_their_order():
    assert read_classes(["b", " a "]) == ("b", "a")
    assert read_classes("b, a") == ("b", "a")
    assert read_classes(("b", "a")) == ("b", "a")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "expected at least two classes, found none"),
        (["awe"], "expected at least two classes, found only 'awe'"),
        ("awe", "expected at least two classes, found only 'awe'"),
        (["awe", "fear", "awe"], "entry 3: expected a new name, found 'awe', already entry 1 as 'awe'"),
        (["polar_bear", "Polar bear"], "entry 2: expected a new name, found 'Polar bear', already entry 1"),
        (["awe", ""], "entry 2: expected a name, found ''"),
        ("nowhere.txt", "nowhere.txt: expected a file with class names, found No such file"),
    ],
)
def test_wrong_class_lists(value, message):
    with pytest.raises(ClassListError, match=message):
        read_classes(value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("c.txt", b"\n\n", "expected at least two classes, found none"),
        ("c.txt", b"caf\xe9\nfear", "expected UTF-8 text"),
        ("c.json", b"[1,", "expected valid JSON, found"),
        ("c.json", b'"awe"', "expected a list of names, found str"),
        ("c.yaml", b"- yes\n- no\n", "entry 1: expected a name, found True. Write the name in quotes"),
        ("c.yaml", b"a: [", "expected valid YAML"),
        ("c.yaml", b"awe: 1", "expected a list of names, found dict"),
    ],
)
def test_wrong_class_files(file, content, message, tmp_path):
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ClassListError, match=message):
        read_classes(tmp_path / file)


def test_text_modes():
    names = build_texts(NAMES, "names")
    assert names == [("awe", 0, "template"), ("fear", 1, "template"), ("polar bear", 2, "template")]
    two = build_texts(NAMES, "templates", ["a {}.", "the {}!"])
    assert two[:2] == [("a awe.", 0, "template"), ("the awe!", 0, "template")]
    assert two[-1] == ("the polar bear!", 2, "template")
    sentences = {"awe": ["wide {} sky"], "fear": ["dark", "cold"], "polar_bear": ["white"]}
    both = build_texts(NAMES, "descriptions", ["a {}."], sentences)
    assert [text for text, label, _ in both if label == 1] == ["a fear.", "dark", "cold"]
    assert ("wide {} sky", 0, "description") in both
    assert [kind for _, label, kind in both if label == 1] == ["template", "description", "description"]


def test_default_templates_fit_the_classes():
    assert default_templates(["awe", "Fear"]) == TEMPLATE_SETS["evoked_emotion"]
    assert default_templates(["awe", "sofa"]) == TEMPLATE_SETS["general"]
    assert build_texts(["awe", "fear"], "templates") == build_texts(["awe", "fear"], "templates", "evoked_emotion")
    for templates in TEMPLATE_SETS.values():
        assert all(template.count("{}") == 1 for template in templates)
        assert not any("face" in template for template in templates)


def test_wrong_texts():
    with pytest.raises(UnknownNameError, match=r"unknown text mode 'template'.*Did you mean 'templates'"):
        build_texts(NAMES, "template")
    with pytest.raises(UnknownNameError, match=r"unknown template set 'generel'.*'general'"):
        build_texts(NAMES, "templates", "generel")
    with pytest.raises(TextError, match=r"templates, entry 2: expected one \{\} in the sentence, found 'a cat'"):
        build_texts(NAMES, "templates", ["a {}", "a cat"])
    with pytest.raises(TextError, match="expected at least one, found none"):
        build_texts(NAMES, "templates", [])
    with pytest.raises(TextError, match="expected descriptions, found none"):
        build_texts(NAMES, "descriptions")
    with pytest.raises(TextError, match="expected sentences for class 'fear', found none"):
        build_texts(NAMES, "descriptions", descriptions={"awe": ["x"], "fear": [], "polar_bear": ["y"]})


def write(tmp_path, content) -> Path:
    path = tmp_path / "descriptions.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_lafters_format_is_read_as_it_is(tmp_path, caplog):
    path = write(tmp_path, {"polar bear": [" white "], "sofa": ["soft"], "fear": ["dark", "cold"], "awe": ["wide"]})
    with caplog.at_level("INFO"):
        read = read_descriptions(path, NAMES)
    assert read == {"awe": ["wide"], "fear": ["dark", "cold"], "polar_bear": ["white"]}
    assert list(read) == list(NAMES)
    assert "'sofa'" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"awe": ["x"], "faer": ["y"], "polar_bear": ["z"]}, "class 'fear', found none .*Did you mean 'faer'"),
        ({"awe": ["x"], "fear": [], "polar_bear": ["z"]}, "expected sentences for class 'fear'"),
        ({}, "expected sentences for class 'awe', found none .it has no class"),
        ({"awe": "a sentence"}, "class 'awe': expected a list of sentences, found 'a sentence'"),
        ({"awe": ["x", 3]}, "class 'awe': expected a list of sentences"),
        ({"awe": {"a": ["x"]}}, "class 'awe': expected a list of sentences"),
        ({"awe": ["x", " "]}, "class 'awe': expected a list of sentences"),
        ('{"awe": ["x"], "awe": ["y"]}', "expected each class once, found 'awe' twice"),
        ("[]", r"expected \{class: \[sentence, ...\]\}, found list"),
        ('{"awe": ["x"],\n oops}', "line 2: expected valid JSON"),
    ],
)
def test_wrong_descriptions(content, message, tmp_path):
    path = write(tmp_path, content)
    with pytest.raises(TextError, match=message) as caught:
        read_descriptions(path, NAMES)
    assert str(path) in str(caught.value)


def test_description_file_missing_or_not_utf8(tmp_path):
    with pytest.raises(TextError, match="expected a description file, found No such file"):
        read_descriptions(tmp_path / "none.json", NAMES)
    (tmp_path / "l.json").write_bytes(b'{"caf\xe9": []}')
    with pytest.raises(TextError, match="expected UTF-8 text"):
        read_descriptions(tmp_path / "l.json", NAMES)


def test_checking_classes_and_texts_needs_no_heavy_import():
    code = (
        "import sys, hybridcascade.data.classes, hybridcascade.data.texts, hybridcascade.data.manifest\n"
        "print(sorted({'torch', 'torchvision', 'pandas', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
