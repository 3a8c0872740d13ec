"""How 3D Gaussians are written, whatever the format."""

from __future__ import annotations

from typing import Annotated, Literal

from threedgen.core.settings import between, settings

Up = Literal["auto", "y", "-y", "z", "-z"]


@settings
class SplatConfig:
    """Files of 3D Gaussians that `threedgen export` writes.

    Attributes:
        up: The axis of the file that points up: y, -y, z or -z. auto: what readers of the format expect.
        degree: Highest degree of the spherical harmonics in the file: what is above it is left out, what the asset
            lacks is written as 0 (some viewers read files of degree 3 only). None: that of the asset.
        spz_version: Version of .spz files: 3, which most readers know, or 4, which is smaller.
    """

    up: Up = "auto"
    degree: Annotated[int | None, between(0, 3)] = None
    spz_version: Literal[3, 4] = 3
