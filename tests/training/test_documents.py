"""JSON documents of folders: what they hold is checked, and complaints give a reason."""

import json
from pathlib import Path
from typing import Annotated

import pytest

from threedgen.core.settings import at_least, settings
from threedgen.training.documents import FORMAT, DocumentError, build, read_document, section


@settings
class Sizes:
    count: Annotated[int, at_least(1)]
    shape: tuple[int, int]


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_a_document_comes_back_without_its_format(tmp_path):
    path = write(tmp_path / "sizes.json", {"format": FORMAT, "sizes": {"count": 3, "shape": [4, 5]}})
    assert build(Sizes, section(read_document(path), "sizes")) == Sizes(3, (4, 5))


@pytest.mark.parametrize(
    ("value", "reason"),
    [([1], "no JSON object"), ({}, "its format is None"), ({"format": FORMAT + 1}, f"reads {FORMAT}")],
)
def test_another_document_is_refused_with_a_reason(tmp_path, value, reason):
    with pytest.raises(DocumentError, match=reason):
        read_document(write(tmp_path / "other.json", value))


def test_what_is_not_json_or_is_not_there_is_refused(tmp_path):
    (tmp_path / "cut.json").write_text('{"format": ')
    with pytest.raises(DocumentError):
        read_document(tmp_path / "cut.json")
    with pytest.raises(FileNotFoundError):
        read_document(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (3, "in place of a JSON object"),
        ({"count": 3}, "'shape' is missing"),
        ({"count": 0, "shape": [1, 2]}, "count is 0; it must be at least 1"),
        ({"count": 3, "shape": [1, 2], "more": 1}, "unknown key 'more'"),
    ],
)
def test_values_that_do_not_fit_the_dataclass_are_named(values, reason):
    with pytest.raises(DocumentError, match=reason):
        build(Sizes, values)


def test_a_missing_section_is_named():
    with pytest.raises(DocumentError, match="its 'sizes' is missing"):
        section({}, "sizes")
