"""The field of the text prior: its training resumes to the same bits, and its folder is a prior."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import pytest
import torch

from threedgen.cameras.orbit import orbit
from threedgen.commands.main import main
from threedgen.core.errors import UserError
from threedgen.datasets.world import FIXED_LIGHT
from threedgen.guidance.priors.base import Condition
from threedgen.guidance.priors.field_scene import place, render_placed
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.light import read_light
from threedgen.guidance.priors.known_words import things_of
from threedgen.guidance.priors.load import PriorConfig, load_folder
from threedgen.guidance.priors.radiance_field import as_pictures
from threedgen.guidance.priors.text_field import load_text_field
from threedgen.training.config import FieldTrainingConfig
from threedgen.training.field_report import field_errors, make_examples, write_field_report
from threedgen.training.field_trainer import FieldTrainer, save_field_pipeline
from threedgen.training.text_reader import TextReader
from threedgen.training.things_bank import Shares, ThingsBank
from threedgen.training.things_store import cameras_of
from threedgen.training.word_pieces import make_word_encoder, write_word_tokenizer

SIZE = 16
MARKS = ["[PAD]", *(f"[unused{i}]" for i in range(99)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["a", "red", "blue", "green", "apple", "mug", "photo", "of"]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a text encoder with few words and random weights."""
    folder = tmp_path_factory.mktemp("words")
    pieces = [*MARKS, *WORDS]
    write_word_tokenizer(folder / "tokenizer", pieces)
    torch.manual_seed(0)
    make_word_encoder(0.3 * torch.randn(len(pieces), 16)).save_pretrained(folder / "text_encoder")
    return folder


@pytest.fixture(scope="module")
def bank() -> ThingsBank:
    return ThingsBank(
        SIZE,
        0,
        ["apple", "mug"],
        None,
        instances=3,
        views=6,
        shares=Shares(pairs=0.0, counts=0.0, shapes=0.0),
    )


def trainer(words: Path, folder: Path, steps: int = 6) -> FieldTrainer:
    config = FieldTrainingConfig(steps=steps, batch=6, rays=24, warmup=2, learning_rate=2e-3)
    return FieldTrainer(config, TextReader(words), SIZE, folder)


def test_a_stopped_training_ends_with_the_same_bits(words: Path, bank: ThingsBank, tmp_path: Path) -> None:
    whole = trainer(words, tmp_path / "whole")
    whole.fit(bank, 3, lambda loss, saved: None)
    first = trainer(words, tmp_path / "parts")
    for _ in range(3):
        first.train_step(bank.batch(6, 0, first.step))
    first.save()
    second = trainer(words, tmp_path / "parts")
    assert second.resume()
    second.fit(bank, 3, lambda loss, saved: None)
    assert second.step == 6
    for name, value in whole.average.state_dict().items():
        assert torch.equal(value, second.average.state_dict()[name]), name


def test_training_lowers_the_error_and_the_folder_is_a_prior(
    words: Path, bank: ThingsBank, tmp_path: Path
) -> None:
    taught = trainer(words, tmp_path, 60)
    examples = make_examples(bank.things, SIZE)
    before = field_errors(taught, examples)["true"]
    taught.fit(bank, 60, lambda loss, saved: None)
    write_field_report(taught, examples)
    assert field_errors(taught, examples)["true"] < 0.5 * before
    assert (tmp_path / "samples.png").is_file()
    save_field_pipeline(taught, bank, tmp_path / "pipeline")
    prior = load_folder(tmp_path / "pipeline", config=PriorConfig(options={"instance": None}))
    assert (prior.image_size, prior.camera_conditioned) == (SIZE, True)
    full = torch.ones(2)
    views = torch.stack([torch.tensor([20.0, 110.0]), 20.0 * full, 2.85 * full], dim=1)
    shown = taught.pictures_of(["a mug"] * 2, views)
    azimuth, elevation, distance = views.unbind(1)
    cameras = orbit(azimuth, elevation, distance, 40.0, SIZE, SIZE)
    blue = torch.tensor([[0.0, 0.0, 1.0]] * 2)
    condition = Condition(("a mug",) * 2, cameras=cameras, background=blue)
    noise = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    picture = prior.decode(prior.predict(noise, torch.tensor([0.995, 0.995]), condition).x0)
    expected = shown[:, :3] + (1.0 - shown[:, 3:]) * blue[:, :, None, None]
    # Nearly all is noise, so the prediction is the mean picture, in half precision and without empty cells.
    torch.testing.assert_close(picture.permute(0, 3, 1, 2), expected, atol=0.06, rtol=0.0)


def test_the_prior_shows_the_thing_of_its_number(words: Path, bank: ThingsBank, tmp_path: Path) -> None:
    taught = trainer(words, tmp_path, 40)
    taught.fit(bank, 40, lambda loss, saved: None)
    save_field_pipeline(taught, bank, tmp_path / "pipeline")
    views = torch.tensor([[20.0, 20.0, 2.85]])
    condition = Condition(("a mug",), cameras=cameras_of(views, SIZE))
    shown = {}
    for number in range(6):
        prior = load_folder(tmp_path / "pipeline", config=PriorConfig(options={"instance": number}))
        shown[number] = prior.rendered(condition, torch.device("cpu"))
    table = bank.instances(taught.reader.vectors, 0)
    vector = taught.reader.vectors(["a mug"])
    for number in range(6):
        code = table.codes[table.choose(vector, number)]
        expected = taught.average.pictures(vector, cameras_of(views, SIZE), codes=code)
        torch.testing.assert_close(shown[number], expected, atol=0.06, rtol=0.0)
    assert max(float((shown[0] - other).abs().max()) for other in shown.values()) > 0.01


def test_the_prior_asks_for_cameras(words: Path, bank: ThingsBank, tmp_path: Path) -> None:
    save_field_pipeline(trainer(words, tmp_path), bank, tmp_path / "pipeline")
    prior = load_folder(tmp_path / "pipeline", torch.device("cpu"))
    with pytest.raises(UserError, match="cameras"):
        prior.predict(torch.zeros(1, 3, SIZE, SIZE), torch.tensor([0.5]), Condition(("a mug",)))


@pytest.fixture(scope="module")
def pipeline(words: Path, bank: ThingsBank, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a field that was not trained."""
    folder = tmp_path_factory.mktemp("field")
    save_field_pipeline(trainer(words, folder), bank, folder / "pipeline")
    return folder / "pipeline"


def test_words_that_were_not_learnt_are_named_before_the_first_step(pipeline: Path) -> None:
    prior = load_folder(pipeline)
    prior.words.cosines = lambda texts: torch.full((len(texts), len(prior.words.things)), 0.1)
    with pytest.warns(UserWarning, match=r"has not learnt 'zebra' \(it knows .*--prior FOLDER"):
        prior.prepare(["a zebra", "a red apple", ""])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior.prepare(["a red apple", "two mugs", ""])
    strict = load_folder(pipeline, config=PriorConfig(options={"strict": True}))
    strict.words.cosines = prior.words.cosines
    with pytest.raises(UserError, match="'zebra'"):
        strict.prepare(["a zebra"])


def test_a_folder_says_the_light_of_its_things(pipeline: Path) -> None:
    assert read_light(pipeline) == FIXED_LIGHT


def test_an_index_without_things_is_refused(pipeline: Path, tmp_path: Path) -> None:
    shutil.copytree(pipeline, tmp_path / "copy")
    index = tmp_path / "copy" / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    for things in (None, {}, ["apple"], {"apple": {"synonyms": []}}, {"apple": {"synonyms": [], "size": 9}}):
        index.write_text(json.dumps({**content, "things": things}), encoding="utf-8")
        with pytest.raises(UserError, match="which things it knows"):
            load_folder(tmp_path / "copy")


def test_the_command_lists_the_things_of_a_prior(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["things", "--prior", str(pipeline)]) == 0
    assert capsys.readouterr().out.startswith("apple, mug\n2 things.")
    assert main(["things", "two red apples and a mug", "--prior", str(pipeline)]) == 0
    assert capsys.readouterr().out == "This prior knows all words of the prompt.\n"


def test_a_scene_of_two_is_placed_by_the_sizes_of_both(pipeline: Path) -> None:
    prior = load_folder(pipeline, config=PriorConfig(options={"instance": None}))
    cameras = cameras_of(torch.tensor([[0.0, 10.0, 2.85]]), SIZE)
    condition = Condition(("a red apple beside the mug",), cameras=cameras)
    shown = prior.rendered(condition, torch.device("cpu"))
    field = load_text_field(pipeline / "field")
    decoded = field.with_occupancy(field.decode(prior.text(["a red apple", "the mug"])["pooled"]))
    things = things_of(PipelineFolder(pipeline))
    sizes = (things["apple"].size, things["mug"].size)
    placed = place(field, *decoded.each(), "beside", sizes)  # pyright: ignore[reportCallIssue]
    with torch.no_grad():
        torch.testing.assert_close(shown, as_pictures(render_placed(field, placed, cameras), cameras))


def test_a_folder_without_a_text_encoder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no text_encoder"):
        TextReader(tmp_path)
