"""The pre-training of a text encoder: its pooled state is pulled to what a sentence model says of the same text.

A linear head maps the pooled state to the sentence vector (cosine loss), and the similarities of the centred pooled
states within a batch to those of the centred sentence vectors, so that the pooled state itself can be compared
(Park et al., "Relational knowledge distillation", CVPR 2019). Two more heads read the colours of the first and the
second thing of a caption and a third the sentence vector of its first noun, so that word order survives. All heads
but the first are thrown away.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from threedgen.datasets.things.thing_class import COLORS
from threedgen.training.sentence_model import SENTENCE_WIDTH
from threedgen.training.word_pieces import encode_words, pooled
from threedgen.training.word_texts import TEMPLATES, Caption, worded

NO_COLOR = len(COLORS)
"""Label of a thing whose colour is not named, or that is not there, after those of COLORS."""


@dataclass(frozen=True)
class PretrainingConfig:
    """How an encoder is pre-trained.

    Attributes:
        steps: Number of steps.
        nouns: Nouns of a batch.
        captions: Captions of a batch.
        learning_rate: The greatest rate of AdamW, after `warmup` steps; it falls to 0 as a cosine.
        warmup: Steps in which the rate rises from 0.
        relations: Weight of the loss of the similarities within a batch.
        reading: Weight of the losses of the colours and the first noun of captions.
        seed: Of the first weights and the batches.
    """

    steps: int = 2500
    nouns: int = 192
    captions: int = 96
    learning_rate: float = 3e-3
    warmup: int = 100
    relations: float = 5.0
    reading: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class TextData:
    """Tokens and targets of texts.

    nouns: [T, n, 32], the tokens of each noun in each of T wordings, the last of TEMPLATES last. noun_targets:
    [n, 384], unit vectors. captions: [m, 32]. caption_targets: [m, 384], unit vectors. first_words: [m, 384], the
    unit vectors of the first nouns. colors: [m, 2], the labels of the first colours of both things.
    """

    nouns: Int[Tensor, "T n 32"]
    noun_targets: Float[Tensor, "n 384"]
    captions: Int[Tensor, "m 32"]
    caption_targets: Float[Tensor, "m 384"]
    first_words: Float[Tensor, "m 384"]
    colors: Int[Tensor, "m 2"]


def text_data(
    tokenizers: Sequence[Any],
    nouns: Sequence[str],
    noun_targets: Float[Tensor, "n 384"],
    captions: Sequence[Caption],
    caption_targets: Float[Tensor, "m 384"],
    first_words: Float[Tensor, "m 384"],
) -> TextData:
    """The tokens of nouns and captions beside their vectors, which are as in `TextData`.

    tokenizers: nouns are read in each of TEMPLATES by each of them, captions by the last. With one that knows fewer
    whole words before it, the encoder learns to put words together from pieces too.
    """
    tokens = [
        encode_words(tokenizer, [worded(noun, template) for noun in nouns])[0]
        for tokenizer in tokenizers
        for template in TEMPLATES
    ]
    labels = [[_label(color) for color in caption.colors] for caption in captions]
    return TextData(
        torch.stack(tokens),
        noun_targets,
        encode_words(tokenizers[-1], [caption.text for caption in captions])[0],
        caption_targets,
        first_words,
        torch.tensor(labels).reshape(-1, 2),
    )


class PretrainingHeads(nn.Module):
    """Linear readings of a pooled state: the sentence vector, that of the first noun, and the colours of both
    things."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sentence = nn.Linear(width, SENTENCE_WIDTH)
        self.first_word = nn.Linear(width, SENTENCE_WIDTH)
        self.first_color = nn.Linear(width, NO_COLOR + 1)
        self.second_color = nn.Linear(width, NO_COLOR + 1)


def pretrain(
    encoder: Any,
    data: TextData,
    config: PretrainingConfig,
    progress: Callable[[int, float, float], None] | None = None,
) -> PretrainingHeads:
    """Trains all of an encoder but its frozen table, in place, and gives the heads.

    progress: called after each step with the number of steps that are done, the mean cosine of nouns and that of
    captions.
    """
    torch.manual_seed(config.seed)
    rng = random.Random(config.seed)
    heads = PretrainingHeads(encoder.config.hidden_size)
    trained = [weight for weight in encoder.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(
        [*trained, *heads.parameters()],
        lr=config.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    center = data.noun_targets.mean(0)
    templates, count = data.nouns.shape[:2]
    encoder.train()
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _rate(step, config)
        chosen = torch.tensor([rng.randrange(count) for _ in range(config.nouns)])
        wording = torch.tensor([rng.randrange(templates) for _ in range(config.nouns)])
        told = torch.tensor([rng.randrange(len(data.captions)) for _ in range(config.captions)])
        states = torch.cat([_read(encoder, data.nouns[wording, chosen]), _read(encoder, data.captions[told])])
        targets = torch.cat([data.noun_targets[chosen], data.caption_targets[told]])
        cosines = F.cosine_similarity(heads.sentence(states), targets, dim=-1)
        loss = (1.0 - cosines).mean() + config.relations * _relations(states, targets - center)
        if config.reading:
            loss = loss + config.reading * _reading(heads, states[config.nouns :], data, told)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        if progress is not None:
            split = cosines.detach().split([config.nouns, config.captions])
            progress(step + 1, float(split[0].mean()), float(split[1].mean()))
    encoder.eval()
    return heads


def _label(color: str | None) -> int:
    return NO_COLOR if color is None else list(COLORS).index(color)


def _rate(step: int, config: PretrainingConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup))


def _read(encoder: Any, tokens: Int[Tensor, "B 32"]) -> Float[Tensor, "B 96"]:
    """The pooled states, without the columns that are padding in all rows."""
    return pooled(encoder, tokens[:, : int((tokens != 0).sum(1).max())])


def _relations(states: Float[Tensor, "B 96"], targets: Float[Tensor, "B 384"]) -> Float[Tensor, ""]:
    """The mean squared difference between the cosines of centred states and those of centred targets."""
    ours, theirs = F.normalize(states - states.mean(0), dim=-1), F.normalize(targets, dim=-1)
    return (ours @ ours.T - theirs @ theirs.T).square().mean()


def _reading(
    heads: PretrainingHeads, states: Float[Tensor, "B 96"], data: TextData, told: Int[Tensor, " B"]
) -> Float[Tensor, ""]:
    first, second = data.colors[told].unbind(1)
    colors = F.cross_entropy(heads.first_color(states), first)
    colors = colors + F.cross_entropy(heads.second_color(states), second)
    word = 1.0 - F.cosine_similarity(heads.first_word(states), data.first_words[told], dim=-1)
    return colors + 4.0 * word.mean()
