"""The text prior that `threedgen train prior --kind field` and `--kind things` write: a field that the text decodes
to, and a denoiser of pixels that sees its picture."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
from jaxtyping import Float
from torch import Tensor

from threedgen.cameras.orbit import view_features
from threedgen.core.errors import UserError
from threedgen.core.settings import settings
from threedgen.core.transfer import sent
from threedgen.core.types import Cameras
from threedgen.guidance.priors.adapters.base import DiffusersPrior, unet_arguments
from threedgen.guidance.priors.base import Condition, Text
from threedgen.guidance.priors.codec import Pixels
from threedgen.guidance.priors.field_denoiser import (
    correction,
    field_answer,
    mean_picture,
    patch_of,
    unet_inputs,
)
from threedgen.guidance.priors.field_scene import Placed, place, relation_of, render_placed
from threedgen.guidance.priors.folder.encoders import pooled_clip
from threedgen.guidance.priors.folder.files import PipelineFolder
from threedgen.guidance.priors.folder.parts import PipelineParts
from threedgen.guidance.priors.folder.text_tokens import reads_words
from threedgen.guidance.priors.instances import Instances, load_instances
from threedgen.guidance.priors.known_words import KnownThing, KnownWords, report, things_of
from threedgen.guidance.priors.radiance_field import as_pictures
from threedgen.guidance.priors.text_field import TextField, load_text_field
from threedgen.recipes import typed

_SCALE = 4.0  # measured
ADVICE = (
    "`threedgen things` lists what it knows; for anything else name a real text-to-image model with --prior FOLDER "
    "or --prior OWNER/NAME (docs/priors.md)."
)
_MOST_TEXTS = 64  # decoded texts in memory


class DiffusersFieldPrior(DiffusersPrior):
    """A TextField rendered from the cameras, its closed-form answer (see `field_denoiser`), and the correction of a
    UNet2DConditionModel if the folder has one.

    A text shows one of the things that it may mean (see `instances`). The UNet sees z and the rendered picture in
    blocks of pixels, attends to the states of the text, and its class embedding takes view_features of the camera
    and the pooled state. The unconditional branch is that of the empty text, whose field is the mean of everything.
    """

    @settings
    class Config:
        """Options of a field of things.

        Attributes:
            instance: Which of the things of that name a text shows: another number may show another one. null shows
                the mean of all of them.
            strict: Refuse a prompt with words that the prior has not learnt, instead of a warning.
        """

        instance: int | None = 0
        strict: bool = False

    parts = ("field", "text_encoder")
    camera_conditioned = True
    needs_cameras = True

    def __init__(
        self,
        *arguments: Any,
        field: TextField,
        instances: Instances,
        options: DiffusersFieldPrior.Config,
        things: Mapping[str, KnownThing],
        patch: int | None,
        reads: Callable[[str], bool],
    ) -> None:
        super().__init__(*arguments)
        self._field, self._patch = field, patch
        self._instances, self._options = instances, options
        self._sizes = {name: thing.size for word, thing in things.items() for name in (word, *thing.synonyms)}
        self.words = KnownWords(list(self._sizes), self._pooled, reads=reads)
        self._placed: dict[Text, list[Placed]] = {}
        self._shown: tuple[Condition, Tensor] | None = None

    @classmethod
    def load(cls, parts: PipelineParts, options: Any) -> DiffusersFieldPrior:
        folder = parts.folder
        field = load_text_field(folder.path / "field")
        sizes = field.architecture
        chosen = {
            "field": field.to(parts.device),
            "instances": load_instances(folder.path / "field", sizes.width, sizes.code),
            "options": options,
            "things": things_of(folder),
            "reads": reads_words(folder.part("tokenizer")),
        }
        process, form = parts.noise_table()
        if form != "v_prediction":
            raise UserError(f"prior '{folder.path}' predicts '{form}', not v: copy the folder again")
        network, patch, size = field, None, folder.index.get("size")
        if has_unet(folder):
            network = parts.network("UNet2DConditionModel", "unet")
            try:
                patch = patch_of(network)
            except ValueError as error:
                raise UserError(f"prior '{folder.path}' is damaged, {error}: copy it again") from error
            size = patch * parts.side("unet")
        if type(size) is not int or not 8 <= size <= 1024:
            raise UserError(f"prior '{folder.path}' does not say how many pixels its pictures have (size)")
        common = (network, Pixels(size), pooled_clip(parts), process, form, _SCALE)
        return cls(*common, **chosen, patch=patch)

    def _pooled(self, texts: Sequence[str]) -> Tensor:
        return self.text(texts)["pooled"]

    def fresh(self) -> Self:
        other = super().fresh()
        other.words = self.words.read_by(other._pooled)
        other._placed, other._shown = {}, None
        return other

    def with_options(self, options: Mapping[str, Any]) -> Self:
        """As `fresh`, with other options. Raises UserError for those that it does not have."""
        other = self.fresh()
        other._options = typed.build(self.Config, options, "options")
        return other

    def prepare(self, prompts: Sequence[Text]) -> None:
        """Says which words of the prompts the prior has not learnt; with the option strict, UserError."""
        texts = [
            text for prompt in prompts for text in ((prompt,) if isinstance(prompt, str) else prompt.texts)
        ]
        unknown = dict.fromkeys(item for text in dict.fromkeys(texts) for item in self.words.check(text))
        super().prepare(prompts)
        if unknown:
            line = f"{report(list(unknown))} {ADVICE}"
            if self._options.strict:
                raise UserError(line)
            warnings.warn(line, stacklevel=2)

    def rendered(self, condition: Condition, device: torch.device) -> Float[Tensor, "B 4 H W"]:
        """The picture of the field of each text from each camera: premultiplied RGB and alpha."""
        if self._shown is None or self._shown[0] is not condition:
            if condition.cameras is None:
                raise UserError("this prior shows things from given cameras: set them")
            cameras = condition.cameras.resized(self.image_size, self.image_size)
            values = cameras.world_from_camera.new_empty(len(cameras), self.image_size**2, 4)
            for text in dict.fromkeys(condition.prompts):
                views = torch.tensor([index for index, t in enumerate(condition.prompts) if t == text])
                values[sent(views, values.device)] = self._views_of(text, cameras[views], device)
            self._shown = condition, as_pictures(values, cameras).to(device)
        return self._shown[1]

    @torch.no_grad()
    def _views_of(self, text: Text, cameras: Cameras, device: torch.device) -> Float[Tensor, "V N 4"]:
        """The pixels of a text, which is decoded once, from some cameras."""
        if text not in self._placed:
            if len(self._placed) > _MOST_TEXTS:
                self._placed.clear()
            self._placed[text] = self._decode(text, device)
        return render_placed(self._field, self._placed[text], cameras.to(device))

    def _decode(self, text: Text, device: torch.device) -> list[Placed]:
        relation = relation_of(text) if isinstance(text, str) else None
        parts = [text] if relation is None else [relation.first, relation.second]
        known = [self.words.in_known_words(part) if isinstance(part, str) else part for part in parts]
        vectors = self.text(known)["pooled"].float()
        codes = None
        if self._options.instance is not None:
            codes = self._instances.codes[self._instances.choose(vectors.cpu(), self._options.instance)]
            codes = codes.to(device)
        decoded = self._field.with_occupancy(self._field.decode(vectors.to(device), codes)).each()
        if relation is None:
            return [Placed(decoded[0])]
        sizes = (self._size_of(relation.first), self._size_of(relation.second))
        first, second = decoded
        return place(self._field, first, second, relation.kind, sizes)

    def _size_of(self, text: str) -> int:
        """How large the known thing is that is nearest to a text (see `scenes.size_of`)."""
        nearest = self.words.things[int(self.words.cosines([text])[0].argmax())]
        return self._sizes[nearest]

    def answer(
        self, network: Any, z: Float[Tensor, "B C h w"], t: Float[Tensor, " B"], condition: Condition
    ) -> Float[Tensor, "B C h w"]:
        mean = mean_picture(self.rendered(condition, z.device), condition.background)
        v = field_answer(z, mean, self.alpha(t), self.sigma(t))
        if self._patch is None:
            return v
        with torch.no_grad():
            arguments = self.arguments(z, t, condition)
        return v + correction(network(**arguments, return_dict=False)[0].to(z.dtype), self._patch)

    def arguments(self, z: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        assert self._patch is not None
        rendered = self.rendered(condition, z.device)
        assert condition.cameras is not None
        text = self.text(condition.prompts)
        mean = mean_picture(rendered, condition.background)
        inputs = unet_inputs(z, mean, rendered, self._patch)
        arguments = unet_arguments(self.dtype, inputs, self.process.timestep(t), text["states"])
        views = view_features(condition.cameras).to(z.device)
        labels = torch.cat([views, text["pooled"].to(device=z.device, dtype=views.dtype)], dim=1)
        arguments["class_labels"] = labels.to(self.dtype)
        return arguments


def has_unet(folder: PipelineFolder) -> bool:
    """Whether a folder with a field has a UNet too."""
    return folder.class_of("unet") is not None
