"""A student that makes codes in one evaluation, distilled from a trained SSDNeRF without its data
(`bootstrapping`)."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from threedgen.core.errors import UserError
from threedgen.ssdnerf.bootstrapping import BootstrapConfig, Report, distill_one_step
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.sampling import require_plain
from threedgen.training.store import read_model, write_model

DOCUMENT = "one_step.json"
FOLDER = "one-step"


class OneStep(nn.Module):
    """y(eps, t): the signal part of the teacher's trajectory from eps, at t.

    A copy of the teacher's denoiser, asked about pure noise at every t: at t_max it is the teacher, so that the
    boundary condition holds from the start.
    """

    def __init__(self, teacher: LatentModel, t: tuple[float, float]) -> None:
        super().__init__()
        self.t = t
        self.schedule, self.precision = teacher.schedule, teacher.config.precision
        self.denoiser = copy.deepcopy(teacher.denoiser).requires_grad_(True)

    def forward(self, eps: Float[Tensor, "B K R R"], t: Float[Tensor, " B"]) -> Float[Tensor, "B K R R"]:
        edge = torch.tensor([self.t[1]])
        alpha, sigma = float(self.schedule.alpha(edge)), float(self.schedule.sigma(edge))
        half = self.precision == "bf16"
        with torch.autocast(eps.device.type, torch.bfloat16, enabled=half):
            v = self.denoiser(eps, self.schedule.timestep(t))
        return alpha * eps - sigma * v.float()


def train_one_step(teacher: LatentModel, folder: Path, config: BootstrapConfig, report: Report) -> OneStep:
    """Distils a student of a plain diffusion's unconditional samples, and leaves it in `folder`; one that was begun
    there goes on. Raises UserError, also where what is there was begun with other settings or another teacher, such
    as this one before more training."""
    require_plain(teacher, "one-step distillation")
    digest = digest_of(teacher)
    student = OneStep(teacher, config.t).to(teacher.device)

    def ask(z: Tensor, t: Tensor) -> Tensor:
        return teacher.clean(z, t)

    distill_one_step(student, ask, teacher.shape, config, teacher.schedule, report, folder, 250, digest)
    write_model(folder, DOCUMENT, student.state_dict(), {"config": asdict(config), "teacher": digest})
    return student.requires_grad_(False).eval()


def load_one_step(teacher: LatentModel, run: str | Path) -> OneStep:
    """The student in a run's folder. Raises UserError: none there, or one of another teacher, whose codes would lie
    elsewhere than this one's statistics say."""
    folder = Path(run) / FOLDER
    if not (folder / DOCUMENT).is_file():
        raise UserError(f"'{run}' has no one-step sampler: make one with `threedgen train one-step {run}`")

    def make(document: dict[str, Any]) -> OneStep:
        if document.get("teacher") != digest_of(teacher):
            raise UserError(
                f"the one-step sampler of '{run}' was made of another model, or of this one before more training: "
                f"delete {folder}, then `threedgen train one-step {run}`"
            )
        low, high = document["config"]["t"]
        return OneStep(teacher, (low, high))

    return read_model(folder, DOCUMENT, "one-step", make)[0].to(teacher.device)


def digest_of(model: LatentModel) -> str:
    """32 hexadecimal digits that change with any of a model's weights or statistics."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def sample_one_step(
    teacher: LatentModel, student: OneStep, noise: Float[Tensor, "B K R R"]
) -> Float[Tensor, "B K R R"]:
    """Codes in +-2 of noise, such as `sample_codes` begins with: y(eps, t_min)."""
    return teacher.codes_of(student(noise, noise.new_full((len(noise),), student.t[0])))
