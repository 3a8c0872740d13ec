"""The three primitives say which of their tensors is wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from threedgen.core.types import TriMesh

GOOD: dict[str, Any] = {
    "vertices": torch.zeros(4, 3),
    "faces": torch.tensor([[0, 1, 2]]),
    "vertex_colors": torch.zeros(4, 3),
    "normals": torch.zeros(4, 3),
    "uvs": torch.zeros(4, 2),
    "texture": torch.zeros(5, 6, 3),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vertices", torch.zeros(4, 2)),
        ("faces", torch.zeros(1, 4, dtype=torch.int64)),
        ("faces", torch.tensor([[0.0, 1.0, 2.0]])),
        ("faces", torch.tensor([[0, 1, 2]], dtype=torch.int32)),
        ("vertex_colors", torch.zeros(3, 3)),
        ("vertex_colors", torch.zeros(4, 4)),
        ("normals", torch.zeros(4)),
        ("uvs", torch.zeros(4, 3)),
        ("uvs", torch.zeros(1, 2)),
        ("texture", torch.zeros(5, 6)),
        ("texture", torch.zeros(5, 6, 4)),
        ("texture", torch.zeros(0, 6, 3)),
    ],
)
def test_a_mesh_names_the_field_of_a_wrong_shape(field: str, value: torch.Tensor) -> None:
    TriMesh(**GOOD)
    with pytest.raises(ValueError, match=f"^{field} must be"):
        TriMesh(**{**GOOD, field: value})


def test_a_texture_needs_uvs() -> None:
    TriMesh(**{**GOOD, "texture": None})
    with pytest.raises(ValueError, match=r"^texture needs uvs"):
        TriMesh(**{**GOOD, "uvs": None})
