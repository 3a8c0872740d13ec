"""Evaluation: protocols, what a model is shown and asked for, baselines, tables and intervals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from eval_parts import Knowing, MeanColour, objects, seen

from threedgen.core.errors import UserError
from threedgen.core.pictures import resize
from threedgen.core.types import RenderOutput
from threedgen.datasets.multiview import PosedPictures
from threedgen.datasets.objects import ObjectSet
from threedgen.evaluation import Evaluation, evaluate_objects, table
from threedgen.evaluation.baselines import MeanImage, NearestSource
from threedgen.evaluation.benchmark import views_of
from threedgen.evaluation.result import ViewScore
from threedgen.metrics.consistency import Consistency


def test_a_protocol_decides_which_view_is_shown_and_which_are_predicted():
    source, asked = views_of("srn", 251)
    assert (source, len(asked)) == (64, 250)
    assert 64 not in asked
    source, asked = views_of("short", 251)
    assert (source, len(asked), asked[0], asked[-1]) == (64, 8, 0, 250)
    steps = np.diff(asked)
    assert steps.max() - steps.min() <= 2
    assert views_of("srn", 64)[0] == 16
    assert views_of("srn", 65)[0] == 64
    assert views_of("short", 6) == (1, [0, 2, 3, 4, 5])
    with pytest.raises(UserError, match="unknown protocol 'long': use srn or short"):
        views_of("long", 251)
    with pytest.raises(UserError, match="at least two views"):
        views_of("srn", 1)


def test_a_model_is_shown_the_source_view_and_asked_for_the_others():
    known = objects()
    model = Knowing(known)
    found = evaluate_objects(model, known, "srn", MeanColour(), seed=5)
    assert [len(call[1]) for call in model.asked] == [9, 9, 9]
    for index, (source, cameras, _) in enumerate(model.asked):
        torch.testing.assert_close(source.images, known.load(index).images[2:3])
        torch.testing.assert_close(source.cameras.centers, known.load(index).cameras.centers[2:3])
        assert not (cameras.centers[:, None] == source.cameras.centers).all(-1).any()
    assert len({call[2] for call in model.asked}) == 3, "each object has its own seed"
    again = Knowing(known)
    evaluate_objects(again, known, "srn", MeanColour(), seed=5)
    assert [call[2] for call in again.asked] == [call[2] for call in model.asked]
    assert [row.view for row in found.views[:9]] == ["0", "1", "3", "4", "5", "6", "7", "8", "9"]
    assert found.objects == ("red", "blue", "green")
    assert found.mean("psnr") == 100.0
    assert found.mean("ssim") == pytest.approx(1.0)
    assert found.mean("lpips") is None
    assert found.fid == pytest.approx(0.0, abs=1e-9)
    assert found.consistency is None
    assert found.seconds is not None
    assert "objects of 10 views have no view 64: they start from view 2" in found.warnings
    assert not any("biased" in text for text in found.warnings), "27 samples are enough for 3 features"


def test_worse_answers_have_worse_scores():
    known = objects()

    def noisy(strength: float):
        def spoil(output: RenderOutput) -> RenderOutput:
            rng = torch.Generator().manual_seed(0)
            return replace(output, rgb=output.rgb + strength * torch.randn(output.rgb.shape, generator=rng))

        return evaluate_objects(Knowing(known, spoil), known, "short", MeanColour())

    good, bad = noisy(0.02), noisy(0.2)
    assert good.mean("psnr") > bad.mean("psnr") + 10.0  # type: ignore[operator]
    assert good.mean("ssim") > bad.mean("ssim") + 0.1  # type: ignore[operator]
    assert good.fid < bad.fid  # type: ignore[operator]


def test_pictures_of_another_size_are_resized_and_bad_ones_refused():
    known = objects(size=32)
    small = evaluate_objects(
        Knowing(known, lambda o: replace(o, rgb=resize(o.rgb, 16, 16))), known, "short", MeanColour()
    )
    assert "pictures of 16 x 16 were resized to 32 x 32" in small.warnings
    assert 10.0 < small.mean("psnr") < 50.0  # type: ignore[operator]
    with pytest.raises(UserError, match="'red' hold NaN"):
        evaluate_objects(Knowing(known, lambda o: replace(o, rgb=o.rgb / 0.0)), known, "short", MeanColour())
    with pytest.raises(UserError, match="the number of objects must be at least 1, got 0"):
        evaluate_objects(Knowing(known), known, "short", MeanColour(), count=0)
    calls: list[tuple[int, int]] = []
    some = evaluate_objects(
        NearestSource(), known, "short", MeanColour(), count=2, progress=lambda *call: calls.append(call)
    )
    assert some.objects == ("red", "blue")
    assert calls[-1] == (2, 2)


def test_the_mean_image_is_that_of_the_nearest_training_camera_or_of_all():
    training = objects(views=6, size=16)
    cameras = seen(6, 16, turn=4.0).cameras
    model = MeanImage(training)
    assert model.shared
    output = model(seen(1, 16), cameras)
    torch.testing.assert_close(output.rgb, sum(training.load(i).images for i in range(3)) / 3.0)
    torch.testing.assert_close(output.alpha, training.load(0).alpha)
    assert output.depth is None
    turned = ObjectSet(["a", "b"], [seen(6, 16), seen(6, 16, turn=30.0)].__getitem__)
    everywhere = MeanImage(turned)
    assert not everywhere.shared
    mean = torch.cat([turned.load(0).images, turned.load(1).images]).mean(0)
    torch.testing.assert_close(everywhere(seen(1, 16), cameras).rgb, mean.expand(6, 16, 16, 3))
    assert model(seen(1, 16), cameras.resized(32, 32)).rgb.shape == (6, 32, 32, 3)


def test_the_nearest_source_is_shown_unchanged():
    given = seen(4, 16)
    two = PosedPictures(given.images[:2], given.alpha[:2], given.cameras[:2])
    output = NearestSource()(two, given.cameras)
    torch.testing.assert_close(output.rgb, given.images[torch.tensor([0, 1, 1, 0])])


def test_a_table_has_a_column_for_each_network_and_a_row_for_each_model():
    rows = [
        ViewScore("a", "0", 20.0, 0.5, 0.3),
        ViewScore("a", "1", 30.0, 0.7, 0.1),
        ViewScore("b", "0", 10.0, 0.0, 0.4),
    ]
    first = Evaluation("one", rows, "embedded", "x", "alex", 1.5, 0.0025, warnings=("FID is biased",))
    second = Evaluation(
        "two | three", rows[:1], "clip:b", "y", None, 3.0, -0.001, None, Consistency(33.0, 0.01, 0.5)
    )
    text = table([first, second]).splitlines()
    columns = [cell.strip() for cell in text[0].strip("|").split("|")]
    assert columns == [
        "", "PSNR dB", "SSIM", "LPIPS (alex)", "FID (embedded)", "FID (clip:b)", "KID (embedded) x 1000",
        "KID (clip:b) x 1000", "consistency dB (share)",
    ]  # fmt: skip
    cells = [cell.strip() for cell in text[2].strip("|").split("|")]
    assert cells == ["one", "17.50", "0.300", "0.300", "1.500", "-", "2.50", "-", "-"], (
        "objects have equal weight"
    )
    assert "two \\| three" in text[3]
    assert "33.00 (50%)" in text[3]
    assert len({len(line) for line in text[:4]}) == 1
    assert text[-1] == "- one: FID is biased"


def test_intervals_are_over_objects_and_widen_with_their_differences():
    def of(values: list[float]) -> Evaluation:
        return Evaluation("x", [ViewScore(str(i), "0", value, 0.5, None) for i, value in enumerate(values)])

    narrow, wide = of([20.0 + 0.01 * i for i in range(10)]), of([10.0 + 2.0 * i for i in range(10)])
    for evaluation in (narrow, wide):
        interval = evaluation.interval("psnr")
        assert interval is not None
        assert interval[0] < evaluation.mean("psnr") < interval[1]  # type: ignore[operator]
    assert narrow.interval("psnr")[1] - narrow.interval("psnr")[0] < 0.1  # type: ignore[index]
    assert wide.interval("psnr")[1] - wide.interval("psnr")[0] > 3.0  # type: ignore[index]
    assert of([1.0]).interval("psnr") is None
    assert wide.interval("lpips") is None
