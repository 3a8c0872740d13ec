"""How good exported meshes are, in three words instead of several settings. Nothing heavy is imported."""

from __future__ import annotations

from threedgen.core.errors import UserError

QUALITIES: dict[str, dict[str, float]] = {
    "draft": {
        "mesh.resolution": 64,
        "mesh.faces": 2_000,
        "mesh.deviation": 0.002,
        "mesh.outline": 20,
        "mesh.texture_size": 256,
        "moving_faces": 2_500,
    },
    "default": {
        "mesh.resolution": 128,
        "mesh.faces": 8_000,
        "mesh.deviation": 0.001,
        "mesh.outline": 60,
        "mesh.texture_size": 512,
        "moving_faces": 10_000,
    },
    "high": {
        "mesh.resolution": 256,
        "mesh.faces": 50_000,
        "mesh.deviation": 0.0003,
        "mesh.outline": 120,
        "mesh.texture_size": 1024,
        "moving_faces": 20_000,
    },
}
"""Settings of the recipe's `export` by the name of the quality; those of "default" are the defaults."""


def settings_of(quality: str | None) -> list[str]:
    """The settings of a quality as `key=value` under the recipe's `export`; none for None.

    Raises UserError for an unknown name.
    """
    if quality is None:
        return []
    if quality not in QUALITIES:
        raise UserError(f"unknown quality '{quality}': use one of {', '.join(QUALITIES)}")
    return [f"{key}={value}" for key, value in QUALITIES[quality].items()]
