"""light.json of a prior folder: the one light of all pictures that the model learned from.

It is no part of model_index.json, because diffusers warns of entries there that its pipelines do not know. Real
models, which saw every light, have no such file.
"""

from __future__ import annotations

import json
from pathlib import Path

from threedgen.core.material import Light
from threedgen.guidance.priors.folder.files import read_json
from threedgen.recipes import typed

NAME = "light.json"


def write_light(folder: Path, light: Light) -> None:
    """Writes the light into the folder of a prior."""
    (folder / NAME).write_text(json.dumps(typed.plain(light), indent=1) + "\n", encoding="utf-8")


def read_light(folder: Path) -> Light | None:
    """The light of the folder of a prior; None if it does not say one. Raises UserError for a damaged file."""
    if not (folder / NAME).is_file():
        return None
    return typed.build(Light, read_json(folder / NAME), f"{folder / NAME}: light")
