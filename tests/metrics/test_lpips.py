"""LPIPS with random weights: the laws of a distance, and a second implementation of the formula of the paper."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from threedgen.core.errors import UserError
from threedgen.metrics.lpips import VARIABLE, Lpips, load_lpips, shapes_of, smallest_side


def random_weights(network: str) -> dict[str, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    weights = {}
    for name, shape in shapes_of(network).items():
        spread = (2.0 / max(1, int(np.prod(shape[1:])))) ** 0.5
        weights[name] = torch.randn(shape, generator=rng) * spread
        if name.startswith(("lin", "scaling_layer.scale")):
            weights[name] = weights[name].abs() + 0.1  # published ones are positive
    return weights


@pytest.fixture(scope="module", params=["alex", "vgg"])
def lpips(request) -> Lpips:
    return Lpips(request.param, random_weights(request.param))


def pictures(count: int, side: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, side, side, 3, generator=torch.Generator().manual_seed(seed))


def test_it_is_a_distance_of_pictures(lpips):
    a, b = pictures(3, 32), pictures(3, 32, seed=1)
    assert lpips(a, a).abs().max() == 0.0
    forth, back = lpips(a, b), lpips(b, a)
    torch.testing.assert_close(forth, back)
    assert forth.shape == (3,)
    assert (forth > 0).all()
    closer = lpips(0.8 * a + 0.2 * b, a)
    assert (closer < forth).all(), "less of another picture is nearer"
    torch.testing.assert_close(
        lpips(a[1:2], b[1:2])[0], forth[1], msg="the score of a picture does not depend on others"
    )


def test_predictions_are_clamped_in_any_number_of_pictures(lpips):
    a, b = pictures(9, 32), pictures(9, 32, seed=1)
    torch.testing.assert_close(lpips(a + 2.0, b), lpips(torch.ones_like(a), b))


# Slice.number, stride and padding of convolutions; sides of poolings (stride 2); where features are compared.
PLAIN = {
    "alex": "1.0 4 2, tap, pool 3, 2.3 1 2, tap, pool 3, 3.6 1 1, tap, 4.8 1 1, tap, 5.10 1 1, tap",
    "vgg": "1.0 1 1, 1.2 1 1, tap, pool 2, 2.5 1 1, 2.7 1 1, tap, pool 2, 3.10 1 1, 3.12 1 1, 3.14 1 1, tap, "
    "pool 2, 4.17 1 1, 4.19 1 1, 4.21 1 1, tap, pool 2, 5.24 1 1, 5.26 1 1, 5.28 1 1, tap",
}


def plain_distance(network: str, weights, a, b) -> float:
    """The distance in float64, by windows and sums, without any code that is under test."""
    w = {name: value.double().numpy() for name, value in weights.items()}
    x = [
        (2.0 * picture.double().numpy().transpose(2, 0, 1) - 1.0 - w["scaling_layer.shift"][0])
        / w["scaling_layer.scale"][0]
        for picture in (a, b)
    ]
    total, taps = 0.0, 0
    for line in PLAIN[network].split(", "):
        words = line.split()
        if words[0] == "pool":
            side = int(words[1])
            x = [windows(picture, side, 2).max(axis=(-1, -2)) for picture in x]
        elif words[0] == "tap":
            lin = w[f"lin{taps}.model.1.weight"][0, :, 0, 0]
            unit = [picture / (np.sqrt((picture**2).sum(0)) + 1e-10) for picture in x]
            total += ((lin[:, None, None] * (unit[0] - unit[1]) ** 2).sum(0)).mean()
            taps += 1
        else:
            kernel, bias = (w[f"net.slice{words[0]}.{kind}"] for kind in ("weight", "bias"))
            stride, pad = int(words[1]), int(words[2])
            padded = [np.pad(picture, ((0, 0), (pad, pad), (pad, pad))) for picture in x]
            x = [
                np.maximum(
                    np.einsum(
                        "chwij,ocij->ohw", windows(picture, kernel.shape[2], stride), kernel, optimize=True
                    )
                    + bias[:, None, None],
                    0.0,
                )
                for picture in padded
            ]
    assert taps == 5
    return total


def windows(picture: np.ndarray, side: int, stride: int) -> np.ndarray:
    view = np.lib.stride_tricks.sliding_window_view(picture, (side, side), axis=(1, 2))
    return view[:, ::stride, ::stride]


def test_it_is_the_formula_of_the_paper(lpips):
    side = smallest_side(lpips.network) + 2
    a, b = pictures(1, side), pictures(1, side, seed=1)
    wanted = plain_distance(lpips.network, lpips.weights, a[0], b[0])
    assert float(lpips(a, b)) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("network", "side"), [("alex", 31), ("vgg", 16)])
def test_pictures_that_are_too_small_are_refused_in_one_line(network, side):
    assert smallest_side(network) == side
    lpips = Lpips(network, random_weights(network))
    lpips(pictures(1, side), pictures(1, side))
    with pytest.raises(UserError, match=f"too small for LPIPS .{network}., which needs {side}") as caught:
        lpips(pictures(1, side - 1), pictures(1, side - 1))
    assert "\n" not in str(caught.value)


def test_the_file_of_weights_is_an_argument_or_a_variable(tmp_path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert load_lpips() is None
    weights = random_weights("alex")
    file = tmp_path / "with space.safetensors"
    save_file({**weights, "lins.0.model.1.weight": weights["lin0.model.1.weight"].clone()}, file)
    a, b = pictures(1, 32), pictures(1, 32, seed=1)
    loaded = load_lpips(file)
    assert loaded is not None
    assert loaded.network == "alex"
    torch.testing.assert_close(loaded(a, b), Lpips("alex", weights)(a, b))
    monkeypatch.setenv(VARIABLE, str(file))
    from_variable = load_lpips()
    assert from_variable is not None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"there is no file .*none' of LPIPS.*import lpips"):
        load_lpips()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda w: w.pop("lin3.model.1.weight"), "lin3.model.1.weight is missing"),
        (
            lambda w: w.update({"net.slice1.0.weight": torch.zeros(64, 3, 3, 3)}),
            r"is \[64, 3, 3, 3\], \[64, 3, 11",
        ),
        (lambda w: w["net.slice1.0.bias"].fill_(float("nan")), "not finite"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, damage, message):
    weights = random_weights("alex")
    damage(weights)
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load_lpips(tmp_path / "w.safetensors")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"\xff" * 64])
def test_a_file_of_another_format_is_not_read(tmp_path, content):
    (tmp_path / "alex.pth").write_bytes(content)
    with pytest.raises(UserError, match="not a safetensors file"):
        load_lpips(tmp_path / "alex.pth")
    with pytest.raises(UserError, match="not a safetensors file"):
        load_lpips(tmp_path)
