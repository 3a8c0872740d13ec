"""Wavefront OBJ: vertex colours after the positions ("v x y z r g b"), or a texture in an MTL and a PNG file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from jaxtyping import Float
from torch import Tensor

from threedgen.core.atomic import replacing_all, write_checked
from threedgen.core.material import Material
from threedgen.core.types import TriMesh
from threedgen.export.textures import beside, encoded
from threedgen.representations.mesh_checks import check_mesh

_MARK = "# threedgen: written with its .png, both are overwritten by the next export to the same name\n"

# How a face refers to a corner that has (texture coordinates, a normal).
_CORNERS = {
    (False, False): "%d",
    (False, True): "%d//%d",
    (True, False): "%d/%d",
    (True, True): "%d/%d/%d",
}


def write_obj(path: str | Path, mesh: TriMesh, comment: str = "") -> Path:
    """Writes positions, colours, normals and faces; world units, +Y up, display-referred colours in [0, 1].

    A mesh with a texture gets NAME.mtl and NAME.png in the same folder and no vertex colours, because readers
    would multiply the two. If files of these names exist that were not written here, the names are NAME-2.mtl
    and NAME-2.png, and so on. comment: written at the top, each line after a `#`. Positions have nine
    significant digits, so that float32 values come back exactly. Raises UserError for a mesh that no file can
    hold (`check_mesh`), and if the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    material = None if mesh.texture is None else beside(path, (".mtl", ".png"), _written_here)
    text = io.StringIO()
    for line in ("threedgen", *comment.splitlines()):
        text.write(f"# {line}\n")
    if material is not None:
        text.write(f"mtllib {material.name}\nusemtl surface\n")
    rows, form = _rows(mesh.vertices), "v %.9g %.9g %.9g"
    if mesh.vertex_colors is not None and material is None:
        rows, form = (
            np.concatenate([rows, _rows(mesh.vertex_colors.clamp(0.0, 1.0))], axis=1),
            (form + " %.6g %.6g %.6g"),
        )
    np.savetxt(text, rows, fmt=form)
    if material is not None:
        assert mesh.uvs is not None  # TriMesh has no texture without them
        uvs = _rows(mesh.uvs)
        uvs = np.stack([uvs[:, 0], 1.0 - uvs[:, 1]], axis=1)  # in an OBJ, v = 0 is at the bottom
        np.savetxt(text, uvs, fmt="vt %.9g %.9g")
    if mesh.normals is not None:
        np.savetxt(text, _rows(mesh.normals), fmt="vn %.6g %.6g %.6g")
    corner = _CORNERS[material is not None, mesh.normals is not None]
    numbers = np.repeat(mesh.faces.cpu().numpy() + 1, corner.count("%d"), axis=1)
    np.savetxt(text, numbers, fmt=f"f {corner} {corner} {corner}")
    with replacing_all(path.parent, last=path.name) as temporary:
        if material is not None:
            assert mesh.texture is not None
            picture = material.with_suffix(".png").name
            write_checked(temporary / picture, encoded(mesh.texture))
            write_checked(
                temporary / material.name, _material(picture, mesh.material or Material("lit")).encode()
            )
        write_checked(temporary / path.name, text.getvalue().encode())
    return path


def _rows(values: Tensor) -> Float[np.ndarray, "V C"]:
    return values.detach().cpu().numpy()


def _written_here(material: Path) -> bool:
    """Whether `write_obj` wrote it, together with its .png."""
    if not material.is_file():
        return False
    with material.open("rb") as file:
        return file.read(len(_MARK)) == _MARK.encode()


def _material(picture: str, of: Material) -> str:
    """illum 0 is the bare colour. Pr and Pm, roughness and metal, are of the extension for physically based
    rendering, which Blender reads."""
    light = "illum 0" if of.colors == "unlit" else f"illum 1\nPr {of.roughness:g}\nPm {of.metallic:g}"
    return f"{_MARK}newmtl surface\nKa 0 0 0\nKd 1 1 1\nKs 0 0 0\n{light}\nmap_Kd {picture}\n"
