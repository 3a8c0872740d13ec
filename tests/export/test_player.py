"""The page that plays a motion: what it holds, what it may do, and that a title is only text."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from corners import arms
from movements import rising_ball
from PIL import Image

from threedgen.core.errors import UserError
from threedgen.export import player, write
from threedgen.export.animation import Animation
from threedgen.export.player import quantised, write_page


class Page(HTMLParser):
    """The elements of a page with their attributes, and the text in them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = dict(attrs).get("id") or tag

    def handle_data(self, data):
        self.texts[self._inside] = self.texts.get(self._inside, "") + data

    def handle_endtag(self, tag):
        self._inside = ""


def decoded(page: Page) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray]:
    """The scene, its faces [F, 3], positions [T, V, 3] and colours [V, 3], as the script of the page reads them."""
    scene = json.loads(page.texts["scene"])
    raw = base64.b64decode(page.texts["data"], validate=True)
    faces = np.frombuffer(raw, "<u4", 3 * scene["faces"]).reshape(-1, 3)
    count = 3 * scene["frames"] * scene["vertices"]
    steps = np.frombuffer(raw, "<u2", count, faces.nbytes).reshape(scene["frames"], -1, 3)
    colors = np.frombuffer(raw, "u1", -1, faces.nbytes + steps.nbytes).reshape(-1, 3)
    return scene, faces, np.array(scene["low"]) + np.array(scene["span"]) * steps, colors


def test_a_page_holds_the_moving_mesh(tmp_path):
    asset = rising_ball(loop=False, azimuth=40.0)
    mesh, motion = asset.surface
    asset.write(tmp_path / "player.html")
    scene, faces, positions, colors = decoded(Page(tmp_path / "player.html"))
    assert (scene["frames"], scene["seconds"], scene["loop"], scene["azimuth"]) == (7, 1.0, False, 40.0)
    np.testing.assert_array_equal(faces, mesh.faces.numpy())
    box = np.ptp(motion.vertices.numpy(), axis=(0, 1))
    assert (np.abs(positions - motion.vertices.numpy()) <= 0.5001 * box / 65535 + 1e-9).all()
    assert mesh.vertex_colors is not None
    np.testing.assert_array_equal(colors, (255.0 * mesh.vertex_colors.numpy()).round())


def test_a_page_of_what_stands_still_has_one_frame_and_no_controls(tmp_path):
    mesh = arms(textured=False)
    write(mesh, tmp_path / "asset.html", note={"prompt": "three arms"})
    page = Page(tmp_path / "asset.html")
    scene, faces, positions, colors = decoded(page)
    assert (scene["frames"], scene["seconds"], scene["loop"]) == (1, 0.0, False)
    np.testing.assert_array_equal(faces, mesh.faces.numpy())
    np.testing.assert_allclose(positions[0], mesh.vertices.numpy(), atol=4.0 / 65535)
    np.testing.assert_array_equal(colors, np.concatenate([255 * np.eye(3), np.zeros((3, 3))]))
    assert page.texts["h1"] == "three arms"
    assert ("body", {"class": "still"}) in page.elements
    assert ".still #controls, .still .motion { display: none; }" in page.texts["style"]


@pytest.mark.parametrize("moving", [False, True])
def test_a_page_holds_the_texture_and_what_is_one_point_of_the_surface(tmp_path, moving):
    mesh = arms(textured=True)
    # One more vertex, a copy of the first, as where a texture is cut.
    again = {
        name: torch.cat([getattr(mesh, name), getattr(mesh, name)[:1]]) for name in ("vertices", "normals")
    }
    assert mesh.uvs is not None
    assert mesh.texture is not None
    mesh = dataclasses.replace(mesh, **again, uvs=torch.cat([mesh.uvs, torch.tensor([[0.9, 0.25]])]))
    assert mesh.normals is not None
    assert mesh.uvs is not None
    assert mesh.texture is not None
    frames = torch.stack([mesh.vertices, mesh.vertices + 1.0, mesh.vertices])
    motion = Animation(torch.tensor([0.0, 0.5, 1.0]), frames, mesh.normals.expand_as(frames))
    write_page(tmp_path / "asset.html", mesh, motion if moving else None)
    page = Page(tmp_path / "asset.html")
    scene = json.loads(page.texts["scene"])
    assert (scene["textured"], scene["welded"]) == (True, True)
    raw = base64.b64decode(page.texts["data"], validate=True)
    count, at = len(mesh.vertices), 12 * len(mesh.faces)
    np.testing.assert_array_equal(np.frombuffer(raw, "<u4", count, at), [0, 1, 2, 3, 4, 5, 0])
    np.testing.assert_array_equal(np.frombuffer(raw, "<f4", 2 * count, at + 4 * count), mesh.uvs.reshape(-1))
    picture = raw[at + 12 * count + 6 * count * scene["frames"] :]
    pixels = np.asarray(Image.open(io.BytesIO(picture)))
    np.testing.assert_array_equal(pixels, 255 * mesh.texture.numpy())


def test_a_page_may_run_its_own_script_and_nothing_else(tmp_path):
    rising_ball().write(tmp_path / "player.html")
    page = Page(tmp_path / "player.html")
    policies = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    hashes = {
        name: base64.b64encode(hashlib.sha256(page.texts[name].encode()).digest()).decode()
        for name in ("script", "style")
    }
    assert policies == [
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "base-uri 'none'; form-action 'none'"
    ]
    assert [tag for tag, _ in page.elements].index("meta") < [tag for tag, _ in page.elements].index("style")
    for tag, attributes in page.elements:
        assert not {"src", "href", "style", "action"} & set(attributes), tag
        assert not any(name.startswith("on") for name in attributes), tag
    assert not re.search(r"https?://|fetch\(|XMLHttp|import\(|WebSocket", page.texts["script"])


@pytest.mark.parametrize(
    "title",
    [
        '</title><script>alert("1")</script>',
        '"><img src=x onerror=alert(1)>',
        "$script & <b>bold</b>",
        "ein Würfel, der hüpft",
    ],
)
def test_a_title_is_only_text(tmp_path, title):
    rising_ball({"prompt": title}).write(tmp_path / "player.html")
    page = Page(tmp_path / "player.html")
    rising_ball({"prompt": "plain"}).write(tmp_path / "plain.html")
    plain = Page(tmp_path / "plain.html")
    assert page.texts["h1"] == page.texts["title"] == title
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.texts["script"] == plain.texts["script"]


def test_a_motion_that_is_too_large_gets_fewer_frames(tmp_path, monkeypatch):
    asset = rising_ball(fps=12.0)
    mesh, motion = asset.surface
    monkeypatch.setattr(player, "MOST_BYTES", 6 * len(mesh.vertices) * 5)
    asset.write(tmp_path / "player.html")
    scene, _, positions, _ = decoded(Page(tmp_path / "player.html"))
    assert (scene["frames"], scene["seconds"]) == (5, 1.0)
    np.testing.assert_allclose(positions, motion.vertices[::3].numpy(), atol=1e-4)
    monkeypatch.setattr(player, "MOST_BYTES", 6 * len(mesh.vertices))
    with pytest.raises(UserError, match="vertices are too many for a page; lower moving_faces"):
        asset.write(tmp_path / "other.html")


def test_a_coordinate_that_is_constant_is_exact():
    flat = np.zeros((2, 4, 3))
    flat[:, :, 0] = [[0.0, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]]
    flat[:, :, 1] = 7.0
    low, span, steps = quantised(flat)
    np.testing.assert_allclose(low + span * steps, flat, atol=4.0 / 65535)
    np.testing.assert_array_equal((low + span * steps)[..., 1], 7.0)


def test_a_mesh_without_colors_is_grey_and_a_page_without_title_has_one(tmp_path):
    asset = rising_ball()
    mesh, motion = asset.surface
    write_page(tmp_path / "a.html", dataclasses.replace(mesh, vertex_colors=None), motion, title=" ")
    page = Page(tmp_path / "a.html")
    assert set(np.unique(decoded(page)[3])) == {178}
    assert page.texts["h1"] == "an asset in motion"


def test_a_mesh_that_no_file_can_hold_is_refused(tmp_path):
    asset = rising_ball()
    mesh, motion = asset.surface
    broken = dataclasses.replace(mesh, vertices=mesh.vertices * torch.tensor(float("nan")))
    with pytest.raises(UserError, match="not finite"):
        write_page(tmp_path / "a.html", broken, motion)
    assert list(tmp_path.iterdir()) == []


def test_the_script_is_javascript():
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    script = Path(player.__file__).with_name("player.js")
    done = subprocess.run(["node", "--check", str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
