"""Classes by name: the families of components, a table of the built-in ones, and one function that finds a class.

A name is resolved in this order: `package.module:Class` imports that class; then the built-in names of the table
below; then the entry points that installed packages declare in the group `threedgen.<family>`, for example

    [project.entry-points."threedgen.guidance"]
    my-loss = "my_package.losses:MyLoss"
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from threedgen.core.errors import UserError

BUILTIN: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "representation": {
            "gaussians": "threedgen.representations.gaussians:Gaussians",
            "dynamic-gaussians": "threedgen.representations.dynamic_gaussians:DynamicGaussians",
            "triplane": "threedgen.representations.triplane:Triplane",
            "mesh": "threedgen.representations.mesh:Mesh",
            "tetrahedra": "threedgen.representations.tetrahedra:Tetrahedra",
            "camera-triplane": "threedgen.nerfdiff.camera_triplane:CameraTriplane",
        },
        "renderer": {
            "splatting": "threedgen.renderers.splatting:SplattingRenderer",
            "volume": "threedgen.renderers.volume:VolumeRenderer",
            "mesh": "threedgen.renderers.mesh:MeshRenderer",
        },
        "cameras": {
            "orbit": "threedgen.cameras.orbit:OrbitSampler",
            "clips": "threedgen.cameras.clips:ClipSampler",
            "given": "threedgen.datasets.given:GivenViews",
            "reference": "threedgen.cameras.reference:ReferenceOrbit",
            "filmed-clips": "threedgen.cameras.film:FilmedClips",
            "filmed-orbit": "threedgen.cameras.film:FilmedOrbit",
            "virtual-views": "threedgen.nerfdiff.virtual_views:VirtualViews",
        },
        "guidance": {
            "score-distillation": "threedgen.guidance.score_distillation:ScoreDistillation",
            "single-frames": "threedgen.guidance.single_frames:SingleFrames",
            "delta-denoising": "threedgen.guidance.delta_denoising:DeltaDenoising",
            "denoise-and-match": "threedgen.guidance.denoise_and_match:DenoiseAndMatch",
            "pictures": "threedgen.guidance.given_pictures:Pictures",
            "reference": "threedgen.guidance.reference_picture:ReferencePicture",
            "reference-clip": "threedgen.guidance.reference_film:ReferenceFilm",
            "turned-clip": "threedgen.guidance.reference_film:TurnedFilm",
            "nerf-guided-distillation": "threedgen.nerfdiff.distillation:NerfGuidedDistillation",
        },
        # An objective is chosen inside a guidance (see INNER); it is called with its options and the prior.
        "objective": {
            "sds": "threedgen.guidance.objectives.sds:SDS",
            "recon": "threedgen.guidance.objectives.sds:Reconstruction",
            "sjc": "threedgen.guidance.objectives.sds:SJC",
            "csd": "threedgen.guidance.objectives.csd:CSD",
            "nfsd": "threedgen.guidance.objectives.csd:NFSD",
            "hifa": "threedgen.guidance.objectives.sds:HiFA",
            "flow": "threedgen.guidance.objectives.sds:FlowMatching",
            "ism": "threedgen.guidance.objectives.inversion:ISM",
            "sdi": "threedgen.guidance.objectives.inversion:SDI",
            "vsd": "threedgen.guidance.objectives.vsd:VSD",
        },
        # A prior is chosen inside a guidance; what its name stands for is called with the PriorConfig and the
        # device.
        "prior": {
            "disc": "threedgen.guidance.priors.load:load_disc",
            "embedded": "threedgen.guidance.priors.load:load_embedded",
            "embedded-picture": "threedgen.guidance.priors.load:load_embedded_picture",
            "embedded-things": "threedgen.guidance.priors.load:load_embedded_things",
            "embedded-view": "threedgen.guidance.priors.load:load_embedded_view",
            "embedded-video": "threedgen.guidance.priors.load:load_embedded_video",
        },
    }
)
FAMILIES = tuple(BUILTIN)
# Families that a Config chooses from in its field of the same name -> the field with the settings of the chosen
# class.
INNER: Mapping[str, str] = MappingProxyType({"objective": "options"})


def names(family: str) -> list[str]:
    """The names that `find` knows in a family: the built-in ones, then those of installed packages."""
    declared = [point.name for point in _entry_points(family)]
    return [*BUILTIN[family], *sorted(set(declared) - set(BUILTIN[family]))]


def find(family: str, name: str) -> type[Any]:
    """The class called `name` in `family`, one of FAMILIES; in the family "prior" any callable that makes a prior.

    Raises UserError for an unknown family or name (with the nearest known one), and for a module or a class
    that does not exist. Other errors while a plug-in's module is imported are not caught.
    """
    if family not in BUILTIN:
        raise UserError(f"unknown family '{family}': use one of {', '.join(FAMILIES)}")
    if ":" in name:
        return load(name)
    if name in BUILTIN[family]:
        return load(BUILTIN[family][name])
    for point in _entry_points(family):
        if point.name == name:
            return load(point.value)
    known = names(family)
    raise UserError(
        f"unknown {family} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}, "
        "or write package.module:Class"
    )


def load(target: str) -> type[Any]:
    """The class that `package.module:Class` names. Raises UserError if it does not exist."""
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        # The message names the module that is missing: this one, or one that it imports.
        raise UserError(f"cannot import '{target}': {error}") from error
    found = getattr(module, class_name, None)
    if not callable(found):
        raise UserError(f"module '{module_name}' has no class '{class_name}'")
    return found  # type: ignore[return-value]


def did_you_mean(word: str, known: list[str]) -> str:
    """ ", did you mean 'x'?" for the nearest known word, or an empty text if none is near."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean '{near[0]}'?" if near else ""


def _entry_points(family: str) -> list[Any]:
    from importlib.metadata import entry_points

    return list(entry_points(group=f"threedgen.{family}"))
