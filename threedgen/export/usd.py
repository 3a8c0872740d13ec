"""A mesh as USD (.usdz, .usda, .usdc), with time samples on its points if it moves.

See docs/methods.md, "Files of motions". usd-core writes the files; `pip install "threedgen[usd]"` installs it.
Vertex colours are in linear light and textures in sRGB, as in glTF.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from threedgen.core.atomic import replacing_all, write_checked
from threedgen.core.errors import UserError
from threedgen.core.material import Material
from threedgen.core.pictures import linear_from_srgb
from threedgen.core.types import TriMesh
from threedgen.export.textures import beside, encoded, is_ours
from threedgen.representations.mesh_checks import check_mesh

if TYPE_CHECKING:
    from threedgen.export.animation import Animation


def write_usd(
    path: str | Path,
    mesh: TriMesh,
    animation: Animation | None = None,
    *,
    fps: float = 24.0,
    note: Mapping[str, Any] | None = None,
) -> Path:
    """Writes one mesh `/asset/mesh`, with samples of points, normals and extent if it moves.

    +Y is up, units are metres, and a time code is 1 / fps seconds. Points move along straight lines between
    frames, as in the GLB. A UsdPreviewSurface shows the texture, or the vertex colours, which are
    primvars:displayColor; as it cannot be unlit, colours that are not to be lit are what a black surface emits.
    The texture is in the package of a .usdz; beside a .usda or .usdc it is NAME.png, or NAME-2.png and so on if a
    file of that name was not written here. customLayerData of the layer has a dictionary `threedgen` with loop (USD
    leaves loops to the player) and the note. Raises UserError if usd-core is not installed, for a mesh that no file
    can hold (`check_mesh`), and if the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    try:
        (utilities,) = _modules("UsdUtils")
    except ImportError as error:
        raise UserError(
            f'cannot write {path.name}: USD needs usd-core, pip install "threedgen[usd]"'
        ) from error
    suffix = path.suffix.lower()
    packed = suffix == ".usdz"
    outside = mesh.texture is not None and not packed
    picture = beside(path, (".png",), is_ours).name if outside else "texture.png"
    custom = {**({} if animation is None else {"loop": animation.loop}), **(note or {})}
    with replacing_all(path.parent, last=path.name) as temporary, tempfile.TemporaryDirectory() as folder:
        layer = Path(folder) / ("asset.usdc" if packed else f"{path.stem}{suffix}")
        try:
            if mesh.texture is not None:
                write_checked((temporary if outside else Path(folder)) / picture, encoded(mesh.texture))
            _write_layer(layer, mesh, animation, picture, fps, custom)
            if packed:
                package = Path(folder) / "asset.usdz"
                if not utilities.CreateNewUsdzPackage(str(layer), str(package)):
                    raise OSError("usd-core cannot pack it")
                layer = package
            moments = _moments(layer)
        except RuntimeError as error:  # of OpenUSD, whose messages are pages about its own files
            raise OSError(f"usd-core cannot write it into {folder}, where it is made first") from error
        expected = 0 if animation is None else len(animation.times)
        if moments != expected:
            raise OSError(f"the scene that was written has {moments} of {expected} frames")
        write_checked(temporary / path.name, layer.read_bytes())
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
    path: Path,
    mesh: TriMesh,
    animation: Animation | None,
    picture: str,
    fps: float,
    custom: Mapping[str, Any],
) -> None:
    """picture: the name of the texture's file, beside the layer."""
    Usd, UsdGeom = _modules("Usd", "UsdGeom")

    stage = Usd.Stage.CreateNew(str(path))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    root = UsdGeom.Xform.Define(stage, "/asset")
    stage.SetDefaultPrim(root.GetPrim())
    stage.GetRootLayer().customLayerData = {"threedgen": dict(custom)}
    surface = UsdGeom.Mesh.Define(stage, "/asset/mesh")
    if animation is None:
        _set_geometry(surface, Usd.TimeCode.Default(), mesh.vertices, mesh.normals)
    else:
        # Whole numbers if seconds * fps is one.
        codes = [round(time * fps, 4) for time in animation.times.tolist()]
        stage.SetTimeCodesPerSecond(fps)
        stage.SetFramesPerSecond(fps)
        stage.SetStartTimeCode(codes[0])
        stage.SetEndTimeCode(codes[-1])
        for code, vertices, normals in zip(codes, animation.vertices, animation.normals, strict=True):
            _set_geometry(surface, Usd.TimeCode(code), vertices, normals)
    _set_faces(surface, mesh)
    _bind_material(stage, surface, mesh, picture)
    stage.Save()


def _set_geometry(surface: Any, moment: Any, vertices: Tensor, normals: Tensor | None) -> None:
    """What changes with time. vertices, normals: [V, 3]."""
    (Vt,) = _modules("Vt")

    points = _array(vertices)
    surface.CreatePointsAttr().Set(Vt.Vec3fArray.FromNumpy(points), moment)
    extent = np.stack([points.min(0), points.max(0)])
    surface.CreateExtentAttr().Set(Vt.Vec3fArray.FromNumpy(extent), moment)
    if normals is not None:
        surface.CreateNormalsAttr().Set(Vt.Vec3fArray.FromNumpy(_array(normals)), moment)


def _set_faces(surface: Any, mesh: TriMesh) -> None:
    """What does not: triangles, and the colours or texture coordinates of their vertices."""
    Sdf, UsdGeom, Vt = _modules("Sdf", "UsdGeom", "Vt")

    surface.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)  # the default would smooth the mesh
    surface.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    faces = mesh.faces.cpu().numpy().astype(np.int32)
    surface.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
    surface.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(faces.reshape(-1)))
    if mesh.texture is not None and mesh.uvs is not None:
        uvs = _array(mesh.uvs) * np.array([1.0, -1.0], np.float32)
        uvs += np.array([0.0, 1.0], np.float32)  # v = 0 is at the bottom
        places = UsdGeom.PrimvarsAPI(surface).CreatePrimvar(
            "st", Sdf.ValueTypeNames.TexCoord2fArray, UsdGeom.Tokens.vertex
        )
        places.Set(Vt.Vec2fArray.FromNumpy(uvs))
    elif mesh.vertex_colors is not None:
        colors = linear_from_srgb(_array(mesh.vertex_colors)).astype(np.float32)
        surface.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex).Set(Vt.Vec3fArray.FromNumpy(colors))


def _bind_material(stage: Any, surface: Any, mesh: TriMesh, picture: str) -> None:
    """A surface in the texture, or in displayColor for viewers that do not show it without a material."""
    Sdf, UsdShade = _modules("Sdf", "UsdShade")

    types = Sdf.ValueTypeNames

    def shader(name: str, kind: str) -> Any:
        made = UsdShade.Shader.Define(stage, f"/asset/surface/{name}")
        made.CreateIdAttr(kind)
        return made

    if mesh.texture is None and mesh.vertex_colors is None:
        return
    material = UsdShade.Material.Define(stage, "/asset/surface")
    if mesh.texture is not None:
        reader = shader("place", "UsdPrimvarReader_float2")
        reader.CreateInput("varname", types.String).Set("st")
        image = shader("texture", "UsdUVTexture")
        image.CreateInput("file", types.Asset).Set(f"./{picture}")
        image.CreateInput("sourceColorSpace", types.Token).Set("sRGB")
        image.CreateInput("st", types.Float2).ConnectToSource(reader.CreateOutput("result", types.Float2))
        for wrap in ("wrapS", "wrapT"):
            image.CreateInput(wrap, types.Token).Set("clamp")
        color = image.CreateOutput("rgb", types.Float3)
    else:
        reader = shader("color", "UsdPrimvarReader_float3")
        reader.CreateInput("varname", types.String).Set("displayColor")
        color = reader.CreateOutput("result", types.Float3)
    look, of = shader("shader", "UsdPreviewSurface"), mesh.material or Material("lit")
    if of.colors == "unlit":
        look.CreateInput("emissiveColor", types.Color3f).ConnectToSource(color)
        look.CreateInput("diffuseColor", types.Color3f).Set((0.0, 0.0, 0.0))
        look.CreateInput("useSpecularWorkflow", types.Int).Set(1)  # which can reflect nothing at all
        look.CreateInput("specularColor", types.Color3f).Set((0.0, 0.0, 0.0))
    else:
        look.CreateInput("diffuseColor", types.Color3f).ConnectToSource(color)
        look.CreateInput("metallic", types.Float).Set(of.metallic)
    look.CreateInput("roughness", types.Float).Set(of.roughness)
    material.CreateSurfaceOutput().ConnectToSource(look.CreateOutput("surface", types.Token))
    UsdShade.MaterialBindingAPI.Apply(surface.GetPrim()).Bind(material)


def _array(values: Tensor) -> Float[np.ndarray, "V C"]:
    return values.detach().cpu().numpy().astype(np.float32)
