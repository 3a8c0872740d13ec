"""Several assets in one scene that moves: each keeps its own cloud at rest, its own fields and its own rigid place,
and their clouds are joined before anything is drawn (Align Your Gaussians, Ling et al. 2024, section 3.5;
docs/methods.md, "Composition")."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.composition.path import Places, places, returning
from threedgen.composition.scene_file import Asset, SceneFile
from threedgen.core import checkpoint
from threedgen.core.settings import settings
from threedgen.core.types import Frames, GaussianCloud, TriMesh
from threedgen.export import as_mesh
from threedgen.export.animation import Animation, Timing, animated
from threedgen.export.mesh import MeshConfig
from threedgen.representations import deformation, extension, trajectory
from threedgen.representations.base import Representation
from threedgen.representations.dynamic_gaussians import CLOUD, DynamicGaussians
from threedgen.representations.dynamic_gaussians import Config as BodyConfig

_FEWEST_FACES = 100  # of the mesh of an asset
_FINER = 16.0  # moments per frame at which jumps are looked for


@settings
class Config:
    """A composed scene.

    Attributes:
        scene: Content of the scene file.
        deformation: Settings of the displacement fields of all motions.
        trajectory: Settings of the trajectories of all motions.
    """

    scene: SceneFile
    deformation: deformation.Config = field(default_factory=deformation.Config)
    trajectory: trajectory.Config = field(default_factory=trajectory.Config)


class Track(nn.Module):
    """One asset and its motions, one after the other: the same cloud with the field of each motion, or once with an
    untrained field if the asset has none."""

    def __init__(self, scene: SceneFile, asset: Asset, bodies: Sequence[DynamicGaussians]) -> None:
        """bodies: one per motion, or one if there is none. Raises ValueError for another number, or if their clouds
        differ in size."""
        super().__init__()
        if len(bodies) != max(1, len(asset.motion)) or len({len(body) for body in bodies}) != 1:
            raise ValueError(f"{len(asset.motion)} motions, {[len(body) for body in bodies]} Gaussians")
        self.scene, self.asset = scene, asset
        self.bodies = nn.ModuleList(bodies)

    def body(self, number: int) -> DynamicGaussians:
        found = self.bodies[number]
        assert isinstance(found, DynamicGaussians)
        return found

    def offsets(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N K"]:
        """Offsets by the fields of the motions, before the asset is put into its place. times: shares of the scene,
        0 to 1."""
        asset, body = self.asset, self.body(0)
        result = body.means.new_zeros(len(times), len(body), body.outputs)
        if not asset.motion:
            return result
        since = times.to(result) * self.scene.length - asset.begin
        seconds = since % asset.lasts if asset.loop else since.clamp_max(asset.lasts)
        starts = seconds.new_tensor(asset.starts)
        number = torch.bucketize(seconds, starts, right=True) - 1
        for index, segment in enumerate(asset.motion):
            chosen = ((since > 0.0) & (number == index)).nonzero().squeeze(1)
            if len(chosen):
                share = (seconds[chosen] - starts[index]) / segment.seconds
                result = result.index_copy(0, chosen, self.body(index).offsets(share.clamp(0.0, 1.0)))
        return result * (1.0 - returning(self.scene, times.to(result)))[:, None, None]

    def places(self, times: Float[Tensor, " T"]) -> Places:
        return places(self.scene, self.asset, times.to(self.body(0).means))

    def clouds(self, times: Float[Tensor, " T"]) -> list[GaussianCloud]:
        """The asset in its place. times: shares of the scene, 0 to 1."""
        where, body = self.places(times), self.body(0)
        return [where.cloud(moment, cloud) for moment, cloud in enumerate(body.carried(self.offsets(times)))]

    def moved(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N 3"]:
        """Centres of the asset's Gaussians in the scene. times: shares of the scene, 0 to 1."""
        return self.places(times).points(self.body(0).means + self.offsets(times)[..., :3])


class Composition(Representation):
    """The scene of a scene file, made of the scenes of its runs; nothing in it is optimised further."""

    Config = Config
    renderer = "splatting"
    moves = True
    learns = False

    def __init__(self, config: Config, bodies: Sequence[Sequence[DynamicGaussians]]) -> None:
        """bodies: for each asset those of its motions in order, or the one that does not move."""
        super().__init__()
        self.config = config
        self.tracks = nn.ModuleList(
            Track(config.scene, asset, own) for asset, own in zip(config.scene.assets, bodies, strict=True)
        )
        self.requires_grad_(False)

    @classmethod
    def blank(cls, config: Config) -> Self:
        """A scene to load a state into; no run is read."""
        return cls(
            config,
            [
                [
                    DynamicGaussians.blank(
                        replace(body, deformation=config.deformation, trajectory=config.trajectory)
                    )
                    for body in body_configs(asset)
                ]
                for asset in config.scene.assets
            ],
        )

    @property
    def animated(self) -> list[Track]:
        return [track for track in self.tracks if isinstance(track, Track)]

    def __len__(self) -> int:
        return sum(len(track.body(0)) for track in self.animated)

    @property
    def means(self) -> Float[Tensor, "N 3"]:
        """Centres of the Gaussians of all assets at time 0, in the order of the file."""
        return self.moved(torch.zeros(1))[0]

    def moved(self, times: Float[Tensor, " T"]) -> Float[Tensor, "T N 3"]:
        """Centres of the Gaussians. times: shares of the scene, 0 to 1."""
        return torch.cat([track.moved(times) for track in self.animated], dim=1)

    def at(self, time: Float[Tensor, " B"] | None = None) -> GaussianCloud | Frames:
        """The beginning of the scene for None, else one cloud for each different time."""
        times, index = torch.unique(torch.zeros(1) if time is None else time, return_inverse=True)
        moments = zip(*(track.clouds(times) for track in self.animated), strict=True)
        frames = tuple(joined(clouds) for clouds in moments)
        return frames[0] if time is None else Frames(frames, index, times)

    def surface(
        self, config: MeshConfig, moved: Float[Tensor, "T N 3"], timing: Timing
    ) -> tuple[TriMesh, Animation]:
        """One mesh of the meshes of all assets, each carried by its own Gaussians, so that assets that touch are
        not glued together and small ones are not removed as debris of large ones.

        config: its number of faces is that of all assets together. moved: centres at the moments of `timing`.
        """
        made, first = [], 0
        config = replace(config.plain(), faces=max(_FEWEST_FACES, config.faces // len(self.animated)))
        for at_rest in self._at_begin():
            last = first + len(at_rest)
            mesh = as_mesh(at_rest, config)
            made.append((mesh, animated(mesh, at_rest.means, moved[:, first:last], timing)))
            first = last
        return _one_mesh([mesh for mesh, _ in made]), _one_motion([motion for _, motion in made])

    def _at_begin(self) -> list[GaussianCloud]:
        return [track.clouds(torch.zeros(1))[0] for track in self.animated]

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """No groups: the scene is finished."""
        return {}

    def learning_rates(self) -> Mapping[str, float]:
        return {}

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As that of nn.Module, for any numbers of Gaussians."""
        for number, track in enumerate(self.animated):
            for index in range(len(track.bodies)):
                own = checkpoint.unprefixed(f"tracks.{number}.bodies.{index}", state_dict)
                track.body(index).load_state_dict(own, strict, assign)
        return super().load_state_dict(state_dict, strict, assign)


def body_configs(asset: Asset) -> list[BodyConfig]:
    """How each motion of an asset continues the one before, and how the last one ends."""
    if not asset.motion:
        return [BodyConfig()]
    configs = []
    for index, (segment, overlap) in enumerate(zip(asset.motion, asset.overlaps, strict=True)):
        after = extension.Config()
        if index:
            before = asset.motion[index - 1]
            after = extension.Config(
                asset.name, min(1.0, overlap / segment.seconds), min(1.0, overlap / before.seconds)
            )
        last = index == len(asset.motion) - 1
        closing = min(asset.loop / segment.seconds, 1.0 - overlap / segment.seconds) if last else 0.0
        configs.append(BodyConfig(after=after, closing=closing))
    return configs


def joined(clouds: Sequence[GaussianCloud]) -> GaussianCloud:
    """All Gaussians in one cloud. Missing spherical harmonics of clouds with fewer of them are 0."""
    most = max(cloud.sh.shape[1] for cloud in clouds)
    padded = [
        replace(cloud, sh=nn.functional.pad(cloud.sh, (0, 0, 0, most - cloud.sh.shape[1])))
        for cloud in clouds
    ]
    return GaussianCloud(*(torch.cat([getattr(cloud, name) for cloud in padded]) for name in CLOUD))


def _one_mesh(meshes: Sequence[TriMesh]) -> TriMesh:
    faces, count = [], 0
    for mesh in meshes:
        faces.append(mesh.faces + count)
        count += len(mesh.vertices)
    normals = [mesh.normals for mesh in meshes if mesh.normals is not None]
    colors = [mesh.vertex_colors for mesh in meshes if mesh.vertex_colors is not None]
    return TriMesh(
        torch.cat([mesh.vertices for mesh in meshes]),
        torch.cat(faces),
        vertex_colors=torch.cat(colors) if len(colors) == len(meshes) else None,
        normals=torch.cat(normals) if len(normals) == len(meshes) else None,
    )


def _one_motion(motions: Sequence[Animation]) -> Animation:
    return replace(
        motions[0],
        vertices=torch.cat([motion.vertices for motion in motions], dim=1),
        normals=torch.cat([motion.normals for motion in motions], dim=1),
    )


@dataclass(frozen=True)
class HandoverSteps:
    """How smoothly an asset passes from one motion to the next: distances in world units, means over its Gaussians,
    before it is put in place.

    median_step: between two frames, over all of its motion. largest_step: between two frames in the overlap and
    at its borders. jump: the largest distance within a sixteenth of a frame there: a smooth motion covers a
    sixteenth of a step in that time, and a jump all of its length.
    """

    median_step: float
    largest_step: float
    jump: float


@torch.no_grad()
def handovers(track: Track, fps: float) -> list[HandoverSteps]:
    """The steps at each handover, from frames at `fps` frames per second."""

    def steps(first: float, last: float, rate: float) -> Float[Tensor, " F"]:
        """Steps between moments at `rate` per second, from second `first` of the motion to second `last`."""
        count = max(2, 1 + math.ceil((last - first) * rate))
        seconds = asset.begin + torch.linspace(max(0.0, first), min(last, asset.lasts), count)
        moved = track.offsets(seconds / track.scene.length)[..., :3]
        return torch.linalg.vector_norm(moved.diff(dim=0), dim=2).mean(1)

    asset, found = track.asset, []
    for start, common in list(zip(asset.starts, asset.overlaps, strict=True))[1:]:
        first, last = start - 1.0 / fps, start + common + 1.0 / fps
        found.append(
            HandoverSteps(
                float(steps(0.0, asset.lasts, fps).median()),
                float(steps(first, last, fps).max()),
                float(steps(first, last, _FINER * fps).max()),
            )
        )
    return found
