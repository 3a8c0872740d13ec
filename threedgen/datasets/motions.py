"""The shape world in motion: single objects that spin, bounce, grow, sway or slide, and pieces of them that move.

Time runs from 0, when everything rests as `world.build` makes it, to 1. All motions except growing return to where
they began, so that they can be played in a loop.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from threedgen.datasets import solids, world
from threedgen.datasets.shapes import CLASSES, Piece
from threedgen.datasets.world import LayeredMesh, WorldObject

# Pairs of (class, motion) that the embedded video prior is never trained on: they test that it combines the two.
HELD_OUT = frozenset({("cone", "bouncing"), ("table", "spinning"), ("chair", "sliding")})

_SELDOM = ("driving", "opening", "still")  # drawn less often than the others
_SOLID = ("sphere", "cube", "cylinder", "cone", "torus", "chair", "table", "mug", "car")
_WITH_SIDES = ("cube", "chair", "table", "mug", "car")  # the others look the same while they spin

MORE_WORDS = ("sliding", "driving", "opening")  # words of captions that the tokenizer of still pictures lacks

Place = tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]  # x -> matrix x + offset


@dataclass(frozen=True)
class Motion:
    """A way to move.

    place: the affine map of the moving vertices, from their positions at rest [N, 3], the time and the amount.
    amount: the least and the greatest, between which it is drawn uniformly; the middle is canonical. shapes: the
    classes that move this way. body: whether all of the object moves, or only pieces of it that `build` chooses.
    loops: whether the object is at time 1 where it is at time 0.
    """

    place: Callable[[Tensor, float, float], Place]
    amount: tuple[float, float]
    shapes: tuple[str, ...]
    body: bool = True
    loops: bool = True


def _spin(points: Tensor, time: float, amount: float) -> Place:
    return _rotation("y", 360.0 * amount * time), torch.zeros(3)


def _bounce(points: Tensor, time: float, amount: float) -> Place:
    return torch.eye(3), torch.tensor([0.0, 4.0 * amount * time * (1.0 - time), 0.0])


def _grow(points: Tensor, time: float, amount: float) -> Place:
    return torch.eye(3) * (1.0 + amount * time), torch.zeros(3)


def _sway(points: Tensor, time: float, amount: float) -> Place:
    foot = torch.tensor([0.0, float(points[:, 1].min()), 0.0])
    return _about(_rotation("z", amount * math.sin(2.0 * math.pi * time)), foot)


def _slide(points: Tensor, time: float, amount: float) -> Place:
    return torch.eye(3), torch.tensor([amount * math.sin(2.0 * math.pi * time), 0.0, 0.0])


def _roll(points: Tensor, time: float, amount: float) -> Place:
    return _about(_rotation("x", 360.0 * amount * time), 0.5 * (points.amin(0) + points.amax(0)))


def _open(points: Tensor, time: float, amount: float) -> Place:
    hinge = torch.stack([points[:, 0].mean(), points[:, 1].min(), points[:, 2].min()])
    return _about(_rotation("x", -0.5 * amount * (1.0 - math.cos(2.0 * math.pi * time))), hinge)


def _rest(points: Tensor, time: float, amount: float) -> Place:
    return torch.eye(3), torch.zeros(3)


MOTIONS: dict[str, Motion] = {
    "spinning": Motion(_spin, (1.0, 1.0), _WITH_SIDES),
    "bouncing": Motion(_bounce, (0.6, 0.8), _SOLID),
    "growing": Motion(_grow, (0.5, 0.7), _SOLID, loops=False),
    "swaying": Motion(_sway, (20.0, 30.0), _SOLID),
    "sliding": Motion(_slide, (0.55, 0.75), _SOLID),
    "driving": Motion(_roll, (1.0, 1.0), ("car",), body=False),
    "still": Motion(_rest, (0.0, 0.0), _SOLID),
    "opening": Motion(_open, (75.0, 95.0), ("mug",), body=False),
}


@dataclass(frozen=True)
class MovingObject:
    """An object, the name of its motion, and the amount of it."""

    item: WorldObject
    motion: str
    amount: float

    @property
    def caption(self) -> str:
        """Such as "a red cube spinning"."""
        return f"{self.item.phrase} {self.motion}"


@dataclass(frozen=True)
class Moving:
    """An object at rest and in motion. joint: [V], which vertices move together; -1 for those that stay."""

    rest: LayeredMesh
    joint: Int[Tensor, " V"]
    motion: Motion
    amount: float

    def vertices(self, time: float) -> Float[Tensor, "V 3"]:
        """The positions of all vertices at a time in [0, 1]."""
        return self.at(time).mesh.vertices

    def at(self, time: float) -> LayeredMesh:
        """The object at a time in [0, 1], with the same vertices and faces at other positions."""
        mesh = self.rest.mesh
        assert mesh.normals is not None
        vertices, normals = mesh.vertices.clone(), mesh.normals.clone()
        for joint in range(int(self.joint.max()) + 1):
            of = self.joint == joint
            matrix, offset = self.motion.place(mesh.vertices[of], time, self.amount)
            vertices[of] = mesh.vertices[of] @ matrix.T + offset
            # The matrices are rotations times a scale, so normals turn with them.
            normals[of] = torch.nn.functional.normalize(mesh.normals[of] @ matrix.T, dim=1)
        moved = type(mesh)(vertices, mesh.faces, normals=normals)
        return LayeredMesh(moved, self.rest.owner, self.rest.fixed)


def canonical(shape: str, color: str, motion: str) -> MovingObject:
    """An object of a class with the middle of all its parameters, moving by the middle amount."""
    low, high = MOTIONS[motion].amount
    return MovingObject(world.canonical(shape, color).objects[0], motion, 0.5 * (low + high))


def sample(rng: np.random.Generator) -> MovingObject:
    """A random object and motion, never of a pair that is held out here or in `world`."""
    names = list(MOTIONS)
    weights = np.array([0.3 if name in _SELDOM else 1.0 for name in names])
    motion = names[rng.choice(len(names), p=weights / weights.sum())]
    shapes = tuple(name for name in MOTIONS[motion].shapes if (name, motion) not in HELD_OUT)
    return MovingObject(world.sample_object(rng, shapes), motion, float(rng.uniform(*MOTIONS[motion].amount)))


def build(moving: MovingObject) -> Moving:
    """The exact mesh of a moving object."""
    motion = MOTIONS[moving.motion]
    pieces = CLASSES[moving.item.shape].build(**moving.item.parameters)
    joints = [0 if motion.body else -1] * len(pieces)
    if moving.motion == "driving":
        pieces, joints = _with_hubs(pieces)
    elif moving.motion == "opening":
        pieces = [*pieces, *_lid(moving.item.parameters)]
        joints += [0] * (len(pieces) - len(joints))
    rest = world.layered([pieces])
    joint = np.repeat(joints, [len(solid.vertices) for solid, _ in pieces])
    return Moving(rest, torch.from_numpy(joint), motion, moving.amount)


def _with_hubs(pieces: Sequence[Piece]) -> tuple[list[Piece], list[int]]:
    """The pieces of a car with a light bar across each wheel, which shows that it turns; and the joint of each."""
    result, joints = list(pieces), [-1] * len(pieces)
    for wheel, index in enumerate(i for i, (_, paint) in enumerate(pieces) if paint == "tyre"):
        solid = pieces[index][0]
        low, high = solid.vertices.min(0), solid.vertices.max(0)
        bar = solids.box((high[0] - low[0] + 0.03, 0.09, 0.96 * (high[2] - low[2])))
        joints[index] = wheel
        result.append((bar.moved(tuple(0.5 * (low + high))), "hub"))
        joints.append(wheel)
    return result, joints


def _lid(parameters: dict[str, float]) -> list[Piece]:
    """A flat lid with a knob on the rim of a mug."""
    radius, top = parameters["radius"], 0.5 * parameters["height"]
    middle = -0.5 * parameters["handle"]  # x of the axis of the body, as `shapes` places it
    lid = solids.cylinder(radius, 0.1).moved((middle, top + 0.05, 0.0))
    return [(lid, "main"), (solids.sphere(0.1, 16).moved((middle, top + 0.16, 0.0)), "main")]


def _rotation(axis: str, degrees: float) -> Float[Tensor, "3 3"]:
    return torch.from_numpy(solids.rotation_about(axis, degrees)).float()


def _about(matrix: Float[Tensor, "3 3"], pivot: Float[Tensor, " 3"]) -> Place:
    return matrix, pivot - matrix @ pivot
