"""A batch on the real Ray, in small: the script beside this file does it with 200 rows."""

from __future__ import annotations

import pytest


def test_a_worker_a_node_and_the_command_may_die(tmp_path):
    pytest.importorskip("ray", reason="needs threedgen[ray]")
    import batch_on_ray

    found = batch_on_ray.tried(20, tmp_path)
    assert len(found["killed"]) == 3, found
    assert (found["finished once"], found["failed"], found["different from alone"]) == (20, 0, 0), found
    assert found["left behind"] == []
