"""The pictures of a finished run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from threedgen.core.types import Cameras
from threedgen.export import video
from threedgen.jobs.asset import Turntable
from threedgen.jobs.finish import _write_pictures
from threedgen.jobs.run_directory import RunDirectory


@pytest.mark.parametrize(("frames", "rendered"), [(16, 16), (72, 72), (12, 20), (4, 12)])
def test_the_contact_sheet_shares_the_frames_of_the_turntable(
    frames: int, rendered: int, tmp_path: Path
) -> None:
    """Eight views around the asset, which are rendered again only if the turn does not pass all of them."""
    views = []

    def view(cameras: Cameras) -> torch.Tensor:
        views.extend(cameras.centers)
        color = (0.25 * cameras.centers + 0.5).clamp(0.0, 1.0)
        return color[:, None, None].expand(-1, cameras.height, cameras.width, -1)

    _write_pictures(RunDirectory(tmp_path), view, Turntable(frames=frames, size=16))
    assert len(views) == rendered
    sheet = np.asarray(Image.open(tmp_path / "contact_sheet.png")).reshape(2, 16, 4, 16, 3)
    tiles = sheet.transpose(0, 2, 1, 3, 4).reshape(8, 16, 16, 3)
    np.testing.assert_array_equal(tiles, list(video.orbit_frames(view, 8, size=16)))
    assert (tmp_path / "turntable.mp4").stat().st_size > 0
