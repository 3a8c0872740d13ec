import dataclasses
import shutil

import pytest
import torch
from latent_scenes import tiny

from threedgen.core.errors import UserError
from threedgen.core.random import generator
from threedgen.ssdnerf.bootstrapping import BootstrapConfig, bootstrapping_loss, boundary_loss
from threedgen.ssdnerf.model import LatentModel
from threedgen.ssdnerf.one_step import FOLDER, OneStep, load_one_step, sample_one_step, train_one_step
from threedgen.ssdnerf.sampling import draw_noise

SHORT = BootstrapConfig(steps=3, batch=2, learning_rate=1e-3)


def _teacher(**changes):
    model = LatentModel(tiny(**changes), seed=1).requires_grad_(False).eval()
    with torch.no_grad():  # a new denoiser predicts 0, and this one must not
        for index, weight in enumerate(model.denoiser.parameters()):
            weight.add_(0.03 * torch.randn(weight.shape, generator=generator(0, "weights", index)))
    return model


def test_a_new_student_is_the_teacher_at_the_boundary():
    teacher = _teacher()
    student = OneStep(teacher, SHORT.t)
    eps = torch.randn(4, *teacher.shape, generator=generator(0, "eps", 0))

    def ask(z, t):
        return teacher.clean(z, t)

    within = eps * 0.3  # the teacher clips at +-2, which the student must learn
    with torch.no_grad():
        assert float(boundary_loss(student, ask, within, SHORT.t[1]).max()) < 1e-10
        other = OneStep(teacher, (SHORT.t[0], 0.5))
        assert float(boundary_loss(other, ask, within, SHORT.t[1]).max()) > 1e-6


def test_a_student_is_loaded_as_it_was_trained_and_is_bounded(tmp_path):
    teacher, seen = _teacher(), []
    student = train_one_step(teacher, tmp_path / FOLDER, SHORT, lambda *row: seen.append(row))
    assert seen[-1][0] == SHORT.steps
    fresh = OneStep(teacher, SHORT.t)
    moved = [
        float((new - old).detach().abs().max())
        for new, old in zip(student.parameters(), fresh.parameters(), strict=True)
    ]
    assert max(moved) > 1e-6
    loaded = load_one_step(teacher, tmp_path)
    for name, value in student.state_dict().items():  # half precision on disk
        torch.testing.assert_close(loaded.state_dict()[name], value, atol=1e-3, rtol=1e-3)
    assert float(sample_one_step(teacher, student, draw_noise(teacher, range(2), 0)).abs().max()) <= 2.0


def test_distillation_lowers_the_bootstrapping_loss(tmp_path):
    teacher = LatentModel(tiny()).requires_grad_(False).eval()
    with torch.no_grad():
        teacher.denoiser.unet.conv_out.bias.add_(
            0.3
        )  # v is constant: the trajectory is a quarter of a circle
    config = BootstrapConfig(steps=25, batch=4, learning_rate=1e-2, warmup=2, delta=0.05)
    eps = torch.randn(16, *teacher.shape, generator=generator(3, "eps", 0))
    t = torch.linspace(0.1, 0.9, 16)

    @torch.no_grad()
    def loss(student):
        ask = (student, lambda z, t: teacher.clean(z, t), eps, t, t - config.delta, teacher.schedule)
        return float(bootstrapping_loss(*ask).mean())

    before = loss(OneStep(teacher, config.t))
    after = loss(train_one_step(teacher, tmp_path, config, lambda *_: None))
    assert after < 0.9 * before


def test_what_cannot_be_distilled_or_loaded_is_reported(tmp_path):
    with pytest.raises(UserError, match="plain diffusion"):
        train_one_step(_teacher(diffusion={"kind": "stage-wise"}), tmp_path, SHORT, lambda *_: None)
    with pytest.raises(UserError, match="threedgen train one-step"):
        load_one_step(_teacher(), tmp_path)
    train_one_step(_teacher(), tmp_path / FOLDER, SHORT, lambda *_: None)
    longer = dataclasses.replace(SHORT, steps=5)
    with pytest.raises(UserError, match=f"other settings.* delete {tmp_path / FOLDER} to start again"):
        train_one_step(_teacher(), tmp_path / FOLDER, longer, lambda *_: None)


def _trained_on(teacher):
    teacher.denoiser.unet.conv_out.bias.data.add_(0.1)
    return teacher


def _of_other_codes(teacher):
    teacher.statistics.center.add_(0.1)
    return teacher


@pytest.mark.parametrize(
    "change", [_trained_on, _of_other_codes, lambda _: _teacher(diffusion={"widths": [16, 16]})]
)
def test_a_student_belongs_to_its_teacher(tmp_path, change):
    """A run has to be distilled again after more training, and after a new start with other networks."""
    train_one_step(_teacher(), tmp_path / FOLDER, SHORT, lambda *_: None)
    load_one_step(_teacher(), tmp_path)
    train_one_step(_teacher(), tmp_path / FOLDER, SHORT, lambda *_: None)
    other = change(_teacher())
    with pytest.raises(UserError, match=f"another model.* delete {tmp_path / FOLDER}"):
        load_one_step(other, tmp_path)
    with pytest.raises(UserError, match=f"another model.* delete {tmp_path / FOLDER}"):
        train_one_step(other, tmp_path / FOLDER, SHORT, lambda *_: None)
    shutil.rmtree(tmp_path / FOLDER)
    train_one_step(other, tmp_path / FOLDER, SHORT, lambda *_: None)
    load_one_step(other, tmp_path)
