import numpy as np
import pytest
import torch
from torch_threads import torch_threads

from threedgen.cameras.orbit import orbit
from threedgen.core.types import Cameras, TriMesh
from threedgen.kernels import load_native
from threedgen.renderers import rasterize as module
from threedgen.renderers.mesh_shading import to_camera
from threedgen.renderers.rasterize import _rasterize_torch, interpolate, rasterize


def random_mesh(faces: int, seed: int) -> TriMesh:
    rng = np.random.default_rng(seed)
    vertices = torch.from_numpy(rng.uniform(-0.8, 0.8, (3 * faces, 3))).float()
    return TriMesh(vertices, torch.arange(3 * faces).reshape(faces, 3))


def view(distance: float = 2.5, size: int = 40, near: float = 0.05) -> Cameras:
    cameras = orbit(
        torch.tensor([20.0, 200.0]),
        torch.tensor([10.0, -30.0]),
        torch.full((2,), distance),
        50.0,
        size,
        size + 8,
    )
    return Cameras(cameras.world_from_camera, cameras.intrinsics, size, size + 8, cameras.time, near)


def twin(mesh: TriMesh, cameras: Cameras):
    return _rasterize_torch(to_camera(mesh.vertices, cameras), mesh.faces, cameras)


needs_native = pytest.mark.skipif(load_native() is None, reason="the compiled kernels are not built")


@needs_native
@pytest.mark.parametrize("distance", [2.5, 0.3])  # 0.3: inside the mesh, triangles cross the near plane
def test_kernel_agrees_with_the_twin(distance):
    mesh, cameras = random_mesh(30, 0), view(distance)
    fast, plain = rasterize(mesh, cameras), twin(mesh, cameras)
    same = fast.face_id == plain.face_id
    assert same.float().mean() > 0.995, "only pixel centres on an edge may differ"
    seen = same & (plain.face_id >= 0)
    assert seen.sum() > 200
    torch.testing.assert_close(fast.inverse_z[seen], plain.inverse_z[seen], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast.bary[seen], plain.bary[seen], rtol=1e-3, atol=2e-3)


def test_interpolated_positions_lie_on_the_pixels_rays():
    """Perspective-correct: the interpolated world position projects back to the pixel centre."""
    mesh, cameras = random_mesh(20, 1), view()
    visibility = rasterize(mesh, cameras)
    points = interpolate(visibility, mesh.faces, mesh.vertices)
    for index in range(len(cameras)):
        seen = visibility.face_id[index] >= 0
        world_from_camera = cameras.camera_from_world[index]
        local = points[index][seen] @ world_from_camera[:3, :3].T + world_from_camera[:3, 3]
        k = cameras.intrinsics[index]
        rows, columns = torch.nonzero(seen, as_tuple=True)
        torch.testing.assert_close(
            k[0, 0] * local[:, 0] / local[:, 2] + k[0, 2], columns + 0.5, atol=2e-2, rtol=0
        )
        torch.testing.assert_close(
            k[1, 1] * local[:, 1] / local[:, 2] + k[1, 2], rows + 0.5, atol=2e-2, rtol=0
        )
        torch.testing.assert_close(1.0 / visibility.inverse_z[index][seen], local[:, 2], rtol=1e-3, atol=1e-4)


def test_nearer_face_hides_the_farther_in_any_order():
    near, far = (
        torch.tensor([[-1.0, -1, 0.5], [1, -1, 0.5], [0, 1, 0.5]]),
        torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]]),
    )
    camera = orbit(torch.zeros(1), torch.zeros(1), torch.full((1,), 3.0), 40.0, 32, 32)
    for order, expected in (((near, far), 0), ((far, near), 1)):
        mesh = TriMesh(torch.cat(order), torch.arange(6).reshape(2, 3))
        assert rasterize(mesh, camera).face_id[0, 18, 16] == expected


@needs_native
def test_result_does_not_depend_on_threads():
    mesh, cameras = random_mesh(200, 2), view(size=80)
    results = []
    for threads in (1, 2):
        with torch_threads(threads):
            results.append(rasterize(mesh, cameras))
    assert torch.equal(results[0].face_id, results[1].face_id)
    assert torch.equal(results[0].bary, results[1].bary)


def test_empty_mesh_and_missing_vertex():
    empty = TriMesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.long))
    assert (rasterize(empty, view()).face_id == -1).all()
    if load_native() is not None:
        with pytest.raises(IndexError):
            rasterize(TriMesh(torch.zeros(3, 3), torch.tensor([[0, 1, 3]])), view())


def test_without_the_kernel_the_twin_draws(monkeypatch):
    monkeypatch.setattr(module, "load_native", lambda: None)
    assert (rasterize(random_mesh(5, 3), view()).face_id >= 0).any()
