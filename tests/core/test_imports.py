"""Imports without the collection of garbage."""

from __future__ import annotations

import gc
import sys

from threedgen.core.imports import without_collection


def test_a_block_that_imports_nothing_leaves_garbage_where_it_can_be_found():
    before = gc.get_freeze_count()
    with without_collection():
        import sys as again
    assert again is sys
    assert gc.isenabled()
    assert gc.get_freeze_count() == before


def test_what_was_imported_is_not_looked_at_again(monkeypatch, tmp_path):
    (tmp_path / "never_seen_before.py").write_text("values = [[] for _ in range(10)]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = gc.get_freeze_count()
    try:
        with without_collection():
            import never_seen_before  # pyright: ignore[reportMissingImports]
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()
    del never_seen_before
