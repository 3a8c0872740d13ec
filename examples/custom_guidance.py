"""Your own guidance in 15 lines: Gaussians that learn to look like a bundle of given pictures.

    python examples/custom_guidance.py [OUT.png]

Nothing is registered or subclassed: `distill` takes any object that answers the call. The pictures here are
rendered from a known torus; put your own photographs and cameras in their place.
"""

import sys

import torch

from threedgen.cameras.orbit import OrbitSampler, orbit
from threedgen.core.png import to_uint8
from threedgen.core.types import Signal
from threedgen.datasets import world
from threedgen.export.video import write_contact_sheet
from threedgen.loop.distill import distill
from threedgen.renderers.splatting import SplattingRenderer
from threedgen.representations.gaussians import Config, Gaussians


class MatchPictures:
    """A guidance: how far the renders are from the true pictures of a scene, on white."""

    def __init__(self, scene):
        self.scene = scene

    def __call__(self, output, cameras, prompt, step, total, seed):
        error = self.error(output, cameras)
        return Signal(error.sum() / len(cameras), {"mse": error.mean().detach()})

    def error(self, output, cameras):
        truth, _ = world.render(self.scene, cameras)
        return (output.rgb - truth).square()


def main(out: str = "custom_guidance.png", steps: int = 100) -> float:
    scene = Gaussians(Config(count=2000), seed=0)
    renderer = SplattingRenderer(SplattingRenderer.Config())
    guidance = MatchPictures(world.canonical("torus", "green"))
    distill(
        scene,
        renderer,
        OrbitSampler(OrbitSampler.Config(batch=4, resolution=48)),
        [guidance],
        prompt="a torus, as in the pictures",
        steps=steps,
        background=lambda seed, step: torch.ones(3),
    )
    azimuth = torch.arange(8) * 45.0
    cameras = orbit(azimuth, torch.full((8,), 25.0), torch.full((8,), 2.85), 40.0, 128, 128)
    with torch.no_grad():
        output = renderer(scene.at(cameras.time), cameras, torch.ones(3))
    write_contact_sheet(out, [to_uint8(picture) for picture in output.rgb])
    return guidance.error(output, cameras).mean().item()


if __name__ == "__main__":
    print(f"mean squared error {main(sys.argv[1] if len(sys.argv) > 1 else 'custom_guidance.png'):.5f}")
