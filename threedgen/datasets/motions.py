"""The shape world in motion: single objects that spin, bounce, grow, sway or slide, and parts that move.

Time runs from 0, where everything rests as `world.build` makes it, to 1. All motions but growing come back to where
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
from threedgen.datasets.shapes import CLASSES, Part
from threedgen.datasets.world import LayeredMesh, WorldObject

# (class, motion) pairs that the embedded video prior never sees: they test that it composes.
HELD_OUT = frozenset({("cone", "bouncing"), ("table", "spinning"), ("chair", "sliding")})

_SELDOM = ("driving", "opening", "still")
_SOLID = ("sphere", "cube", "cylinder", "cone", "torus", "chair", "table", "mug", "car")
_WITH_SIDES = ("cube", "chair", "table", "mug", "car")  # of the others one does not see that they spin

MORE_WORDS = ("sliding", "driving", "opening")  # of the captions, that the tokenizer of still pictures lacks

Place = tuple[Float[Tensor, "3 3"], Float[Tensor, " 3"]]  # x -> matrix x + offset


@dataclass(frozen=True)
class Motion:
    """place: (what moves at rest [N, 3], time, amount) -> an affine map. amount: (low, high), drawn uniformly; the
    middle is canonical. shapes: whom it is shown on. body: whether all of the object moves, or only the parts that
    `parts` adds to it or, by their paints, names. loops: whether time 1 is time 0."""

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
    """An object, what it does, and how far."""

    item: WorldObject
    motion: str
    amount: float

    @property
    def caption(self) -> str:
        return f"{self.item.phrase} {self.motion}"


@dataclass(frozen=True)
class Moving:
    """A scene at rest, and which of its vertices move together: joint [V], -1 for those that stay."""

    rest: LayeredMesh
    joint: Int[Tensor, " V"]
    motion: Motion
    amount: float

    def vertices(self, time: float) -> Float[Tensor, "V 3"]:
        """Where every vertex is at a time in [0, 1]."""
        return self.at(time).mesh.vertices

    def at(self, time: float) -> LayeredMesh:
        """The scene at a time in [0, 1]: the same vertices and faces elsewhere."""
        mesh = self.rest.mesh
        assert mesh.normals is not None
        vertices, normals = mesh.vertices.clone(), mesh.normals.clone()
        for joint in range(int(self.joint.max()) + 1):
            of = self.joint == joint
            matrix, offset = self.motion.place(mesh.vertices[of], time, self.amount)
            vertices[of] = mesh.vertices[of] @ matrix.T + offset
            # Matrices are rotations times a scale, so normals turn with them.
            normals[of] = torch.nn.functional.normalize(mesh.normals[of] @ matrix.T, dim=1)
        moved = type(mesh)(vertices, mesh.faces, normals=normals)
        return LayeredMesh(moved, self.rest.owner, self.rest.fixed)


def canonical(shape: str, color: str, motion: str) -> MovingObject:
    """The class's middle member, moving the middle amount."""
    low, high = MOTIONS[motion].amount
    return MovingObject(world.canonical(shape, color).objects[0], motion, 0.5 * (low + high))


def sample(rng: np.random.Generator) -> MovingObject:
    """A random object doing something; never a held-out (class, motion) or (colour, class)."""
    names = list(MOTIONS)
    weights = np.array([0.3 if name in _SELDOM else 1.0 for name in names])
    motion = names[rng.choice(len(names), p=weights / weights.sum())]
    shapes = tuple(name for name in MOTIONS[motion].shapes if (name, motion) not in HELD_OUT)
    return MovingObject(world.sample_object(rng, shapes), motion, float(rng.uniform(*MOTIONS[motion].amount)))


def build(moving: MovingObject) -> Moving:
    """The exact mesh of a moving object."""
    motion = MOTIONS[moving.motion]
    parts = CLASSES[moving.item.shape].build(**moving.item.parameters)
    joints = [0 if motion.body else -1] * len(parts)
    if moving.motion == "driving":
        parts, joints = _with_hubs(parts)
    elif moving.motion == "opening":
        parts = [*parts, *_lid(moving.item.parameters)]
        joints += [0] * (len(parts) - len(joints))
    rest = world.layered([parts])
    joint = np.repeat(joints, [len(solid.vertices) for solid, _ in parts])
    return Moving(rest, torch.from_numpy(joint), motion, moving.amount)


def _with_hubs(parts: Sequence[Part]) -> tuple[list[Part], list[int]]:
    """Wheels with a light bar across, without which one does not see them turn."""
    result, joints = list(parts), [-1] * len(parts)
    for wheel, index in enumerate(i for i, (_, paint) in enumerate(parts) if paint == "tyre"):
        solid = parts[index][0]
        low, high = solid.vertices.min(0), solid.vertices.max(0)
        bar = solids.box((high[0] - low[0] + 0.03, 0.09, 0.96 * (high[2] - low[2])))
        joints[index] = wheel
        result.append((bar.moved(tuple(0.5 * (low + high))), "hub"))
        joints.append(wheel)
    return result, joints


def _lid(parameters: dict[str, float]) -> list[Part]:
    """A flat lid on a mug's rim, with a knob."""
    radius, top = parameters["radius"], 0.5 * parameters["height"]
    middle = -0.5 * parameters["handle"]  # where `shapes` puts the body
    lid = solids.cylinder(radius, 0.1).moved((middle, top + 0.05, 0.0))
    return [(lid, "main"), (solids.sphere(0.1, 16).moved((middle, top + 0.16, 0.0)), "main")]


def _rotation(axis: str, degrees: float) -> Float[Tensor, "3 3"]:
    return torch.from_numpy(solids.rotation_about(axis, degrees)).float()


def _about(matrix: Float[Tensor, "3 3"], pivot: Float[Tensor, " 3"]) -> Place:
    return matrix, pivot - matrix @ pivot
