"""Compiles a graph of OpenVINO and computes it once, in a process of its own, so that a crash there costs no run.

    python trial.py FOLDER

FOLDER holds network.xml, inputs.npz and trials.json, which maps names to settings of OpenVINO. For each name
NAME.bin, the compiled graph, and then NAME.npy, its output, are written into it. This file imports nothing of
threedgen and no torch, and so starts in a tenth of a second.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    import numpy as np
    import openvino as ov

    core = ov.Core()
    model = core.read_model(folder / "network.xml")
    with np.load(folder / "inputs.npz") as inputs:
        given = [inputs[f"arr_{number}"] for number in range(len(inputs.files))]
    for name, settings in json.loads((folder / "trials.json").read_text(encoding="utf-8")).items():
        compiled = core.compile_model(model, "CPU", settings)
        exported = compiled.export_model()
        (folder / f"{name}.bin").write_bytes(exported if isinstance(exported, bytes) else exported.getvalue())
        np.save(folder / f"{name}.npy", compiled.create_infer_request().infer(given)[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
