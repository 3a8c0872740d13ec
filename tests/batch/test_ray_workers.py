"""Workers on Ray: who gets how much, and what becomes of the pieces of a worker that dies.

Ray is played by a stand-in here; tests/faults/batch_on_ray.py kills workers of the real one.
"""

from __future__ import annotations

import socket
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from threedgen.batch import ray_workers
from threedgen.batch.pieces import Outcome, Piece
from threedgen.batch.ray_workers import IN_FLIGHT, TRIES, RayWorkers
from threedgen.commands.batch import prepared
from threedgen.commands.main import main
from threedgen.core.errors import UserError


class RayError(Exception):
    """What Ray raises for a worker that is gone."""


class StandIn:
    """The functions of Ray that are used. deadly: names of pieces that kill their worker, and how often. starts:
    whether workers begin at all."""

    def __init__(self, deadly: dict[str, int] | None = None, starts: bool = True) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.__spec__ = ModuleSpec("ray", None)
        self.deadly, self.starts = dict(deadly or {}), starts
        self.workers: list[Any] = []
        self.most = 0  # pieces that one worker had at a time
        self.closed = False
        self.options: dict[str, Any] = {}

    def init(self, **options):
        self.options = options

    def shutdown(self):
        self.closed = True

    def cluster_resources(self):
        return {"CPU": 3.0, "GPU": 0.0}

    def remote(self, cls):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=self._start))

    def _start(self, *_):
        worker = SimpleNamespace(alive=self.starts, queue=[])
        worker.ready = SimpleNamespace(remote=lambda: self._ref(worker, None))
        worker.finish = SimpleNamespace(remote=lambda piece: self._ref(worker, piece))
        self.workers.append(worker)
        return worker

    def _ref(self, worker, piece):
        ref = (id(worker), None if piece is None else piece.path.name, len(self.workers), len(worker.queue))
        worker.queue.append((ref, piece))
        self.most = max(self.most, sum(piece is not None for _, piece in worker.queue))
        return ref

    def _owner(self, ref):
        return next(worker for worker in self.workers if id(worker) == ref[0])

    def wait(self, refs, timeout):
        """The first ref of the last worker that has one: not in the order in which they were asked for."""
        worker = self._owner(refs[-1])
        return [worker.queue[0][0]], []

    def get(self, ref):
        worker = self._owner(ref)
        _, piece = worker.queue.pop(0)
        if piece is not None and self.deadly.get(piece.path.name, 0) > 0:
            self.deadly[piece.path.name] -= 1
            worker.alive = False
        if not worker.alive:
            raise RayError("the worker died")
        return True if piece is None else Outcome("finished")

    def kill(self, worker):
        worker.alive = False


@pytest.fixture
def played(monkeypatch):
    def play(**options) -> StandIn:
        ray = StandIn(**options)
        monkeypatch.setitem(sys.modules, "ray", ray)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        return ray

    return play


def pieces(count: int) -> list[Piece]:
    return [Piece("text-to-3d", {}, Path(f"runs/{number}")) for number in range(count)]


def made(number: int, **options) -> list[tuple[str, str]]:
    with RayWorkers(prepared, **options) as work:
        return sorted((piece.path.name, outcome.state) for piece, outcome in work(iter(pieces(number))))


def test_every_piece_is_made_once_and_no_worker_has_more_than_two(played):
    ray = played()
    assert made(7, workers=2) == [(str(number), "finished") for number in range(7)]
    assert ray.most == IN_FLIGHT == 2
    assert len(ray.workers) == 2
    assert ray.closed
    assert not any(worker.alive for worker in ray.workers)


def test_pieces_are_taken_from_the_table_when_somebody_can_make_them(played):
    played()
    taken = []

    def table():
        for piece in pieces(50):
            taken.append(piece)
            yield piece

    with RayWorkers(prepared, workers=2) as work:
        for ended, _ in enumerate(work(table()), 1):
            assert len(taken) <= ended + 2 * IN_FLIGHT


def test_what_a_dead_worker_had_is_made_by_another(played):
    ray = played(deadly={"1": 1, "4": TRIES - 1})
    assert made(6, workers=2) == [(str(number), "finished") for number in range(6)]
    assert len(ray.workers) == 2 + TRIES


def test_a_piece_that_kills_every_worker_fails_alone(played):
    played(deadly={"1": 99})
    assert made(4, workers=1) == [("0", "finished"), ("1", "failed"), ("2", "finished"), ("3", "finished")]


def test_workers_that_cannot_begin_are_an_error(played):
    ray = played(starts=False)
    with pytest.raises(UserError, match="the workers of Ray cannot begin: the worker died"):
        made(2, workers=1)
    assert ray.closed


def test_there_are_as_many_workers_as_the_cluster_has_room_for(played):
    ray = played()
    made(1)
    assert len(ray.workers) == 3
    ray = played()
    made(1, count=2)
    assert len(ray.workers) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2"], "--workers is for several processes: add --on ray"),
        (["--gpus", "0.5"], "--gpus is for several processes: add --on ray"),
        (["--on", "dask"], "--on dask: write ray, or ray://HOST:PORT of a cluster"),
        (["--on", "ray://"], "--on ray://: write ray, or ray://HOST:PORT"),
        (["--on", "ray://nowhere"], "'ray://nowhere' is no address of Ray: write ray://HOST:PORT"),
        (["--on", "ray://127.0.0.1:x"], "'ray://127.0.0.1:x' is no address of Ray"),
        (["--score", "psnr"], "--score decides between several runs of a row: add --seeds K"),
    ],
)
def test_what_cannot_be_is_one_line(options, message, played, tmp_path, monkeypatch, capsys):
    played()
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a cube\n")
    assert main(["batch", "a.txt", "--out", "out", *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path("out").exists()


def test_an_address_at_which_nobody_listens_is_one_line(played, tmp_path, monkeypatch, capsys):
    played()
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a cube\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        address = f"ray://127.0.0.1:{taken.getsockname()[1]}"
        assert main(["batch", "a.txt", "--out", "out", "--on", address]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"nobody answers at '{address}'" in line
    assert not Path("out").exists()


def test_without_ray_the_extra_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_workers, "find_spec", lambda name: None)
    Path("a.txt").write_text("a cube\n")
    assert main(["batch", "a.txt", "--out", "out", "--on", "ray"]) == 2
    assert "Ray is not installed: pip install threedgen[ray]" in capsys.readouterr().err
