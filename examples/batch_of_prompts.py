"""Many prompts with one warm model: the prior is loaded once, and each prompt becomes a run of its own.

python examples/batch_of_prompts.py OUT "a red cube" "a blue chair" ...
"""

import sys
from pathlib import Path

from threedgen import Run, keep_priors, text_to_3d


def main(out: str, prompts: list[str], **settings) -> list[Run]:
    """One run per prompt below `out`; `settings` as those of `threedgen.text_to_3d`."""
    with keep_priors():
        return [
            text_to_3d(prompt, out=Path(out) / prompt.replace(" ", "-"), seed=seed, **settings)
            for seed, prompt in enumerate(prompts)
        ]


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    for run in main(sys.argv[1], sys.argv[2:]):
        print(run.path / "asset.glb")
