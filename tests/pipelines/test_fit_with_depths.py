"""`threedgen fit` with depths: better than without where pictures show no shape, and the run keeps them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from captures import from_above, plain_bowl, seen_with_depths

from threedgen.commands.main import main
from threedgen.datasets.given import held_out, read_pictures
from threedgen.datasets.multiview import write_transforms
from threedgen.datasets.point_files import read_points
from threedgen.recipes.load import read_resolved

TINY = [
    *("--steps", "60", "representation.count=600", "representation.density.grow=1"),
    *("export.mesh.resolution=24", "export.turntable.frames=1", "export.turntable.size=16"),
    "export.mesh.texture_size=0",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two fits of 8 pictures, of which 2 are held out; "without" has the depths of those that are held out only."""
    folder = tmp_path_factory.mktemp("deep")
    pictures = seen_with_depths(plain_bowl(), from_above(8, 32))
    assert pictures.depths is not None
    hidden = torch.full_like(pictures.depths, torch.nan)
    tests = held_out(8, 2)
    hidden[tests] = pictures.depths[tests]
    for name, depths in (("with", pictures.depths), ("without", hidden)):
        write_transforms(folder / name, replace(pictures, depths=depths))
        file = folder / name / "transforms.json"
        document = json.loads(file.read_text())
        document["test_filenames"] = [document["frames"][index]["file_path"] for index in tests.tolist()]
        file.write_text(json.dumps(document))
        assert main(["fit", str(folder / name), "--out", str(folder / f"run-{name}"), *TINY]) == 0
    return folder


def scores(folder) -> dict[str, float]:
    return json.loads((folder / "report.json").read_text())["scores"]


def test_a_fit_with_depths_is_better_where_pictures_show_no_shape(runs):
    better, worse = scores(runs / "run-with"), scores(runs / "run-without")
    assert better["depth_error"] < 0.6 * worse["depth_error"]
    assert better["psnr"] > worse["psnr"] + 1.0


def test_a_run_keeps_its_depths_and_starts_at_what_they_show(runs):
    run = runs / "run-with"
    kept = read_pictures(run / "pictures", depths=True)
    assert kept.depths is not None
    assert kept.depths.isfinite().any(2).any(1).all()
    places, _ = read_points(run / "pictures/points.ply")
    assert len(places) == 450, "three quarters of the Gaussians"
    assert read_resolved(run / "recipe.yaml").representation.config.init == "points"
    assert not (runs / "run-without/pictures/points.ply").exists()
