"""Which of the things that a word may mean: codes of the things that a field was trained on, and the choice of one.

A word such as "chair" names things of many shapes. A field that is told the word alone shows their mean, which is
nobody's chair; told a code too, it shows one of them. At the time of use a text chooses among the codes by what the
things were called: p(i | text) is proportional to w_i exp(cos(text, key_i) / TEMPERATURE). The seed draws from it,
so that another seed shows another chair.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.guidance.priors.folder.files import first_line

FILE = "instances.safetensors"
TEMPERATURE = 0.02
"""Of cosines: a thing whose name is farther by this much is drawn e times more rarely."""


@dataclass(frozen=True)
class Instances:
    """The N things that a field was trained on.

    keys: unit vectors, the mean of the vectors of a thing's captions. codes: see `TextField.decode`. weights: how
    often each was drawn in the training, above 0.
    """

    keys: Float[Tensor, "N D"]
    codes: Float[Tensor, "N K"]
    weights: Float[Tensor, " N"]

    def choose(self, vectors: Float[Tensor, "T D"], seed: int) -> Int[Tensor, " T"]:
        """The thing that each text means, the same for the same seed and text."""
        cosines = F.normalize(vectors, dim=1) @ self.keys.T
        chances = torch.softmax(cosines / TEMPERATURE + self.weights.log(), dim=1).double().cumsum(1)
        place = torch.rand((), dtype=torch.float64, generator=generator(seed, "instance", 0))
        return (chances / chances[:, -1:] <= place).sum(1)


def save_instances(instances: Instances, folder: Path) -> None:
    """Writes the file of instances into a folder, in half precision."""
    from safetensors.torch import save_file

    tensors = {name: value.half().contiguous() for name, value in vars(instances).items()}
    save_file(tensors, folder / FILE)


def load_instances(folder: Path, width: int, code: int) -> Instances:
    """The instances in a folder, for texts of `width` and codes of `code` numbers. Raises UserError for another or
    damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / FILE
    try:
        tensors = load_file(path)
        keys, codes, weights = (tensors[name].float() for name in ("keys", "codes", "weights"))
        fits = keys.shape == (len(keys), width) and codes.shape == (len(keys), code)
        if not fits or weights.shape != (len(keys),) or len(keys) == 0:
            raise ValueError("its shapes do not belong together")
        if not all(bool(torch.isfinite(value).all()) for value in (keys, codes, weights.log())):
            raise ValueError("it has numbers that are not finite, or weights that are not above 0")
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UserError(f"'{path}' is damaged ({first_line(error)}): copy the folder again") from error
    return Instances(F.normalize(keys, dim=1), codes, weights)
