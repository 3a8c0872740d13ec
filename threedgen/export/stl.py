"""Binary STL, for 3D printers: triangles without colours. Its readers take +Z as up, and so it is written."""

from __future__ import annotations

from pathlib import Path

from threedgen.core.atomic import store
from threedgen.core.types import TriMesh
from threedgen.representations.mesh_checks import check_mesh


def write_stl(path: str | Path, mesh: TriMesh) -> Path:
    """Writes the triangles in world units, which STL does not name, with +Z up and the front of the asset on -Y.

    Raises UserError for a mesh that no file can hold (`check_mesh`), and if the place cannot be written.
    """
    path = Path(path)
    check_mesh(mesh, f"cannot write {path}")
    import trimesh
    from trimesh.exchange.stl import export_stl

    vertices = mesh.vertices.detach().cpu().numpy()[:, [0, 2, 1]] * [1.0, -1.0, 1.0]
    content = export_stl(trimesh.Trimesh(vertices, mesh.faces.cpu().numpy(), process=False))
    store(path, content)
    return path
