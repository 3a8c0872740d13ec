"""Trains the field of the text prior on pictures of things, with a few rays of each picture."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.datasets.things.scenes import size_of
from threedgen.datasets.things.wording import synonyms_of
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.guidance.priors.folder.light import write_light
from threedgen.guidance.priors.instances import save_instances
from threedgen.guidance.priors.radiance_field import save_field
from threedgen.guidance.priors.text_field import FieldArchitecture, TextField, load_text_field
from threedgen.training.config import FieldTrainingConfig
from threedgen.training.denoiser_trainer import DenoiserTrainer
from threedgen.training.prior_model import write_folder
from threedgen.training.text_reader import TextReader
from threedgen.training.things_bank import ThingsBank, ThingsBatch
from threedgen.training.things_store import cameras_of


class FieldTrainer(DenoiserTrainer):
    """The trainer of a TextField, with the vectors of a frozen text encoder. size: pixels of the pictures."""

    config: FieldTrainingConfig

    def __init__(self, config: FieldTrainingConfig, reader: TextReader, size: int, folder: Path) -> None:
        architecture = FieldArchitecture(width=reader.width)
        super().__init__(config, lambda: TextField(architecture), folder)
        self.reader, self.size = reader, size

    def train_step(self, batch: ThingsBatch) -> float:
        """One step on the mean squared error of premultiplied colours and alpha at random pixels."""
        rng = generator(self.config.seed, "field-train", self.step)
        count, size = len(batch.captions), batch.layers.shape[1]
        chance = torch.rand(count, generator=rng)
        dropped = chance < self.config.text_dropout
        texts = ["" if drop else text for drop, text in zip(dropped.tolist(), batch.captions, strict=True)]
        coded = chance >= self.config.text_dropout + self.config.code_dropout
        pixels = torch.randint(size * size, (count, self.config.rays), generator=rng)
        samples = self.model.architecture.samples
        shift = torch.rand(count, self.config.rays, samples, generator=rng) - 0.5
        target = torch.gather(batch.layers.flatten(1, 2), 1, pixels.unsqueeze(-1).expand(-1, -1, 4))
        device = self.config.device
        with self.half():
            decoded = self.model.decode(self.reader.vectors(texts), (batch.codes * coded[:, None]).to(device))
        cameras = cameras_of(batch.cameras, size).to(device)
        predicted = self.model.render(decoded, cameras, None, pixels.to(device), shift.to(device))
        loss = F.mse_loss(predicted, target.to(device))
        self.update(loss)
        self.pictures += count
        return float(loss.detach())

    def start_from(self, folder: Path) -> None:
        """Takes over the field of a pipeline folder. Raises UserError for a field of other sizes."""
        other = load_text_field(folder / "field")
        if other.architecture != self.model.architecture:
            raise UserError(f"the field of {folder} has other sizes than this one: leave --start-from out")
        self.begin_with(other.state_dict(), folder)

    def pictures_of(
        self, texts: list[str], cameras: Float[Tensor, "B 3"], size: int | None = None
    ) -> Float[Tensor, "B 4 H W"]:
        """What the averaged field shows for texts from cameras (azimuth, elevation in degrees, distance)."""
        device = self.config.device
        with torch.no_grad():
            views = cameras_of(cameras, size or self.size).to(device)
            return self.average.pictures(self.reader.vectors(texts), views)


def save_field_pipeline(trainer: FieldTrainer, bank: ThingsBank, folder: Path) -> None:
    """Writes the averaged field, the instances and the words of its bank, the text encoder and its tokenizer as a
    pipeline folder, replacing `folder` in one step."""

    def write(path: Path) -> None:
        shutil.copytree(trainer.reader.folder / "tokenizer", path / "tokenizer")
        trainer.reader.save_encoder(path / "text_encoder")
        write_light(path, FIXED_LIGHT)
        save_field(trainer.average, path / "field")
        save_instances(bank.instances(trainer.reader.vectors, trainer.config.seed), path / "field")

    index = {
        "size": trainer.size,
        "things": {
            word: {"synonyms": synonyms_of(word), "size": size_of(sources[0])}
            for word, sources in bank.things.by_word.items()
        },
        "field": ["threedgen", "TextField"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "BertTokenizer"],
    }
    write_folder(folder, "ThreedgenFieldPipeline", index, write)
