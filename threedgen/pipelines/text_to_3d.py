"""From a prompt to an asset."""

from __future__ import annotations

from threedgen.core.errors import UserError
from threedgen.pipelines.image_to_3d import PICTURE
from threedgen.recipes.layers import RUN
from threedgen.recipes.recipe import Recipe


def require_no_picture(recipe: Recipe, source: str) -> None:
    """UserError for a recipe that needs the picture or the film that only other commands put into a run."""
    for part in recipe.parts:
        if any(getattr(guide.config, "film", None) for guide in part.guidance):
            raise UserError(
                f"recipe '{source}' follows a film: threedgen text-to-4d PROMPT --video FILM --recipe {source}"
            )
    for part in recipe.parts:
        for guide in part.guidance:
            if getattr(guide.config, "image", None) == RUN + PICTURE:
                raise UserError(
                    f"recipe '{source}' begins with a picture: threedgen image-to-3d PICTURE --recipe {source}"
                )
