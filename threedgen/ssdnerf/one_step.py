"""A student that makes codes with one pass of its network. It is distilled from a trained SSDNeRF without data, by
`bootstrapping`."""

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
from threedgen.training.documents import build, section
from threedgen.training.store import read_model, write_model

DOCUMENT = "one_step.json"
FOLDER = "one-step"


class OneStep(nn.Module):
    """y(eps, t): the signal part, at t, of the trajectory of the teacher that starts at eps.

    It is a copy of the denoiser of the teacher that is given pure noise at every t. At t_max it equals the teacher,
    so that the boundary condition holds from the start. t: (t_min, t_max).
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
    """Distils a student of the unconditional samples of a plain diffusion, and writes it into `folder`. A
    distillation that was stopped there continues.

    Raises UserError, also for a distillation in the folder that has other settings or another teacher, such as this
    one before more training.
    """
    require_plain(teacher, "one-step distillation")
    digest = digest_of(teacher)
    student = OneStep(teacher, config.t).to(teacher.device)

    def estimate(z: Tensor, t: Tensor) -> Tensor:
        return teacher.clean(z, t)

    distill_one_step(student, estimate, teacher.shape, config, teacher.schedule, report, folder, 250, digest)
    write_model(folder, DOCUMENT, student.state_dict(), {"config": asdict(config), "teacher": digest})
    return student.requires_grad_(False).eval()


def load_one_step(teacher: LatentModel, run: str | Path) -> OneStep:
    """The student in the folder of a training. Raises UserError if there is none, and for one of another teacher,
    whose codes have other statistics."""
    folder = Path(run) / FOLDER
    if not (folder / DOCUMENT).is_file():
        raise UserError(f"'{run}' has no one-step sampler: make one with `threedgen train one-step {run}`")

    def make(document: dict[str, Any]) -> OneStep:
        if document.get("teacher") != digest_of(teacher):
            raise UserError(
                f"the one-step sampler of '{run}' was distilled from another model, or from this one before more "
                f"training: delete {folder}, then `threedgen train one-step {run}`"
            )
        return OneStep(teacher, build(BootstrapConfig, section(document, "config")).t)

    return read_model(folder, DOCUMENT, "one-step", make)[0].to(teacher.device)


def digest_of(model: LatentModel) -> str:
    """32 hexadecimal digits that change with any weight or statistic of a model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@torch.no_grad()
def sample_one_step(
    teacher: LatentModel, student: OneStep, noise: Float[Tensor, "B K R R"]
) -> Float[Tensor, "B K R R"]:
    """The codes in +-2 that the student makes of noise: y(eps, t_min)."""
    return teacher.codes_of(student(noise, noise.new_full((len(noise),), student.t[0])))
