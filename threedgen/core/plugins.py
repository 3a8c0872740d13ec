"""Classes by name: the families of components, a table of the built-in ones, and one function that finds a class.

A name is resolved in this order: `package.module:Class` imports that class; then the built-in names of the table
below; then the entry points that installed packages declare in the group `threedgen.<family>`, for example

    [project.entry-points."threedgen.guidance"]
    my-loss = "my_package.losses:MyLoss"

A class must look like one of its family: it is refused before anybody calls it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from threedgen.core.errors import UserError
from threedgen.core.roles import CameraRoles, GuidanceRoles, RendererRoles, RepresentationRoles

BUILTIN: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "representation": {
            "gaussians": "threedgen.representations.gaussians:Gaussians",
            "dynamic-gaussians": "threedgen.representations.dynamic_gaussians:DynamicGaussians",
            "triplane": "threedgen.representations.triplane:Triplane",
            "mesh": "threedgen.representations.mesh:Mesh",
            "tetrahedra": "threedgen.representations.tetrahedra:Tetrahedra",
            "reconstructed": "threedgen.reconstruction.reconstructed:ReconstructedGaussians",
            "normal-mesh": "threedgen.reconstruction.normal_mesh:NormalMesh",
            "scene-sample": "threedgen.dfm.scene_sample:SceneSample",
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
_OWN = f"{__name__.partition('.')[0]}."
# What the classes of threedgen inherit, by family.
_ROLES: Mapping[str, type[Any]] = MappingProxyType(
    {
        "representation": RepresentationRoles,
        "renderer": RendererRoles,
        "cameras": CameraRoles,
        "guidance": GuidanceRoles,
    }
)


def names(family: str) -> list[str]:
    """The names that `find` knows in a family: the built-in ones, then those of installed packages."""
    declared = [point.name for point in _entry_points(family)]
    return [*BUILTIN[family], *sorted(set(declared) - set(BUILTIN[family]))]


def find(family: str, name: str) -> type[Any]:
    """The class called `name` in `family`, one of FAMILIES; in the family "prior" any callable that makes a prior.

    Raises UserError for an unknown family or name (with the nearest known one), for a module or a class that does
    not exist, and for one of another family. Other errors while a plug-in's module is imported are not caught.
    """
    if family not in BUILTIN:
        raise UserError(f"unknown family '{family}': use one of {', '.join(FAMILIES)}")
    if ":" in name:
        return _load_for(family, name)
    if name in BUILTIN[family]:
        return load(BUILTIN[family][name])
    for point in _entry_points(family):
        if point.name == name:
            return _load_for(family, point.value)
    known = names(family)
    raise UserError(
        f"unknown {family} '{name}'{did_you_mean(name, known)}; known: {', '.join(known)}, "
        "or write package.module:Class"
    )


def foreign_classes(values: Any) -> Iterator[str]:
    """Every `package.module:Class` in the plain values of a recipe that is not a class of threedgen, also inside
    the settings of a component. The values must not contain themselves."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            names_one = key == "name" or key in BUILTIN
            if names_one and isinstance(value, str) and ":" in value and not value.startswith(_OWN):
                yield value
            yield from foreign_classes(value)
    elif isinstance(values, list):
        for value in values:
            yield from foreign_classes(value)


def _load_for(family: str, target: str) -> type[Any]:
    """The class of a family that `package.module:Class` names. Raises UserError if it is of no such family, before
    it is imported where the table says so."""
    stranger = UserError(f"'{target}' is no {family}: name a class of that family")
    own = target.startswith(_OWN)
    if own:
        # In an earlier version, whose runs name it, a class may have been in another module.
        name = target.partition(":")[2]
        target = next((place for place in BUILTIN[family].values() if place.endswith(f":{name}")), target)
        others = [place for other, table in BUILTIN.items() if other != family for place in table.values()]
        if target in others or (family not in _ROLES and target not in BUILTIN[family].values()):
            raise stranger
    found = load(target)
    if not (_is_ours(family, found) if own else _may_be(family, found)):
        raise stranger
    return found


def _is_ours(family: str, found: Any) -> bool:
    """Whether something in threedgen is a component of the family."""
    return family not in _ROLES or (isinstance(found, type) and issubclass(found, _ROLES[family]))


def _may_be(family: str, found: Any) -> bool:
    """Whether something of a third party, which need not inherit anything, may be a component of the family."""
    if not isinstance(found, type):
        return True
    if any(issubclass(found, roles) for other, roles in _ROLES.items() if other != family):
        return False
    if family == "prior":
        return True
    if family == "representation":
        return hasattr(found, "at")
    return any("__call__" in vars(cls) for cls in found.__mro__)


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
