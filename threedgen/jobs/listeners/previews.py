"""Pictures of the scene while it grows: previews/step-000100.png, that step's training views in a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.core.schedule import every_steps
from threedgen.loop.events import Event, StepDone


class Previews:
    """Writes a picture every n steps and after the last one."""

    @dataclass(frozen=True)
    class Config:
        """every: steps between previews, or below 1 a share of the run."""

        every: float = 0.1

    def __init__(self, config: Config, folder: Path, total: int) -> None:
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
    """Pictures one below the other, white where they are narrower than the widest."""
    import imageio.v3 as iio

    from threedgen.core.atomic import replacing

    width = max(row.shape[1] for row in rows)
    padded = [
        torch.nn.functional.pad(row.cpu().float(), (0, 0, 0, width - row.shape[1]), value=1.0) for row in rows
    ]
    pixels = (torch.cat(padded).clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).numpy()
    with replacing(path) as temporary:
        iio.imwrite(temporary, pixels)
