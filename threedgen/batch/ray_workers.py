"""Workers on Ray: processes on this machine or on a cluster, each of which keeps its priors from run to run.

Ray moves nothing but the pieces and what became of them; the runs are written by the workers, so that the folder of
the batch must be one that all machines have. What a worker was making when it died is given to another one.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from threedgen.batch.making import Work
from threedgen.batch.pieces import FAILED, Make, Outcome, Piece, finish
from threedgen.core import threads, trust
from threedgen.core.errors import UserError
from threedgen.guidance.priors.kept import keep_priors

EXTRA = "pip install threedgen[ray]"
IN_FLIGHT = 2
"""Pieces that a worker has at a time: the one that it makes, and the next one, for which it need not ask then."""
TRIES = 3
"""Workers that may die over a piece before it counts as failed."""
_ANSWER = 5.0  # seconds in which an address must answer
_PATIENCE = 60.0  # seconds without a worker after which the user is told


class Worker:
    """What makes pieces in a process of Ray."""

    def __init__(self, make: Make, count: int, trusted: bool) -> None:
        """count: of threads. trusted: whether run folders may name any class."""
        import torch

        threads.choose(count)
        torch.set_num_threads(count)
        self._make, self._block = make, ExitStack()
        self._block.enter_context(keep_priors())
        self._block.enter_context(trust.runs(trusted))

    def ready(self) -> bool:
        """Answers when the worker has begun."""
        return True

    def finish(self, piece: Piece) -> Outcome:
        return finish(piece, self._make)


@dataclass
class _Seat:
    """A worker, whether it has begun, and the pieces that it has, in their order."""

    handle: Any
    ready: Any
    begun: bool = False
    given: dict[Any, tuple[Piece, int]] = field(default_factory=dict)


class RayWorkers(AbstractContextManager[Work]):
    """Workers on Ray.

    address: of a cluster, ray://HOST:PORT; "" is the one that the environment variable RAY_ADDRESS names, and
    without it a new one on this machine. workers: None: as many as the cluster has room for. gpus: that a worker
    takes, which may be a part of one; None: one if the cluster has any. count: threads of a worker.
    Raises UserError if Ray is not installed, and on entering if the address does not answer.
    """

    def __init__(
        self,
        make: Make,
        address: str = "",
        workers: int | None = None,
        gpus: float | None = None,
        count: int = 1,
    ) -> None:
        if find_spec("ray") is None:
            raise UserError(f"Ray is not installed: {EXTRA}, or leave --on out to work in one process")
        self._make, self._address, self._count = make, address, count
        self._workers, self._gpus = workers, gpus
        self._seats: list[_Seat] = []
        self._exhausted = False  # whether the last piece has been taken

    def __enter__(self) -> Work:
        import ray

        address = self._address or os.environ.get("RAY_ADDRESS", "")
        options: dict[str, Any] = {"log_to_driver": True, "logging_level": "ERROR", "configure_logging": True}
        if address:
            _require_answer(address)
            options["address"] = address
        else:
            cores = max(threads.available_cores(), (self._workers or 1) * self._count)
            options |= {"address": "local", "num_cpus": cores, "include_dashboard": False}
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError, OSError, ImportError) as error:
            where = f"at '{address}'" if address else "on this machine"
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"Ray {where} cannot be used: {reason}; check --on, and its token if it has one"
            ) from error
        room = ray.cluster_resources()
        gpus = (1.0 if room.get("GPU") else 0.0) if self._gpus is None else self._gpus
        fits = room.get("GPU", 0.0) / gpus if gpus else room.get("CPU", 1.0) / self._count
        self._class = ray.remote(Worker).options(num_cpus=self._count, num_gpus=gpus)
        self._seats = [self._seat() for _ in range(self._workers or max(1, int(fits)))]
        return self._work

    def __exit__(self, *_: object) -> None:
        import ray

        for seat in self._seats:
            ray.kill(seat.handle)
        ray.shutdown()

    def _seat(self) -> _Seat:
        handle = self._class.remote(self._make, self._count, trust.allows(""))
        return _Seat(handle, handle.ready.remote())

    def _work(self, pieces: Iterator[Piece]) -> Iterator[tuple[Piece, Outcome]]:
        import ray

        again: deque[tuple[Piece, int]] = deque()
        deaths = 0  # of workers, one after the other, that had not begun
        while True:
            self._give(again, pieces)
            waiting = [ref for seat in self._seats for ref in seat.given]
            if not waiting and not again and self._exhausted:
                return
            waiting += [seat.ready for seat in self._seats if not seat.begun]
            done, _ = ray.wait(waiting, timeout=_PATIENCE)
            if not done and not any(seat.begun for seat in self._seats):
                warnings.warn(
                    "no worker has begun yet: the cluster has too few free processors or GPUs for one",
                    stacklevel=2,
                )
            for ref in done:
                seat = next(seat for seat in self._seats if ref in seat.given or ref == seat.ready)
                try:
                    answer = ray.get(ref)
                except ray.exceptions.RayError as error:
                    deaths = 0 if seat.begun else deaths + 1
                    if deaths >= TRIES:
                        raise UserError(f"the workers of Ray cannot begin: {_reason(error)}") from error
                    yield from self._bury(seat, again, error)
                    break  # what else was done belongs to seats that may be gone
                if ref == seat.ready:
                    seat.begun, deaths = True, 0
                else:
                    yield seat.given.pop(ref)[0], answer

    def _give(self, again: deque[tuple[Piece, int]], pieces: Iterator[Piece]) -> None:
        """Fills the seats, one piece each in turn, first with what was lost."""
        for depth in range(1, IN_FLIGHT + 1):
            for seat in self._seats:
                if not seat.begun or len(seat.given) >= depth:
                    continue
                piece = again.popleft() if again else self._next(pieces)
                if piece is None:
                    return
                seat.given[seat.handle.finish.remote(piece[0])] = piece

    def _next(self, pieces: Iterator[Piece]) -> tuple[Piece, int] | None:
        piece = None if self._exhausted else next(pieces, None)
        self._exhausted = piece is None
        return None if piece is None else (piece, 0)

    def _bury(
        self, seat: _Seat, again: deque[tuple[Piece, int]], error: Exception
    ) -> Iterator[tuple[Piece, Outcome]]:
        """Puts another worker in the place of one that died; its pieces are made by others."""
        import ray

        ray.kill(seat.handle)
        self._seats[self._seats.index(seat)] = self._seat()
        for place, (piece, tries) in enumerate(seat.given.values()):
            tries += place == 0  # it had not begun the others
            if tries < TRIES:
                again.append((piece, tries))
            else:
                yield piece, Outcome(FAILED, f"{TRIES} workers died over it: {_reason(error)}")


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _require_answer(address: str) -> None:
    """UserError for an address at which nobody listens: Ray itself would wait for minutes."""
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if address == "auto":
        return
    if not host or not port:
        raise UserError(
            f"'{address}' is no address of Ray: write ray://HOST:PORT, such as ray://10.0.0.1:10001"
        )
    try:
        socket.create_connection((host, port), _ANSWER).close()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(
            f"nobody answers at '{address}' ({reason}): start Ray there, or correct --on"
        ) from error
