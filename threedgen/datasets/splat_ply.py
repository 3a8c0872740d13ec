"""PLY files of Gaussians: the layout of 3D Gaussian Splatting (Kerbl et al. 2023), and PlayCanvas' compact one.

The header is read element by element: any number type, binary of both orders or text, with further properties and
elements, such as the cameras that some programs add. Files of both layouts usually have Y down. A comment in those
of threedgen says which way is up in them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from threedgen.core.errors import UserError
from threedgen.core.spherical_harmonics import DC
from threedgen.datasets.splat_stored import LARGEST_LOGIT, SIGNATURE, Stored, logits, whole_quats

UP_COMMENT = "up: "
_UPS = ("y", "-y", "z", "-z")
_CHUNK = 256  # Gaussians that share bounds in the compact layout
_LONGEST = 1 << 20  # bytes of a header
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_TYPES = {
    **{"char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4"},
    **{"int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2", "int32": "i4", "uint32": "u4"},
    **{"float": "f4", "double": "f8", "float32": "f4", "float64": "f8"},
}
_Columns = Mapping[str, np.ndarray]


class Element(NamedTuple):
    """An element of a header: its name, how many there are, and the types of its properties; "" for a list."""

    name: str
    count: int
    types: dict[str, str]


class Header(NamedTuple):
    """A header: the lines of it, the order of bytes ("<", ">", or "" for text), the elements, and its length."""

    lines: list[str]
    order: str
    elements: list[Element]
    length: int

    def of(self, name: str) -> Element:
        """The element of that name, or an empty one."""
        return next((one for one in self.elements if one.name == name), Element(name, 0, {}))


def read_header(path: Path, data: bytes) -> Header:
    """The header of a PLY file that begins with `data`. Raises UserError if there is none that can be read."""
    newline = next((end for end in (b"\r\n", b"\n", b"\r") if data.startswith(b"ply" + end)), None)
    end = -1 if newline is None else data.find(newline + b"end_header" + newline, 0, _LONGEST)
    if newline is None or end < 0:
        raise UserError(f"{path} is no PLY file, or one without a header")
    lines = data[:end].decode("ascii", errors="replace").split(newline.decode())
    order, elements = None, []
    for line in lines:
        words = line.split()
        if words[:1] == ["format"] and len(words) == 3:
            order = _ORDERS.get(words[1])
        elif words[:1] == ["element"]:
            if len(words) != 3 or not words[2].isdigit():
                raise UserError(f"{path} has a header that cannot be read: '{line[:80]}'")
            elements.append(Element(words[1], int(words[2]), {}))
        elif words[:1] == ["property"]:
            kind = "" if words[1:2] == ["list"] else _TYPES.get(words[1]) if len(words) == 3 else None
            if kind is None or not elements:
                raise UserError(f"{path} has a header that cannot be read: '{line[:80]}'")
            if words[-1] in elements[-1].types:
                raise UserError(f"{path} names a property twice in its header: write the file again")
            elements[-1].types[words[-1]] = kind
    if order is None:
        raise UserError(f"{path} has a header without a format that is known")
    return Header(lines, order, elements, end + len(newline) * 2 + len(b"end_header"))


def holds_gaussians(header: Header) -> bool:
    """Whether the vertices are Gaussians, or at least no corners of faces."""
    types = header.of("vertex").types
    return bool({"f_dc_0", "scale_0", "packed_position"} & set(types)) or not header.of("face").count


def read_ply(path: Path, data: bytes) -> Stored:
    """The Gaussians of a PLY file. data: its content. Raises UserError if it holds none or is cut short."""
    header = read_header(path, data)
    compact = "packed_position" in header.of("vertex").types
    names = ["chunk", "vertex", "sh"] if compact else ["vertex"]
    if not header.of("vertex").count:
        raise UserError(f"{path} holds no 3D Gaussians: it has no vertices")
    columns = _columns(path, header, data, [name for name in names if header.of(name).count])
    read = _compact if compact else _plain
    try:
        return read(columns, header)
    except KeyError as error:
        what = " (it is a mesh)" if header.of("face").count else ""
        raise UserError(f"{path} holds no 3D Gaussians{what}: property {error.args[0]} is missing") from error


def _columns(path: Path, header: Header, data: bytes, wanted: list[str]) -> dict[str, _Columns]:
    """The properties of the wanted elements. Those after the last wanted one are not looked at."""
    found: dict[str, _Columns] = {}
    words = data[header.length :].split() if header.order == "" else []
    place = 0 if header.order == "" else header.length
    for element in header.elements:
        if all(name in found for name in wanted):
            break
        if "" in element.types.values():
            raise UserError(f"{path} holds lists before its Gaussians: write the vertices first")
        width = len(element.types)
        if header.order == "":
            last = place + element.count * width
            if last > len(words):
                raise _cut_short(path, element)
            try:
                table = np.array(words[place:last], np.float64).reshape(element.count, width)
            except ValueError as error:
                raise UserError(f"{path} holds text where numbers should be") from error
            columns = dict(zip(element.types, table.T, strict=True))
        else:
            record = np.dtype([(name, header.order + kind) for name, kind in element.types.items()])
            last = place + element.count * record.itemsize
            if last > len(data):
                raise _cut_short(path, element)
            columns = {}
            if width:
                records = np.frombuffer(data, record, element.count, place)
                columns = {name: records[name] for name in element.types}
        found[element.name] = columns
        place = last
    return found


def _cut_short(path: Path, element: Element) -> UserError:
    return UserError(
        f"{path} is cut short: its header announces {element.count} of '{element.name}', but it holds fewer"
    )


def _stack(columns: _Columns, *names: str) -> np.ndarray:
    """[N, C] in the precision of the file. Raises KeyError for a property that is missing."""
    return np.stack([columns[name] for name in names], axis=1)


def _rest(columns: _Columns) -> np.ndarray:
    """The coefficients above degree 0, [N, K, 3], of properties f_rest_*, which go channel by channel."""
    count = sum(name.startswith("f_rest_") for name in columns) // 3
    if math.isqrt(count + 1) ** 2 != count + 1:
        raise KeyError("f_rest_*")
    if not count:
        return np.zeros((len(next(iter(columns.values()))), 0, 3))
    values = _stack(columns, *(f"f_rest_{number}" for number in range(3 * count)))
    return values.reshape(-1, 3, count).transpose(0, 2, 1)


def _plain(columns: dict[str, _Columns], header: Header) -> Stored:
    own = columns["vertex"]
    opacity = np.array(own["opacity"])
    infinite = np.isinf(opacity)  # the logit of an opacity of exactly 0 or 1
    opacity[infinite] = np.sign(opacity[infinite]) * LARGEST_LOGIT
    return Stored(
        means=_stack(own, "x", "y", "z"),
        quats=_stack(own, "rot_0", "rot_1", "rot_2", "rot_3"),
        log_scales=_stack(own, "scale_0", "scale_1", "scale_2"),
        opacity_logits=opacity,
        sh=np.concatenate([_stack(own, "f_dc_0", "f_dc_1", "f_dc_2")[:, None], _rest(own)], axis=1),
        up=_up_of(header.lines),
        ours=_is_ours(header.lines),
    )


def _compact(columns: dict[str, _Columns], header: Header) -> Stored:
    """PlayCanvas' layout: words of bits within the bounds of a chunk (`threedgen.export.splat_compressed`)."""
    vertex, chunk = columns["vertex"], columns.get("chunk", {})
    position, rotation, scale, color = (
        vertex[f"packed_{name}"].astype(np.uint32) for name in ("position", "rotation", "scale", "color")
    )
    row = np.arange(len(position)) // _CHUNK
    if len(chunk.get("min_x", ())) <= row[-1]:
        raise KeyError("of so many chunks")

    def spread(shares: np.ndarray, kind: str, axes: str) -> np.ndarray:
        low, high = (
            _stack(chunk, *(f"{end}_{kind}{axis}" for axis in axes)).astype(np.float64)
            for end in ("min", "max")
        )
        return low[row] + shares * (high - low)[row]

    tens = _bits(rotation & 0x3FFFFFFF, (10, 10, 10))
    shown = _bits(color, (8, 8, 8, 8))
    # The first files of this layout had no bounds of colours: those of all were 0 and 1.
    tint = spread(shown[:, :3], "", "rgb") if "min_r" in chunk else shown[:, :3]
    higher = _rest(columns["sh"]) if "sh" in columns else np.zeros((len(row), 0, 3))
    return Stored(
        means=spread(_bits(position, (11, 10, 11)), "", "xyz"),
        quats=whole_quats((rotation >> 30).astype(np.int64), (tens - 0.5) * math.sqrt(2.0)),
        log_scales=spread(_bits(scale, (11, 10, 11)), "scale_", "xyz"),
        opacity_logits=logits(shown[:, 3]),
        # A byte stands for the middle of a step of 1/32.
        sh=np.concatenate([((tint - 0.5) / DC)[:, None], (higher + 0.5) / 32.0 - 4.0], axis=1),
        up=_up_of(header.lines),
        ours=_is_ours(header.lines),
    )


def _bits(words: np.ndarray, widths: tuple[int, ...]) -> np.ndarray:
    """The numbers of so many bits in words, from the highest on, as shares of the largest: [N, C]."""
    shifts = [sum(widths[number + 1 :]) for number in range(len(widths))]
    return np.stack(
        [
            (words >> np.uint32(shift) & np.uint32((1 << width) - 1)) / ((1 << width) - 1)
            for shift, width in zip(shifts, widths, strict=True)
        ],
        axis=1,
    )


def _is_ours(lines: list[str]) -> bool:
    return f"comment {SIGNATURE}" in lines


def _up_of(lines: list[str]) -> str:
    """The axis that points up in a file with these lines in its header."""
    prefix = f"comment {UP_COMMENT}"
    told = next((line.removeprefix(prefix) for line in lines if line.startswith(prefix)), "")
    if told in _UPS:
        return told
    return "y" if _is_ours(lines) else "-y"  # our first files did not say it


def names(coefficients: int) -> list[str]:
    """The properties of a file of Gaussians with so many coefficients, in the order in which they are written."""
    rest = [f"f_rest_{i}" for i in range(3 * (coefficients - 1))]
    dc = ["f_dc_0", "f_dc_1", "f_dc_2"]
    scale_and_rotation = ["scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    return ["x", "y", "z", "nx", "ny", "nz", *dc, *rest, "opacity", *scale_and_rotation]
