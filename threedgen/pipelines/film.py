"""A film says how an asset moves.

The film's cut-outs are written into the run (RUN/film/00000.png, ...), and for recipes that make the asset of a
picture too its first frame's, framed as image-to-3d does it (RUN/reference/picture.png), so a run needs nothing but
its folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from threedgen.cameras.film import FilmPose
from threedgen.core.errors import UserError
from threedgen.core.roles import GuidanceRoles, declared
from threedgen.core.settings import SettingError
from threedgen.datasets.cut_outs import cut_out_of, write_cut_out
from threedgen.datasets.films import Film, film_of, write_film
from threedgen.jobs.run_directory import FILM, PICTURE, REFERENCE
from threedgen.recipes import stages
from threedgen.recipes.layers import RUN, merge
from threedgen.recipes.priors import asks_about_a_picture, guidance_roles, guides_of
from threedgen.recipes.recipe import Recipe

_CAMERAS = {"clips": "filmed-clips", "filmed-clips": "filmed-clips", "filmed-orbit": "filmed-orbit"}
_FPS = 24.0  # frames per second of pictures in a folder, which do not say it


def view_of(text: str | None) -> dict[str, float]:
    """Where a film was taken from: what AZIMUTH[,ELEVATION[,DISTANCE]] sets, in degrees and world units.

    Raises UserError for another form, and for an impossible view.
    """
    if text is None:
        return {}
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not 1 <= len(numbers) <= 3:
        raise UserError(
            f"--video-view '{text}' is not AZIMUTH[,ELEVATION[,DISTANCE]]: write, for example, 30,15"
        )
    said: dict[str, float] = dict(zip(("azimuth", "elevation", "distance"), numbers, strict=False))
    try:
        FilmPose(**said)
    except SettingError as error:
        raise UserError(f"--video-view '{text}': {error}") from error
    return said


def seconds_of(film: Film, seconds: float | None, fps: float | None) -> float:
    """Length of the motion of a film in seconds. UserError if the film's own length differs from `seconds`."""
    if film.seconds is None or film.interval is None:
        return (film.count - 1) / (fps or _FPS) if seconds is None else seconds
    if seconds is not None and abs(seconds - film.seconds) > film.interval:
        raise UserError(
            f"the film lasts {film.seconds:.3g} seconds, not {seconds:g}: leave --seconds out, or pass its frames "
            "as a folder of pictures"
        )
    return film.seconds


def follows_a_film(values: Mapping[str, Any]) -> bool:
    """Whether a recipe's plain values have a guidance that compares with a film."""
    sections = stages.merged(values)
    return any(guidance_roles(guide).film_setting for section in sections for guide in guides_of(section))


def filmed(values: Mapping[str, Any], film: Film, view: Mapping[str, float]) -> dict[str, Any]:
    """A recipe's plain values whose last stage follows the film, and whose guidances by pictures know where these
    were taken from. view: where the film was taken from; what it does not set is as the recipe has it.

    Raises UserError for a recipe whose last stage has no clips.
    """
    cameras = stages.merged(values)[-1].get("cameras", {})
    name = _CAMERAS.get(cameras.get("name", ""))
    if name is None:
        raise UserError(
            "--video: the cameras of the last stage of this recipe make no clips: cameras.name must be clips"
        )
    pose = FilmPose(**{**cameras.get("film", {}), **view})
    values = stages.over_all(values, lambda section: _seen_from(section, pose))
    seen = {"azimuth": pose.azimuth, "elevation": pose.elevation, "distance": pose.distance}
    cameras = {**cameras, "name": name, "pictures": len(film), "film": seen}
    guides = list(stages.merged(values)[-1].get("guidance", ()))
    if all(guide["name"] != "reference-clip" for guide in guides):
        guides.append({"name": "reference-clip", "film": f"{RUN}{FILM}"})
    return stages.over_last(values, lambda own: {**own, "cameras": cameras, "guidance": guides})


def film_and_view(path: str | Path | None, view: str | None) -> tuple[Film | None, dict[str, float]]:
    """The film and its view that --video and --video-view name. Raises UserError, also for a view without a
    film."""
    if path is None:
        if view is not None:
            raise UserError("--video-view says where a film was taken from: name the film with --video")
        return None, {}
    said = view_of(view)
    return film_of(str(path)), said


def write_files(film: Film, recipe: Recipe, folder: Path) -> Mapping[str, Path]:
    """Writes what a run needs of the film below `folder`; {name in the run: where it is}.

    Raises UserError if the film's first picture is too small to make an asset of.
    """
    write_film(folder / FILM, film)
    files = {FILM: folder / FILM}
    settings = [
        (guide, declared(guide.cls, GuidanceRoles).picture_setting)
        for stage in recipe.all_stages
        for guide in stage.guidance
    ]
    if any(setting and str(getattr(guide.config, setting)).endswith(PICTURE) for guide, setting in settings):
        write_cut_out(folder / PICTURE, cut_out_of(folder / FILM / "00000.png"))
        files[REFERENCE] = folder / REFERENCE
    return files


def _seen_from(section: Mapping[str, Any], pose: FilmPose) -> dict[str, Any]:
    result = dict(section)
    angles: dict[str, Any] = {"azimuth": pose.azimuth, "elevation": pose.elevation}
    cameras = section.get("cameras")
    if isinstance(cameras, Mapping) and cameras.get("name") == "reference":
        result["cameras"] = merge(cameras, {"reference": angles})
    guides: Sequence[Mapping[str, Any]] = section.get("guidance", ())
    if guides:
        result["guidance"] = [_told(guide, angles, pose.distance) for guide in guides]
    return result


def _told(guide: Mapping[str, Any], angles: Mapping[str, Any], distance: float) -> dict[str, Any]:
    if not asks_about_a_picture(guide):
        return dict(guide)
    # A cut-out is framed for its own distance, and a film's pictures are laid over what its camera sees.
    far = {"distance": distance} if guidance_roles(guide).film_setting else {}
    return merge(guide, {"reference": {**angles, **far}})
