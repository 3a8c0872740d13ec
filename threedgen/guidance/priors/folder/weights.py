"""The set of weights of a part of a pipeline folder: which of the files that lie side by side are one model.

A download may hold a model several times (whole, fp16, bf16, with and without averaging), or the index of shards
that were left out. One set is chosen here, and exactly that one is checked, counted and loaded.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from threedgen.core.errors import UserError
from threedgen.guidance.priors.folder.files import only_pickles, read_json, require_whole
from threedgen.guidance.priors.folder.single_weights import SOURCE, Source, shapes_of

_STEMS = ("diffusion_pytorch_model", "model")  # of diffusers and of transformers
_PREFERRED = ("", "fp16", "bf16", "fp32")
_HALF = ("fp16", "bf16")
_LAST = ("non_ema",)  # weights before averaging, of which fewer are made for use
_SINGLE = re.compile(r"(?P<stem>[^.]+)(\.(?P<variant>[\w-]+))?\.safetensors")
_INDEX = re.compile(r"(?P<stem>[^.]+)\.safetensors\.index(\.(?P<variant>[\w-]+))?\.json")
_SHARD = re.compile(r"-\d+-of-\d+")


@dataclass(frozen=True)
class WeightSet:
    """stem, variant: of the names of its files, the variant "" for the whole precision. files: that hold it.
    index: the file that lists them, if there are several. prefix: of the names of the weights that are meant."""

    stem: str
    variant: str
    files: tuple[Path, ...]
    index: Path | None = None
    prefix: str = ""

    @property
    def elements(self) -> int:
        """The number of weights, from the headers of the files."""
        shapes = (shape for file in self.files for shape in shapes_of(file, self.prefix).values())
        return sum(math.prod(shape) for shape in shapes)


def weight_set(part: Path) -> WeightSet:
    """The first set of a part that is there with all its files: whole, fp16, bf16 and others in the order of their
    names. Raises UserError if none is, with the file that is missing. Files are not opened, except for indices."""
    source = Source.read(part)
    if source is not None:
        return WeightSet("", "", (Path(source.file),), prefix=source.prefix)
    singles, indices = _found(part)
    missing: Path | None = None
    for variant, stem in sorted({*singles, *indices}, key=lambda key: (*_order(key[0]), key[1])):
        if (variant, stem) in singles:
            return WeightSet(stem, variant, (singles[variant, stem],))
        index = indices[variant, stem]
        shards = [part / name for name in sorted(_shards(index))]
        absent = [shard for shard in shards if not shard.is_file()]
        if not absent:
            return WeightSet(stem, variant, tuple(shards), index)
        missing = missing or absent[0]
    if missing is not None:
        raise UserError(f"prior file '{missing}' is missing: copy the folder again")
    if (pickle := only_pickles(part)) is not None:
        raise pickle
    raise UserError(f"prior part '{part}' has no safetensors weights: copy the folder again")


def require_safe_weights(part: Path) -> None:
    """Checks that every file of the weights of a part is complete.

    Pickle files are refused and never opened, and quantised weights by the name of their library.
    """
    config = read_json(part / "config.json") if (part / "config.json").is_file() else {}
    quantised = config.get("quantization_config")
    if quantised:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        raise UserError(
            f"prior part '{part}' is quantised ({method or 'by an unknown library'}), and only plain weights are "
            "read: take the model in half precision, and limit its memory with prior.memory (docs/priors.md)"
        )
    for file in weight_set(part).files:
        require_whole(file)


def elements_of(part: Path) -> int:
    """The number of weights of a part; 0 for a folder without any, such as that of a tokenizer."""
    singles, indices = _found(part)
    return weight_set(part).elements if singles or indices or (part / SOURCE).is_file() else 0


@contextmanager
def only_chosen(part: Path) -> Iterator[tuple[Path, str | None]]:
    """The folder and the variant that make `from_pretrained` load the chosen set of a part.

    The libraries prefer an index to a single file, and one of them prefers the whole precision to the variant.
    Where a single file lies beside an index, the folder is therefore one of links to the config and that file,
    which is removed afterwards.
    """
    chosen = weight_set(part)
    if chosen.index is not None or not _found(part)[1]:
        yield part, chosen.variant or None
        return
    with tempfile.TemporaryDirectory(prefix="threedgen-") as folder:
        links = Path(folder)
        _link(part / "config.json", links / "config.json")
        _link(chosen.files[0], links / f"{chosen.stem}.safetensors")
        yield links, None


def chosen_names(names: Iterable[str], half: bool = False) -> set[str]:
    """The files of a pipeline, by their paths with /, with one set of weights for each part.

    It is the first that `weight_set` would take. half: one in half precision comes before all others, except for
    the autoencoder, which computes in float32 and is small.
    """
    kept, weights = set(), {}
    for name in names:
        place, _, file = name.rpartition("/")
        index, single = _INDEX.fullmatch(file), _SINGLE.fullmatch(_SHARD.sub("", file))
        match = index or single
        if match is None:
            kept.add(name)
        else:
            weights.setdefault(place, {}).setdefault((match["variant"] or "", match["stem"]), set()).add(name)
    for place, sets in weights.items():
        known = {key: files for key, files in sets.items() if key[1] in _STEMS} or sets
        smaller = {key: files for key, files in known.items() if key[0] in _HALF}
        among = smaller if half and smaller and place != "vae" else known
        kept |= among[min(among, key=lambda key: (*_order(key[0]), key[1]))]
    return kept


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # on Windows links may need a right that the user lacks
        os.link(source.resolve(), target)


def _found(part: Path) -> tuple[dict[tuple[str, str], Path], dict[tuple[str, str], Path]]:
    """The single files and the indices of a part, by variant and stem."""
    singles, indices = {}, {}
    for file in sorted(part.glob("[!.]*")):
        single, index = _SINGLE.fullmatch(file.name), _INDEX.fullmatch(file.name)
        if single and not _SHARD.search(file.name):
            singles[single["variant"] or "", single["stem"]] = file
        if index:
            indices[index["variant"] or "", index["stem"]] = file
    known = [key for key in (*singles, *indices) if key[1] in _STEMS]
    if known:
        singles = {key: file for key, file in singles.items() if key in known}
        indices = {key: file for key, file in indices.items() if key in known}
    return singles, indices


def _order(variant: str) -> tuple[int, str]:
    if variant in _PREFERRED:
        return _PREFERRED.index(variant), ""
    return len(_PREFERRED) + (variant in _LAST), variant


def _shards(index: Path) -> set[str]:
    """The names of the files that the index of a part in several files lists."""
    shards = read_json(index).get("weight_map", {})
    names: list[str] = list(shards.values()) if isinstance(shards, dict) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise UserError(f"prior file '{index}' is damaged, its weight_map is no list of files: copy it again")
    return set(names)
