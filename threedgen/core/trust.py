"""What the folder of a run may make threedgen do: nothing but read data, unless the user trusts it.

A run may come from anybody. Its recipe may name the classes of threedgen and of installed packages. Any other class
would be imported, which runs it, and a model of the hub would be fetched, so both need `--trust`,
THREEDGEN_TRUST_RUNS=1 in the environment, or the same name from the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from threedgen.core.errors import UserError

OPTION = "--trust"
VARIABLE = "THREEDGEN_TRUST_RUNS"
_EVERY_RUN: ContextVar[bool] = ContextVar("every run is trusted", default=False)
_TYPED: ContextVar[frozenset[str]] = ContextVar("names that the user gave", default=frozenset())
_FOLDER: ContextVar[Path | None] = ContextVar("the run whose models are loaded", default=None)


@contextmanager
def runs(trusted: bool = True) -> Iterator[None]:
    """While it is entered, run folders may name any class and model. False leaves it as it is."""
    token = _EVERY_RUN.set(trusted or _EVERY_RUN.get())
    try:
        yield
    finally:
        _EVERY_RUN.reset(token)


@contextmanager
def typed(texts: Iterable[str]) -> Iterator[None]:
    """While it is entered, run folders may name these classes and models, which the user has named."""
    token = _TYPED.set(_TYPED.get() | frozenset(texts))
    try:
        yield
    finally:
        _TYPED.reset(token)


@contextmanager
def loading(folder: Path | None) -> Iterator[None]:
    """While it is entered, the models that are loaded are those that the run in `folder` names; None: the user."""
    token = _FOLDER.set(folder)
    try:
        yield
    finally:
        _FOLDER.reset(token)


def allows(name: str) -> bool:
    """Whether a run folder may name this class or model, which threedgen does not bring along."""
    return _EVERY_RUN.get() or name in _TYPED.get() or os.environ.get(VARIABLE) == "1"


def check_class(folder: Path, name: str) -> None:
    """Raises UserError if the run in `folder` must not name the class `name`."""
    if not allows(name):
        raise UserError(
            f"the recipe of '{folder}' names the class '{name}', which is not part of threedgen and would be run: "
            f"if you know it, add {OPTION} (or set {VARIABLE}=1)"
        )


def check_fetch(hub_id: str) -> None:
    """Raises UserError if the model is named by a run that must not have it fetched."""
    folder = _FOLDER.get()
    if folder is not None and not allows(hub_id):
        raise UserError(
            f"the recipe of '{folder}' names the hub model '{hub_id}', which is not in the local cache: to fetch "
            f"it, add {OPTION} (or set {VARIABLE}=1)"
        )
