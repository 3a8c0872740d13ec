"""JSON documents that describe a folder of ours: they are read whole and checked against dataclasses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from threedgen.core.errors import UserError
from threedgen.recipes import typed

FORMAT = 1
"""The format number of the documents that this version writes and reads."""
_Class = TypeVar("_Class")


class DocumentError(Exception):
    """A document that is not what it should be. The message gives the reason only, without the path."""


def read_document(path: Path) -> dict[str, Any]:
    """The values of a document, without its format number.

    Raises OSError if the file cannot be read, and DocumentError if it is not a document of this format.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DocumentError(str(error)) from error
    if not isinstance(values, dict):
        raise DocumentError("it holds no JSON object")
    found = values.pop("format", None)
    if found != FORMAT:
        raise DocumentError(f"its format is {found!r}, and this version reads {FORMAT}")
    return values


def build(cls: type[_Class], values: Any) -> _Class:
    """The dataclass object that the values of a document describe. Raises DocumentError."""
    if not isinstance(values, Mapping):
        raise DocumentError(f"{values!r} stands in place of a JSON object")
    try:
        return typed.build(cls, values, "")
    except UserError as error:
        raise DocumentError(str(error)) from error


def section(values: Mapping[str, Any], key: str) -> Any:
    """The value of a key that a document must have. Raises DocumentError if it is missing."""
    if key not in values:
        raise DocumentError(f"its '{key}' is missing")
    return values[key]
