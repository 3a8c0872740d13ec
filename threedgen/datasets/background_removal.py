"""Background removal: the pixels of an opaque picture that belong to the object, if its border shows background.

If the colours of the border lie near a smooth surface, the background is plain, and all pixels near that surface
belong to it. Any other background is separated by GrabCut (Rother et al. 2004) with the border instead of a
rectangle that a user draws: mixtures of Gaussians over colour and position for both sides and a minimum cut between
them, repeated until the cut does not change. Then a random walker (Grady 2006) refines the outline at the full size
of the picture. Nothing is learned or downloaded, and the result is deterministic. A network that has learned what
objects are is used instead if it is on the machine (see `threedgen.datasets.learned_removal`).
"""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Bool, Float, UInt8

from threedgen.core.errors import UserError
from threedgen.datasets.learned_removal import learned_alpha

_SIDE = 192  # pixels of the longer side of the picture that is cut
_BORDER = 0.03  # width of the border as a share of that side; it is certainly background
_PLACE = 25.0  # Lab units that the side counts as, so that a background may change over the picture
_SMOOTH = 30.0  # gamma of GrabCut
_PLAIN = 3.0  # Lab units: largest root mean square distance of a plain border from a smooth surface
_LIGHTNESS = 0.7  # weight of the lightness on plain backgrounds, on which shadows lie; others have 1
_PLAIN_DISTANCE, _PLAIN_SPREADS = 4.0, 4.0  # of an object from that surface, at least: Lab units, spreads
_PLAIN_COST, _PLAIN_SMOOTH = 8.0, 6.0  # cost of a pixel at that distance, and gamma, on plain backgrounds
_COMPONENTS, _ROUNDS = 5, 5  # Gaussians per mixture, and most repetitions of the cut
_VARIANCE = 4.0  # least variance of a Gaussian, Lab units squared
_LEAST_NOVELTY = 8.0  # Lab units: an object must differ that much from the border
_LEAST, _MOST = 0.003, 0.85  # share of the picture that an object can cover
_SPECK = 0.03  # of the area of the largest piece: smaller pieces are removed
_TOUCHING = 0.5  # share of the border from which on a "foreground" along it is the background itself
_WALKER = 50.0  # beta of the random walker: how strongly edges stop it


def remove_background(rgb: UInt8[np.ndarray, "H W 3"]) -> tuple[UInt8[np.ndarray, "H W"], str]:
    """Alpha of the object in an opaque picture, and by what it was found: isnet or rembg if they are installed,
    else border, which is `cut_out`. Raises UserError if no object is found, and as `learned_alpha` does."""
    found = learned_alpha(rgb)
    if found is None:
        return cut_out(rgb), "border"
    if found[0].max() < 128:
        raise _nothing_found()
    return found


def cut_out(rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"]:
    """Alpha of the object, given that the border shows background. The object must lie inside the picture, not fill
    it, and differ in colour from its surroundings. Raises UserError if no such object is found."""
    from skimage.color import rgb2lab

    lab = rgb2lab(_shrunk(rgb))
    height, width = lab.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    edge = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    border = edge < max(2, round(_BORDER * max(height, width)))
    place = _PLACE / max(height, width) * np.stack([columns, rows], axis=2)
    features = np.concatenate([lab, place], axis=2)
    novelty = _unlike_border(features, border)
    plain = _plain_costs(lab, border)
    inside = (
        _by_grabcut(features, border, novelty) if plain is None else _minimum_cut(lab, *plain, _PLAIN_SMOOTH)
    )
    inside = _without_specks(_without_holes(inside, _unlike_border(lab, border)))
    rim = (edge == edge[border].max() + 1) if not border.all() else border
    if not _LEAST <= inside.mean() <= _MOST or inside[rim].mean() > _TOUCHING:
        raise _nothing_found()
    return _refined(rgb, inside)


def _plain_costs(
    lab: Float[np.ndarray, "h w 3"], border: Bool[np.ndarray, "h w"]
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]] | None:
    """The cost of each pixel to be object, and to be background, if the border is plain, else None. A plain border
    lies near a surface of second order in the position. A tenth of it may be other things, such as the object."""
    height, width = border.shape
    y, x = np.meshgrid(np.linspace(-1.0, 1.0, height), np.linspace(-1.0, 1.0, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)
    weighted = lab * np.array([_LIGHTNESS, 1.0, 1.0])
    kept = border.copy()
    distance = np.zeros_like(x)
    for _ in range(3):
        surface = terms @ np.linalg.lstsq(terms[kept], weighted[kept], rcond=None)[0]
        distance = np.linalg.norm(weighted - surface, axis=2)
        kept = border & (distance <= np.quantile(distance[border], 0.9))
    spread = float(np.sqrt(np.mean(np.square(distance[kept]))))
    if spread > _PLAIN:
        return None
    far = max(_PLAIN_DISTANCE, _PLAIN_SPREADS * spread)
    outside = np.minimum(_PLAIN_COST * np.square(distance / far), 6.0 * _PLAIN_COST)
    inside = np.full_like(outside, _PLAIN_COST)
    inside[border], outside[border] = 6.0 * _PLAIN_COST, 0.0
    return inside, outside


def _by_grabcut(
    features: Float[np.ndarray, "h w 5"], border: Bool[np.ndarray, "h w"], novelty: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """The object on any background, starting from what the threshold of Otsu (1979) separates from the border."""
    from skimage.filters import threshold_otsu

    inside = novelty > threshold_otsu(novelty[~border])
    for round_ in range(_ROUNDS):
        if inside.sum() < 2 * _COMPONENTS:
            raise _nothing_found()
        costs = [_cost(features, side, round_) for side in (inside, ~inside)]
        costs[0][border] = costs[0].max() + costs[1].max()
        after = _minimum_cut(features[..., :3], costs[0], costs[1], _SMOOTH)
        settled = np.mean(after != inside) < 0.002
        inside = after
        if settled:
            break
    return inside


def _nothing_found() -> UserError:
    return UserError(
        "no object stands out from the picture's border: give a mask (--mask MASK.png, white where the object is) "
        "or a picture with a transparent background"
    )


def _shrunk(picture: UInt8[np.ndarray, "H W ..."]) -> UInt8[np.ndarray, "h w ..."]:
    from PIL import Image

    height, width = picture.shape[:2]
    ratio = min(1.0, _SIDE / max(height, width))
    sides = (max(8, round(width * ratio)), max(8, round(height * ratio)))
    return np.asarray(Image.fromarray(picture).resize(sides, Image.Resampling.BOX))


def _unlike_border(
    features: Float[np.ndarray, "h w f"], border: Bool[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """The distance of the features of each pixel from those of the most similar pixels of the border; 0 on the
    border. Raises UserError if hardly any pixel differs from it."""
    from scipy.spatial import KDTree

    distances, _ = KDTree(features[border]).query(features.reshape(-1, features.shape[2]), k=5)
    novelty = distances.mean(axis=1).reshape(border.shape)
    novelty[border] = 0.0
    if np.quantile(novelty, 1.0 - _LEAST) < _LEAST_NOVELTY:
        raise _nothing_found()
    return novelty


def _cost(
    features: Float[np.ndarray, "h w f"], members: Bool[np.ndarray, "h w"], seed: int
) -> Float[np.ndarray, "h w"]:
    """Minus the log density of every pixel under a mixture of Gaussians of the pixels in `members`."""
    from scipy.cluster.vq import kmeans2

    points, samples = features.reshape(-1, features.shape[2]), features[members]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a cluster may come out empty
        count = min(_COMPONENTS, len(samples))
        _, labels = kmeans2(samples, count, minit="++", rng=np.random.default_rng(seed))
    logs = []
    for label in range(count):
        own = samples[labels == label]
        if len(own) < 2:
            continue
        covariance = np.cov(own.T) + _VARIANCE * np.eye(own.shape[1])
        away = points - own.mean(axis=0)
        square = np.einsum("ni,ij,nj->n", away, np.linalg.inv(covariance), away, optimize=True)
        logs.append(np.log(len(own) / len(samples)) - 0.5 * (np.linalg.slogdet(covariance)[1] + square))
    return -np.logaddexp.reduce(logs, axis=0).reshape(members.shape)


def _minimum_cut(
    lab: Float[np.ndarray, "h w 3"],
    cost_inside: Float[np.ndarray, "h w"],
    cost_outside: Float[np.ndarray, "h w"],
    smooth: float,
) -> Bool[np.ndarray, "h w"]:
    """The labelling of least cost: that of each pixel, and smooth x exp(-beta |difference|^2) / distance for each
    pair of neighbours (8 per pixel) on different sides (Boykov and Jolly 2001)."""
    from scipy.sparse import coo_array, csr_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    height, width = lab.shape[:2]
    count = height * width
    source, sink, unit = count, count + 1, 100.0  # capacities are whole numbers: hundredths
    index = np.arange(count).reshape(height, width)
    neighbours = [_pairs(offset) for offset in ((0, 1), (1, 0), (1, 1), (1, -1))]
    squares = [np.square(lab[one] - lab[two]).sum(axis=2) for one, two in neighbours]
    beta = 1.0 / (2.0 * np.mean(np.concatenate([square.ravel() for square in squares])) + 1e-6)
    starts, ends, capacities = [], [], []
    for number, ((one, two), square) in enumerate(zip(neighbours, squares, strict=True)):
        distance = 1.0 if number < 2 else np.sqrt(2.0)
        weight = (unit * smooth / distance * np.exp(-beta * square)).ravel()
        starts += [index[one].ravel(), index[two].ravel()]
        ends += [index[two].ravel(), index[one].ravel()]
        capacities += [weight, weight]
    least = np.minimum(cost_inside, cost_outside)
    starts += [np.full(count, source), index.ravel()]
    ends += [index.ravel(), np.full(count, sink)]
    capacities += [unit * (cost_outside - least).ravel(), unit * (cost_inside - least).ravel()]
    whole = np.minimum(np.round(np.concatenate(capacities)), 1e6).astype(np.int32)
    edges = (np.concatenate(starts), np.concatenate(ends))
    graph = csr_array(coo_array((whole, edges), shape=(count + 2, count + 2)))
    left = graph - maximum_flow(graph, source, sink).flow
    left.data = np.maximum(left.data, 0)
    left.eliminate_zeros()
    reached = np.zeros(count + 2, dtype=bool)
    reached[breadth_first_order(left, source, return_predecessors=False)] = True
    return reached[:count].reshape(height, width)


def _pairs(offset: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The index expressions of all pixels that have a neighbour at `offset`, and of these neighbours."""
    down, right = offset
    if right < 0:
        return (slice(None, -down), slice(-right, None)), (slice(down, None), slice(None, right))
    return (slice(None, -down or None), slice(None, -right or None)), (slice(down, None), slice(right, None))


def _without_holes(
    inside: Bool[np.ndarray, "h w"], novelty: Float[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """`inside` with those holes filled that show no background, because they differ more from the border than the
    background does: a white muzzle on white has shades, what is seen through a handle has none."""
    from scipy import ndimage

    labels, count = ndimage.label(~inside)  # type: ignore[misc]
    edges = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    outer = np.isin(labels, np.unique(edges[edges > 0]))
    usual = np.median(novelty[outer]) if outer.any() else 0.0
    holes = set(range(1, count + 1)) - set(np.unique(labels[outer]).tolist())
    filled = [hole for hole in holes if np.median(novelty[labels == hole]) > 1.5 * usual + 1.0]
    return inside | np.isin(labels, filled)


def _without_specks(inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    from scipy import ndimage

    labels, count = ndimage.label(inside, structure=np.ones((3, 3)))  # type: ignore[misc]
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    large = np.flatnonzero(areas >= _SPECK * areas.max(initial=0))
    return np.isin(labels, 1 + large)


def _refined(rgb: UInt8[np.ndarray, "H W 3"], inside: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
    """Alpha at the size of the picture: soft in a narrow band around the outline, which follows its edges."""
    from PIL import Image
    from scipy import ndimage
    from skimage.color import rgb2lab
    from skimage.segmentation import random_walker

    height, width = rgb.shape[:2]
    smooth = Image.fromarray((255 * inside).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    solid = np.asarray(smooth) > 127
    if not solid.any() or solid.all():
        raise _nothing_found()
    band = max(2.0, max(height, width) / max(inside.shape))
    depth = np.asarray(ndimage.distance_transform_edt(solid)) - np.asarray(
        ndimage.distance_transform_edt(~solid)
    )
    seeds = np.select([np.abs(depth) > band + 2.0, depth > band, depth < -band], [-1, 1, 2], 0)
    if {1, 2} <= set(np.unique(seeds).tolist()) and (seeds == 0).any():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns that there are faster solvers
            chances = random_walker(
                rgb2lab(rgb), seeds, beta=_WALKER, mode="cg_j", channel_axis=-1, return_full_prob=True
            )
        alpha = np.where(seeds == 0, np.nan_to_num(chances[0]), solid)
    else:  # the object is too thin to have an inside
        alpha = solid
    return np.round(255.0 * np.clip(alpha, 0.0, 1.0)).astype(np.uint8)
