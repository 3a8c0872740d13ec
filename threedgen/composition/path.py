"""Places of the assets of a scene at any time: interpolation between the points of their paths."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.composition.scene_file import Asset, SceneFile
from threedgen.core.transforms import matrix_from_quat, quat_from_vector, transform
from threedgen.core.types import GaussianCloud
from threedgen.representations.extension import chi


@dataclass(frozen=True)
class Places:
    """Similarities x -> scale * rotation @ x + at, one per moment. rotation: proper. scale: > 0. at: world
    units."""

    rotation: Float[Tensor, "T 3 3"]
    at: Float[Tensor, "T 3"]
    scale: Float[Tensor, " T"]

    def points(self, points: Float[Tensor, "T N 3"]) -> Float[Tensor, "T N 3"]:
        """The points of each moment in their places."""
        turned = torch.einsum("tij,tnj->tni", self.rotation.to(points), points)
        return self.scale.to(points)[:, None, None] * turned + self.at.to(points)[:, None]

    def cloud(self, moment: int, cloud: GaussianCloud) -> GaussianCloud:
        """The cloud of one moment in its place: centres, rotations, sizes and direction-dependent colours."""
        return transform(cloud, self.rotation[moment], self.at[moment], float(self.scale[moment]))


def returning(scene: SceneFile, times: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
    """Progress of a scene that loops on its way back to its beginning: 0, then 0 to 1 over its last scene.loop
    seconds.

    times: shares of the scene, 0 to 1.
    """
    if not scene.loop:
        return torch.zeros_like(times)
    return chi((times * scene.length - (scene.length - scene.loop)) / scene.loop)


def places(scene: SceneFile, asset: Asset, times: Float[Tensor, " T"]) -> Places:
    """Places of an asset of a scene, computed in float64. times: shares of the scene, 0 to 1."""
    seconds = scene.length * times.detach().double().cpu().numpy()
    begin, end = torch.from_numpy(_track(asset, np.array([0.0, scene.length])))
    begin[3] += 360.0 * ((end[3] - begin[3]) / 360.0).round()  # whole turns are not unwound on the way back
    back = returning(scene, times.detach().double().cpu())[:, None]
    values = torch.lerp(torch.from_numpy(_track(asset, seconds)), begin.expand(len(seconds), 5), back)
    axis = torch.nn.functional.normalize(torch.tensor(asset.axis, dtype=torch.float64), dim=0)
    rotation = matrix_from_quat(quat_from_vector(torch.deg2rad(values[:, 3:4]) * axis))
    return Places(rotation.to(times), values[:, :3].to(times), values[:, 4].exp().to(times))


def _track(asset: Asset, seconds: Float[np.ndarray, " T"]) -> Float[np.ndarray, "T 5"]:
    """at (3), turn in degrees and the logarithm of the scale (twice as large takes as long wherever it begins)."""
    own = np.array([*asset.at, asset.turn, np.log(asset.scale)])
    if asset.path is None:
        return np.tile(own, (len(seconds), 1))
    rows = [
        [
            *(key.at or asset.at),
            asset.turn if key.turn is None else key.turn,
            np.log(asset.scale if key.scale is None else key.scale),
        ]
        for key in asset.path.points
    ]
    times = np.array([key.time for key in asset.path.points])
    seconds = seconds.clip(times[0], times[-1])
    if len(times) == 1:
        return np.tile(np.array(rows), (len(seconds), 1))
    if asset.path.kind == "linear":
        return np.stack([np.interp(seconds, times, column) for column in np.array(rows).T], axis=1)
    from scipy.interpolate import PchipInterpolator

    return PchipInterpolator(times, np.array(rows))(seconds)
