"""What the classes of components declare, so that recipes and commands need not guess it.

A component inherits one of these classes and overrides what differs for it. A component of a third party may
inherit none of them and have class attributes of the same names; for what it does not have, the defaults below
hold. A `..._setting` is the name of the field of the component's Config that holds the thing; empty if there is
none.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, cast


class RepresentationRoles:
    """What a representation declares.

    renderer: the name of the renderer that draws it if a recipe does not choose one.
    starts_from: the primitives that it can continue as a later stage of a recipe. It then has a classmethod
        `from_asset(config, seed, asset)`, which gets the earlier stage's primitive, detached and on the CPU.
    moves: its primitive changes with time.
    learns: it has parameters to optimise.
    model_setting: the folder of a trained model from which it starts.
    prior_setting: the frozen diffusion model from which it starts, a PriorConfig.
    pose_setting: the pose of the given picture, a ReferencePose.
    asset_setting: the file of the asset whose colours it keeps.
    """

    renderer: ClassVar[str] = ""
    starts_from: ClassVar[tuple[type[Any], ...]] = ()
    moves: ClassVar[bool] = False
    learns: ClassVar[bool] = True
    model_setting: ClassVar[str] = ""
    prior_setting: ClassVar[str] = ""
    pose_setting: ClassVar[str] = ""
    asset_setting: ClassVar[str] = ""


class RendererRoles:
    """What a renderer declares. primitive: the class of the primitive that it draws; None if it does not say."""

    primitive: ClassVar[type[Any] | None] = None


class CameraRoles:
    """What a camera sampler declares. frames_setting: the number of frames in each clip."""

    frames_setting: ClassVar[str] = ""


class GuidanceRoles:
    """What a guidance declares.

    prior_setting: the frozen diffusion model, a PriorConfig.
    model_setting: the folder of another trained model.
    picture_setting: the given picture that renders are compared with.
    film_setting: the given film that renders are compared with.
    reference_setting: the given picture that the prior is asked to show from other sides, a ReferenceConfig.
    pose_setting: the pose of the given picture, a ReferencePose.
    single_frames: it judges the frames of a clip one by one.
    """

    prior_setting: ClassVar[str] = ""
    model_setting: ClassVar[str] = ""
    picture_setting: ClassVar[str] = ""
    film_setting: ClassVar[str] = ""
    reference_setting: ClassVar[str] = ""
    pose_setting: ClassVar[str] = ""
    single_frames: ClassVar[bool] = False


_Roles = TypeVar("_Roles")


class _Foreign:
    """What a class declares that inherits no roles: its class attributes of the same names, over the defaults."""

    def __init__(self, cls: type, roles: type) -> None:
        self._cls, self._roles = cls, roles

    def __getattr__(self, name: str) -> Any:
        default = getattr(self._roles, name)  # an AttributeError for what is no role
        return getattr(self._cls, name, default)


def declared(cls: object, roles: type[_Roles]) -> type[_Roles]:
    """What a component's class declares: the class itself if it inherits `roles`, else its class attributes of the
    same names, over the defaults. Anything but a class has the defaults."""
    if not isinstance(cls, type):
        return roles
    return cls if issubclass(cls, roles) else cast(type[_Roles], _Foreign(cls, roles))
