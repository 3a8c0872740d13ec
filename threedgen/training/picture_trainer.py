"""Trains the field that a picture decodes to, with a few rays of views of the object in each picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.picture_field import (
    PictureArchitecture,
    PictureField,
    load_picture_field,
    seen_from,
    soft_bins,
)
from threedgen.guidance.priors.radiance_field import save_field
from threedgen.training.config import PictureFieldTrainingConfig
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.prior_model import write_folder
from threedgen.training.things_store import cameras_of
from threedgen.training.view_bank import ViewBatch

SIZES = (64, 128, 256)  # pixels


@dataclass(frozen=True)
class Rays:
    """Random rays of B views: row-major pixels, how points on them are moved (see `RadianceField.render`), and
    what the views show there, premultiplied RGB and alpha."""

    pixels: Int[Tensor, "B N"]
    shift: Float[Tensor, "B N S"]
    true: Float[Tensor, "B N 4"]


def random_rays(layers: Float[Tensor, "B H W 4"], count: int, samples: int, rng: torch.Generator) -> Rays:
    """`count` rays of each view, with `samples` points."""
    views, height, width = layers.shape[:3]
    pixels = torch.randint(height * width, (views, count), generator=rng)
    shift = torch.rand(views, count, samples, generator=rng) - 0.5
    true = torch.gather(layers.flatten(1, 2), 1, pixels.unsqueeze(-1).expand(-1, -1, 4))
    return Rays(pixels, shift, true)


def side_loss(
    sides: Float[Tensor, "B S"], azimuth: Float[Tensor, " B"], kept: Float[Tensor, " B"]
) -> Float[Tensor, ""]:
    """The cross entropy of the sides from which pictures were taken. azimuth: the true ones in degrees. kept: 0 for
    a picture that is withheld."""
    return (-(soft_bins(azimuth) * sides.log_softmax(1)).sum(1) * kept).mean()


class PictureFieldTrainer(DenoiserTrainer):
    """The trainer of a PictureField. size: pixels of the pictures; UserError for one that is not in SIZES."""

    config: PictureFieldTrainingConfig

    def __init__(self, config: PictureFieldTrainingConfig, size: int, folder: Path) -> None:
        if size not in SIZES:
            raise UserError(f"--size is {size}; a field of pictures has {', '.join(map(str, SIZES))} pixels")
        super().__init__(config, lambda: PictureField(PictureArchitecture(size=size)), folder)
        self.size = size

    def next_batch(self, bank: Any) -> ViewBatch:
        config = self.config
        return bank.batch(config.batch, config.seed, self.step, config.views)

    def train_step(self, batch: ViewBatch) -> float:
        """One step on the mean squared error of premultiplied colours and alpha at random pixels, and on the cross
        entropy of the side from which the picture was taken."""
        config, device = self.config, self.config.device
        rng = generator(config.seed, "picture-train", self.step)
        count, views = batch.layers.shape[:2]
        kept = (torch.rand(count, generator=rng) >= config.picture_dropout).float()
        rays = random_rays(batch.layers.flatten(0, 1), config.rays, self.model.architecture.samples, rng)
        pictures = 2.0 * batch.pictures.permute(0, 3, 1, 2) - 1.0
        # A withheld picture is white: its field is the mean of everything.
        pictures = torch.lerp(torch.ones_like(pictures), pictures, kept[:, None, None, None])
        known = batch.known.to(device)
        dropout = config.seen_dropout
        passed = (torch.rand(count, self.model.architecture.seen, generator=rng) >= dropout).float()
        passed = (passed / (1.0 - dropout)).to(device)
        with self.half():
            decoded = self.model.decode(pictures.to(device), known[:, 1:], known[:, 0], passed)
        owner = torch.arange(count).repeat_interleave(views)
        cameras = cameras_of(batch.views.flatten(0, 1), self.size).to(device)
        predicted = self.model.render(
            decoded, seen_from(decoded, cameras, owner), owner, rays.pixels.to(device), rays.shift.to(device)
        )
        loss = F.mse_loss(predicted, rays.true.to(device))
        loss = loss + config.side_weight * side_loss(decoded.sides, known[:, 0], kept.to(device))
        self.update(loss)
        self.pictures += count
        return float(loss.detach())

    def start_from(self, folder: Path) -> None:
        """Takes over the field of a pipeline folder. Raises UserError for a field of other sizes."""
        self.begin_with(weights_like(folder, self.model.architecture), folder)

    def views_of(
        self, picture: Float[Tensor, "H W 3"], known: Float[Tensor, " 2"], views: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V H W 4"]:
        """What the averaged field shows of the object in a picture: premultiplied RGB and alpha. known: the
        elevation and the distance of the picture's camera. views: see ViewBatch."""
        device = self.config.device
        with torch.no_grad():
            given = (2.0 * picture.permute(2, 0, 1)[None] - 1.0).to(device)
            decoded = self.average.with_occupancy(self.average.decode(given, known[None].to(device)))
            owner = torch.zeros(len(views), dtype=torch.long)
            cameras = seen_from(decoded, cameras_of(views, self.size).to(device), owner)
            values = self.average.render(decoded, cameras, owner)
        return values.unflatten(1, (self.size, self.size)).cpu()


def weights_like(folder: Path, architecture: PictureArchitecture) -> dict[str, Tensor]:
    """The weights of the field of a pipeline folder. Raises UserError for a field of other sizes."""
    field = load_picture_field(folder / "field")
    if field.architecture != architecture:
        raise UserError(f"the field of {folder} has other sizes than this one: leave --start-from out")
    return field.state_dict()


def save_picture_pipeline(trainer: PictureFieldTrainer, folder: Path) -> None:
    """Writes the averaged field as a pipeline folder, replacing `folder` in one step."""

    def write(path: Path) -> None:
        save_field(trainer.average, path / "field")

    write_folder(folder, "ThreedgenPicturePipeline", {"field": ["threedgen", "PictureField"]}, write)
