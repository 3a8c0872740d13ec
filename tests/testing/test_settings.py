"""The check that every setting is read, over the built-in components and over components that ignore one."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import pytest

from threedgen.core import plugins
from threedgen.core.errors import UserError
from threedgen.core.schedule import Schedule
from threedgen.core.settings import at_least, settings
from threedgen.core.types import Signal
from threedgen.recipes.schema import FIXED
from threedgen.testing import check_guidance, check_renderer, check_representation, check_settings

COMPONENTS = [
    *(target for family in ("representation", "renderer", "cameras", "guidance", "objective")
      for target in plugins.BUILTIN[family].values()),
    *FIXED.values(),
]  # fmt: skip


@pytest.mark.parametrize("target", COMPONENTS)
def test_every_setting_of_the_built_in_components_is_read(target):
    check_settings(plugins.load(target))


@pytest.mark.parametrize("target", COMPONENTS)
def test_a_setting_that_is_added_to_a_built_in_component_is_not_read(target):
    """The check finds the code of each component, and has a reason for every setting that it accepts."""
    component = plugins.load(target)
    schema = getattr(component, "Config", component)
    names = {
        "never_mentioned": 0,
        "__annotations__": {"never_mentioned": int},
        "__module__": schema.__module__,
    }
    more = dataclass(frozen=True)(type("Config", (schema,), names))
    changed = more if schema is component else type(component.__name__, (component,), {"Config": more})
    changed.__module__ = component.__module__
    with pytest.raises(AssertionError, match=r"^settings: nothing reads 'never_mentioned' of threedgen\."):
        check_settings(changed)


@dataclass(frozen=True)
class Weights:
    smooth: Schedule = 0.0


@settings
class Good:
    """Everything is read, each in another way."""

    count: Annotated[int, at_least(1)] = 3
    hidden: int = 8
    spread: float = 0.5
    weights: Weights = field(default_factory=Weights)

    @property
    def doubled(self) -> int:
        return 2 * self.hidden


def read_good(config: Good) -> list[Any]:
    terms = {"smooth": abs}
    chosen = [term(getattr(config.weights, name)) for name, term in terms.items()]
    return [config.count, config.doubled, getattr(config, "spread"), *chosen]  # noqa: B009


def test_a_good_component_passes():
    assert read_good(Good()) == [3, 16, 0.5, 0.0]
    check_settings(Good)


class Component:
    """Its Config has one setting that is only checked, and the class has an attribute of the same name."""

    @dataclass(frozen=True)
    class Config:
        width: int = 4
        only_checked: int = 1

        def __post_init__(self) -> None:
            if self.only_checked < 0:
                raise UserError("only checked")

    def __init__(self, config: Config) -> None:
        self.only_checked = config.width

    def doubled(self) -> int:
        return 2 * self.only_checked


def test_a_check_of_the_value_and_another_attribute_of_that_name_do_not_read_it():
    assert Component(Component.Config()).doubled() == 8
    with pytest.raises(
        AssertionError, match=r"^settings: nothing reads 'only_checked' of test_settings:Component,"
    ):
        check_settings(Component)


def plug_in(folder: Path, body: str, **files: str) -> Any:
    """The class Plug of a package `plug` with these files, imported."""
    (folder / "plug").mkdir()
    for name, text in {"__init__": "", "losses": body, **files}.items():
        (folder / "plug" / f"{name}.py").write_text(text)
    return plugins.load("plug.losses:Plug")


@pytest.fixture
def place(tmp_path, monkeypatch):
    from threedgen.testing import settings as kit

    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "plug"]:
        del sys.modules[name]
    kit._read.cache_clear()
    kit._names_from.cache_clear()


LOSSES = """
from dataclasses import dataclass
from threedgen.core.types import Signal
{imports}

class Plug:
    @dataclass(frozen=True)
    class Config:
        radius: float = 1.0

    def __init__(self, config: Config, device: str = "cpu") -> None:
        self.config = config

    def __call__(self, output, cameras, prompt, step, total, seed):
        {inside}
        return Signal(output.rgb.square().mean())
"""


NESTED = """
import dataclasses
from dataclasses import dataclass, field

@dataclass(frozen=True)
class Rates:
    colors: float = 0.1
    scales: float = 0.2

class Plug:
    @dataclass(frozen=True)
    class Config:
        rates: Rates = field(default_factory=Rates)

    def __init__(self, config: Config) -> None:
        self.count, self.kept = 3, config.rates

    def learning_rates(self):
        return {used}
"""


def test_a_nested_setting_that_nothing_reads_is_named_with_its_path(place):
    plug = plug_in(place, NESTED.format(used="[self.kept.colors]"))
    with pytest.raises(AssertionError, match=r"nothing reads 'rates\.scales' of plug\.losses:Plug"):
        check_settings(plug)


@pytest.mark.parametrize("used", ["dataclasses.asdict(self.kept)", "vars(self.config.rates)"])
def test_a_section_that_is_read_as_a_whole_is_read(used, place):
    check_settings(plug_in(place, NESTED.format(used=used)))


@pytest.mark.parametrize(
    ("imports", "inside"),
    [
        ("from plug.helpers import size", "size(self.config)"),
        ("from .helpers import size", "size(self.config)"),
        ("import plug.helpers", "plug.helpers.size(self.config)"),
        ("", "from plug import helpers; helpers.size(self.config)"),
    ],
)
def test_a_setting_may_be_read_in_another_module_of_the_package(imports, inside, place):
    helpers = "from plug import inner\n\ndef size(config):\n    return inner.size(config)\n"
    body = LOSSES.format(imports=imports, inside=inside)
    check_settings(plug_in(place, body, helpers=helpers, inner="def size(c):\n    return c.radius\n"))


def test_modules_of_other_packages_and_modules_that_are_not_imported_do_not_count(place):
    """`radius` is read in threedgen and in a module of the package that nothing imports."""
    body = LOSSES.format(imports="from threedgen.cameras import orbit", inside="pass")
    plug = plug_in(place, body, unused="def size(config):\n    return config.radius\n")
    with pytest.raises(AssertionError, match=r"nothing reads 'radius' of plug\.losses:Plug"):
        check_settings(plug)
    with pytest.raises(AssertionError, match=r"nothing reads 'radius' of plug\.losses:Plug"):
        check_guidance(lambda: plug(plug.Config()))


def test_a_config_that_is_inherited_from_threedgen_is_read_there(place):
    body = (
        "from threedgen.cameras.orbit import OrbitSampler\n\nclass Plug(OrbitSampler):\n    '''The same.'''\n"
    )
    check_settings(plug_in(place, body))


def test_the_other_checks_include_it():
    class Guide:
        @dataclass(frozen=True)
        class Config:
            unheard: float = 1.0

        def __call__(self, output, cameras, prompt, step, total, seed):
            return Signal(output.rgb.square().mean())

    with pytest.raises(AssertionError, match=r"^settings: nothing reads 'unheard'"):
        check_guidance(Guide)
    with pytest.raises(AssertionError, match=r"^settings: nothing reads 'unheard'"):
        check_renderer(Guide(), lambda: None)

    class Scene:
        @dataclass(frozen=True)
        class Config:
            unheard: float = 1.0

        def __init__(self, config: Config, seed: int = 0) -> None:
            self.seed = seed

    with pytest.raises(AssertionError, match=r"^settings: nothing reads 'unheard'"):
        check_representation(Scene)


def test_a_component_without_source_passes(monkeypatch):
    module: Any = ModuleType("typed_in")
    monkeypatch.setitem(sys.modules, "typed_in", module)
    code = "from dataclasses import dataclass\n\n@dataclass(frozen=True)\nclass Config:\n    lost: int = 0\n"
    exec(code, vars(module))
    check_settings(module.Config)


def test_a_class_without_a_config_is_refused():
    class Bare:
        pass

    with pytest.raises(UserError, match="has no Config dataclass"):
        check_settings(Bare)
