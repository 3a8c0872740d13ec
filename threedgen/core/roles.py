"""What components declare of themselves, so that recipes and commands need not guess it from the names of fields.

A component inherits one of these classes and overrides what is true of it. A component that inherits none has the
defaults: it is asked for nothing special. A `..._setting` is the name of the field of the component's Config that
holds the thing; empty if there is none.
"""

from __future__ import annotations

from typing import ClassVar, TypeVar


class RepresentationRoles:
    """moves: its primitive changes with time. learns: it has parameters to optimise. model_setting: the folder of a
    trained model that makes its start. pose_setting: the pose of the given picture, a ReferencePose."""

    moves: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    model_setting: ClassVar[str] = ""
    pose_setting: ClassVar[str] = ""


class CameraRoles:
    """frames_setting: the number of frames of each clip. pose_setting: the pose of the given picture that is among
    the views of every step. filmed: its views include those of a given film."""

    frames_setting: ClassVar[str] = ""
    pose_setting: ClassVar[str] = ""
    filmed: ClassVar[bool] = False


class GuidanceRoles:
    """prior_setting: the frozen diffusion model, a PriorConfig. model_setting: the folder of another trained model.
    picture_setting: the given picture that renders are compared with. film_setting: the same of a film.
    reference_setting: the given picture that the prior is asked to show from other sides, a ReferenceConfig.
    pose_setting: the pose of the given picture, a ReferencePose. single_frames: it judges frames of a clip one by
    one."""

    prior_setting: ClassVar[str] = ""
    model_setting: ClassVar[str] = ""
    picture_setting: ClassVar[str] = ""
    film_setting: ClassVar[str] = ""
    reference_setting: ClassVar[str] = ""
    pose_setting: ClassVar[str] = ""
    single_frames: ClassVar[bool] = False


_Roles = TypeVar("_Roles")


def declared(cls: object, roles: type[_Roles]) -> type[_Roles]:
    """What a component's class declares: the class itself where it inherits `roles`, else the defaults."""
    return cls if isinstance(cls, type) and issubclass(cls, roles) else roles
