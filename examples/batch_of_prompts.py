"""Many prompts with one warm model: the prior is loaded once, each prompt gets a folder.

python examples/batch_of_prompts.py OUT "a red cube" "a blue chair" ...
"""

import sys
from pathlib import Path

import torch

from threedgen.datasets.splat_files import SplatParameters
from threedgen.export.splat import write_splats
from threedgen.jobs.build import build
from threedgen.loop.distill import distill
from threedgen.recipes.load import load_recipe


def main(out: str, prompts: list[str], steps: int | None = None) -> list[Path]:
    first = load_recipe("text-to-3d", prompt=prompts[0], steps=steps)
    parts = build(first, "cpu")
    files = []
    for index, prompt in enumerate(prompts):
        scene = first.representation.make(index)
        distill(
            scene,
            parts.renderer,
            parts.cameras,
            parts.guidances,
            prompt,
            steps=first.steps,
            seed=index,
            background=parts.background,
            regularizers=parts.regularizers,
        )
        file = Path(out) / f"{prompt.replace(' ', '-')}.ply"
        file.parent.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            write_splats(file, SplatParameters.from_cloud(scene.at(None)), comment=prompt)
        files.append(file)
    return files


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    print(*main(sys.argv[1], sys.argv[2:]), sep="\n")
