"""Previews: pictures of the scene during the run, previews/step-000100.png with the training views of that step."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.atomic import replacing
from threedgen.core.png import to_uint8
from threedgen.core.schedule import every_steps
from threedgen.core.settings import above, settings
from threedgen.loop.events import Event, StepDone


class Previews:
    """A listener that writes a picture every few steps and after the last one."""

    @settings
    class Config:
        """When previews are written.

        Attributes:
            every (steps): Steps between two previews. A value below 1 is a share of the steps of the stage. One
                more is written after the last step.
        """

        every: Annotated[float, above(0.0)] = 0.1

    def __init__(self, config: Config, folder: Path, total: int) -> None:
        """folder: of the pictures. total: steps of the stage."""
        self.every = every_steps(config.every, total, "preview.every")
        self.folder = folder

    def __call__(self, event: Event) -> None:
        if not isinstance(event, StepDone):
            return
        if event.state.step % self.every == 0 or event.state.step == event.total:
            rows = [torch.cat(list(event.output.rgb.detach()), dim=1)]
            rows += [signal.preview() for signal in event.signals if signal.preview is not None]
            write_rows(self.folder / f"step-{event.state.steps_in_run:06d}.png", rows)


def write_rows(path: Path, rows: list[Float[Tensor, "H W 3"]]) -> None:
    """Writes pictures in [0, 1] one below the other; those narrower than the widest are filled up with white."""
    import imageio.v3 as iio

    width = max(row.shape[1] for row in rows)
    padded = [
        torch.nn.functional.pad(row.cpu().float(), (0, 0, 0, width - row.shape[1]), value=1.0) for row in rows
    ]
    with replacing(path) as temporary:
        iio.imwrite(temporary, to_uint8(torch.cat(padded)))
