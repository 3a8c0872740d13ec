"""A run as Python sees it: its files, its scene, and what may be done with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from threedgen.core import inside, trust
from threedgen.core.documents import parse_json
from threedgen.core.errors import UserError
from threedgen.core.types import GaussianCloud
from threedgen.export import as_mesh
from threedgen.export.packing import Packing, TextureKind
from threedgen.export.quality import settings_of
from threedgen.export.to_trimesh import to_trimesh
from threedgen.jobs.asset import asset_of, given_views
from threedgen.jobs.build import load_scene
from threedgen.jobs.export_run import Show, export_run, render_run
from threedgen.jobs.run import resume
from threedgen.jobs.run_directory import RunDirectory
from threedgen.loop.events import Listener
from threedgen.pipelines.common import Settings, as_settings, overrides, showing
from threedgen.recipes.load import read_resolved
from threedgen.recipes.recipe import Recipe

if TYPE_CHECKING:
    import trimesh


class Run:
    """A run directory. In a notebook it shows its contact sheet.

    path: the folder. Everything is read from there when it is asked for, so a Run may also be one that still goes
    on. trusted: its recipe may name any class, which is then imported, and models of the hub.
    """

    def __init__(self, directory: RunDirectory, trusted: bool = False) -> None:
        self._directory, self._trusted = directory, trusted

    @property
    def path(self) -> Path:
        return self._directory.path

    @property
    def finished(self) -> bool:
        """Whether all files of the run are there."""
        return self._directory.finished

    @property
    def report(self) -> dict[str, Any]:
        """report.json: prompt, seed, seconds per phase, scores, versions. Raises UserError before the run is
        finished."""
        try:
            report = parse_json(inside.read_text(self._directory.report, inside.DOCUMENT))
        except FileNotFoundError as error:
            raise UserError(
                f"'{self.path}' is not finished and has no report: continue it with resume()"
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {self._directory.report}: {error}") from error
        if not isinstance(report, dict):
            raise UserError(
                f"{self._directory.report} is not a report: delete it, and resume() writes it again"
            )
        return report

    @property
    def recipe(self) -> Recipe:
        """Every setting of the run. Raises UserError for a damaged recipe.yaml."""
        with trust.runs(self._trusted):
            return read_resolved(self._directory.recipe)

    @cached_property
    def scene(self) -> Any:
        """The representation as its last checkpoint has it, on the CPU: a torch module with `at(time)`.

        Raises UserError if there is no checkpoint of the last stage yet.
        """
        return load_scene(self._directory, self.recipe)

    @torch.no_grad()
    def mesh(self) -> trimesh.Trimesh:
        """The surface, in the world of the asset (+Y up, front +Z), with vertex colours or a texture.

        Raises UserError if there is no surface, or no checkpoint of the last stage yet.
        """
        recipe = self.recipe
        config = recipe.fixed["export"].config.mesh
        return to_trimesh(as_mesh(asset_of(recipe, self.scene), config, given_views(recipe)))

    @torch.no_grad()
    def splats(self) -> GaussianCloud:
        """The 3D Gaussians, those of the first moment if the asset moves. Raises UserError for another asset."""
        asset = asset_of(self.recipe, self.scene)
        if not isinstance(asset, GaussianCloud):
            name = self.recipe.representation.name
            raise UserError(f"'{self.path}' ends in a {name}, which has no Gaussians: use mesh()")
        return asset

    def export(
        self,
        path: str | Path,
        settings: Settings = (),
        *,
        texture_format: TextureKind = "png",
        draco: bool = False,
        quality: str | None = None,
        lods: int = 0,
        in_place: bool = False,
    ) -> Path:
        """Writes the asset, or its motion, to a file whose suffix says the format; returns its path.

        settings: of the recipe's `export`, such as {"mesh.faces": 5000}. texture_format: of the texture in a
        .glb or .gltf, "png" or "webp". draco: whether Draco compresses the triangles in one, which needs DracoPy.
        quality: of the mesh, "draft", "default" or "high"; settings win over it. lods: number of levels of detail
        beside the file, NAME.lod1.glb and so on. in_place: in the coordinates of the capture that `fit` was given.
        Raises UserError for an unknown suffix, and for options that do not fit it.
        """
        with trust.runs(self._trusted):
            packing = Packing(texture_format, draco)
            chosen = [*settings_of(quality), *as_settings(settings)]
            export_run(self._directory, Path(path), chosen, packing, lods, in_place)
        return Path(path)

    def render(
        self,
        path: str | Path,
        settings: Settings = (),
        backend: str = "auto",
        *,
        show: Show | None = None,
    ) -> Path:
        """Renders a turntable to .mp4, .gif or .webp, or to PNG files in a folder; returns its path.

        settings: of the recipe's `export.turntable`, such as {"frames": 90}. show: "mesh", that of asset.glb, or
        "optimised", the Gaussians, the field or the mesh of the last checkpoint; None: the mesh, but as optimised
        where the run is not finished or has no mesh. Raises UserError for an unknown suffix, and for "mesh" where
        there is none.
        """
        with trust.runs(self._trusted):
            render_run(self._directory, Path(path), as_settings(settings), backend, show)
        return Path(path)

    def resume(
        self,
        device: str | None = None,
        backend: str | None = None,
        progress: bool = True,
        steps: int | None = None,
        listeners: Sequence[Listener] = (),
        stop_when_hopeless: bool = False,
    ) -> Run:
        """Continues the run from its last checkpoint and finishes it; a finished run stays as it is.

        steps: how many the whole run shall have; with more than it has, a finished run goes on too.
        listeners: called with every event. stop_when_hopeless: whether a run that looks hopeless is stopped with a
        UserError. Raises UserError, and KeyboardInterrupt(path) after Ctrl-C.
        """
        if self.finished and steps is None:
            return self
        own = overrides({"backend": backend})
        with trust.runs(self._trusted), showing(progress, listeners) as every:
            for warning in resume(self._directory, every, device, own, steps, stop_when_hopeless):
                warnings.warn(warning, stacklevel=2)
        self.__dict__.pop("scene", None)
        return self

    def _repr_png_(self) -> bytes | None:
        """The contact sheet, for notebooks."""
        sheet = self.path / "contact_sheet.png"
        return sheet.read_bytes() if sheet.is_file() else None

    def __repr__(self) -> str:
        return f"Run('{self.path}', {'finished' if self.finished else 'not finished'})"


def load_run(path: str | Path, trust: bool = False) -> Run:
    """The run in a folder that a command or a function of this package wrote. Raises UserError if there is none.

    trust: let its recipe name classes that are not part of threedgen, which are imported and called, and models of
    the hub, which are fetched.
    """
    return Run(RunDirectory.open(path), trust)
