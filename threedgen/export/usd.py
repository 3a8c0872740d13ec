"""A moving mesh as USD (.usdz, .usda, .usdc): time samples on the points of one mesh.

See docs/methods.md, "Files of motions". usd-core writes the files; `pip install "threedgen[usd]"` installs it.
Colours are in linear light, as in glTF.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from threedgen.core.atomic import replacing, write_checked
from threedgen.core.errors import UserError
from threedgen.core.pictures import linear_from_srgb
from threedgen.core.types import TriMesh
from threedgen.representations.mesh_checks import check_mesh

if TYPE_CHECKING:
    from threedgen.export.animation import Animation


def write_usd(
    path: str | Path,
    mesh: TriMesh,
    animation: Animation,
    *,
    fps: float = 24.0,
    note: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one mesh `/asset/mesh` whose points, normals and extent have a time sample for each frame.

    +Y is up, units are metres, and a time code is 1 / fps seconds. Points move along straight lines between
    frames, as in the GLB. Vertex colours are primvars:displayColor, which a UsdPreviewSurface shows.
    customLayerData of the layer has a dictionary `threedgen` with loop (USD leaves loops to the player) and the
    note. Raises UserError if usd-core is not installed, for a mesh that no file can hold (`check_mesh`), and if
    the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    try:
        (utilities,) = _modules("UsdUtils")
    except ImportError as error:
        raise UserError(
            f'cannot write {path.name}: USD needs usd-core, pip install "threedgen[usd]"'
        ) from error
    with replacing(path) as temporary, tempfile.TemporaryDirectory() as folder:
        suffix = path.suffix.lower()
        layer = Path(folder) / f"{'asset' if suffix == '.usdz' else path.stem}{suffix.replace('z', 'c')}"
        try:
            _write_layer(layer, mesh, animation, fps, {"loop": animation.loop, **(note or {})})
            if suffix == ".usdz":
                package = Path(folder) / "asset.usdz"
                if not utilities.CreateNewUsdzPackage(str(layer), str(package)):
                    raise OSError("usd-core cannot pack it")
                layer = package
            moments = _moments(layer)
        except RuntimeError as error:  # of OpenUSD, whose messages are pages about its own files
            raise OSError(f"usd-core cannot write it into {folder}, where it is made first") from error
        if moments != len(animation.times):
            raise OSError(f"the scene that was written has {moments} of {len(animation.times)} frames")
        write_checked(temporary, layer.read_bytes())
    return path


def _modules(*names: str) -> list[ModuleType]:
    """Modules of OpenUSD's Python bindings, which have no types that a type checker can read."""
    return [import_module(f"pxr.{name}") for name in names]


def _moments(path: Path) -> int:
    """The number of frames of a file of `write_usd`. Raises RuntimeError if it does not open."""
    Usd, UsdGeom = _modules("Usd", "UsdGeom")
    stage = Usd.Stage.Open(str(path))  # it lives as long as it has a name, and its prims no longer
    return UsdGeom.Mesh(stage.GetPrimAtPath("/asset/mesh")).GetPointsAttr().GetNumTimeSamples()


def _write_layer(
    path: Path, mesh: TriMesh, animation: Animation, fps: float, custom: Mapping[str, Any]
) -> None:
    Usd, UsdGeom, Vt = _modules("Usd", "UsdGeom", "Vt")

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    codes = [
        round(time * fps, 4) for time in animation.times.tolist()
    ]  # whole numbers if seconds * fps is one
    stage.SetTimeCodesPerSecond(fps)
    stage.SetFramesPerSecond(fps)
    stage.SetStartTimeCode(codes[0])
    stage.SetEndTimeCode(codes[-1])
    root = UsdGeom.Xform.Define(stage, "/asset")
    stage.SetDefaultPrim(root.GetPrim())
    stage.GetRootLayer().customLayerData = {"threedgen": dict(custom)}
    surface = UsdGeom.Mesh.Define(stage, "/asset/mesh")
    surface.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)  # the default would smooth the mesh
    faces = mesh.faces.cpu().numpy().astype(np.int32)
    surface.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    surface.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1)))
    points, extent = surface.CreatePointsAttr(), surface.CreateExtentAttr()
    normals = surface.CreateNormalsAttr()
    surface.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    vertices = animation.vertices.cpu().numpy().astype(np.float32)
    directions = animation.normals.cpu().numpy().astype(np.float32)
    for code, frame, direction in zip(codes, vertices, directions, strict=True):
        moment = Usd.TimeCode(code)
        points.Set(Vt.Vec3fArray.FromNumpy(frame), moment)
        normals.Set(Vt.Vec3fArray.FromNumpy(direction), moment)
        extent.Set(Vt.Vec3fArray.FromNumpy(np.stack([frame.min(0), frame.max(0)])), moment)
    if mesh.vertex_colors is not None:
        colors = linear_from_srgb(mesh.vertex_colors.cpu().numpy()).astype(np.float32)
        shown = surface.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        shown.Set(Vt.Vec3fArray.FromNumpy(colors))
        _bind_material(stage, surface)
    stage.Save()


def _bind_material(stage: Any, surface: Any) -> None:
    """A rough surface in displayColor, for viewers that do not show that primvar without a material."""
    Sdf, UsdShade = _modules("Sdf", "UsdShade")

    types = Sdf.ValueTypeNames
    material = UsdShade.Material.Define(stage, "/asset/surface")
    reader = UsdShade.Shader.Define(stage, "/asset/surface/color")
    reader.CreateIdAttr("UsdPrimvarReader_float3")
    reader.CreateInput("varname", types.String).Set("displayColor")
    color = reader.CreateOutput("result", types.Float3)
    shader = UsdShade.Shader.Define(stage, "/asset/surface/shader")
    shader.CreateIdAttr("UsdPreviewSurface")
    shader.CreateInput("diffuseColor", types.Color3f).ConnectToSource(color)
    shader.CreateInput("roughness", types.Float).Set(1.0)
    shader.CreateInput("metallic", types.Float).Set(0.0)
    material.CreateSurfaceOutput().ConnectToSource(shader.CreateOutput("surface", types.Token))
    UsdShade.MaterialBindingAPI.Apply(surface.GetPrim()).Bind(material)
