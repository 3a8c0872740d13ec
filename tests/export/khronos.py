"""The glTF validator of Khronos, which node runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

_VALIDATE = """
const fs = require('fs');
const validator = require(process.argv[1]);
validator.validateBytes(new Uint8Array(fs.readFileSync(process.argv[2])))
  .then(report => console.log(JSON.stringify(report.issues)));
"""


def issues(path: Path) -> dict:
    """The issues that gltf-validator finds; skips the test if node or the package is not installed."""
    here = os.environ.get("THREEDGEN_GLTF_VALIDATOR")
    root = Path(__file__).resolve().parents[2]
    places = [Path(here)] if here else [root / "node_modules" / "gltf-validator"]
    found = next((place for place in places if place.is_dir()), None)
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    if found is None:
        pytest.skip("no gltf-validator: npm install gltf-validator, or set THREEDGEN_GLTF_VALIDATOR to it")
    done = subprocess.run(
        ["node", "-e", _VALIDATE, str(found.resolve()), str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return json.loads(done.stdout)
