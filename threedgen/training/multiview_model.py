"""The networks of the embedded multi-view prior, which denoises the views of an object together.

As in MVDream (Shi et al. 2023, arXiv:2308.16512), the self-attention of a UNet runs over all views of a group, and
the camera of each view is added to the time embedding. As in Zero-1-to-3 (Liu et al. 2023, arXiv:2303.11328), a
picture of the object is concatenated to each noisy view, so that the first view, which is from its side, can copy
it and the others attend to that. So is what a finished field of the picture shows from the side of the view (see
`field_guide`): the mean of what may be seen there, to which the output of the UNet is added. The text, the picture,
both or none of them may be given.

Blocks of FOLD x FOLD pixels are channels of one pixel of the UNet, which so costs no more than for pictures of a
quarter of the pixels. It predicts the clean views: noise of independent pixels would have to pass through its
narrow levels, clean pictures do so easily (Li and He 2025, arXiv:2511.13720).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from threedgen.cameras.orbit import RELATIVE_VIEW_FEATURES
from threedgen.core.types import Cameras
from threedgen.guidance.priors import field_guide
from threedgen.guidance.priors.adapters.multiview import set_views
from threedgen.guidance.priors.adapters.pixel_multiview import FOLD, colours_of, read_picture
from threedgen.guidance.priors.picture_field import PictureField, load_picture_field
from threedgen.guidance.priors.radiance_field import save_field
from threedgen.training.caption_words import caption_words
from threedgen.training.prior_model import PriorArchitecture, PriorModel, make_text_encoder, make_unet
from threedgen.training.tokenizer import vocabulary, write_tokenizer

KIND = "ThreedgenMultiViewPipeline"


class MultiViewModel(nn.Module):
    """UNet and text encoder, trained together. Predicts the clean pictures, in [-1, 1].

    architecture: `size` is that of the UNet, and the pictures have FOLD times as many pixels along each side.
    field: shows the object of a picture from other sides; it is not trained.
    """

    def __init__(self, architecture: PriorArchitecture, field: PictureField) -> None:
        super().__init__()
        self.architecture = architecture
        self.text_encoder = make_text_encoder(architecture, caption_words())
        channels = 3 * FOLD**2
        self.unet = make_unet(
            architecture, 2 * channels + field_guide.CHANNELS * FOLD**2, channels, RELATIVE_VIEW_FEATURES
        )
        self.field = copy.deepcopy(field).requires_grad_(False).eval()
        self._joined = 1

    @property
    def size(self) -> int:
        """Width and height of the pictures, in pixels."""
        return FOLD * self.architecture.size

    def guides(
        self, pictures: Float[Tensor, "B 3 H W"], known: Float[Tensor, "B 2"], cameras: Cameras
    ) -> Float[Tensor, "B V 4 H W"]:
        """What the field shows of pictures in [-1, 1]: RGB on white in [-1, 1], and alpha.

        known: elevation in degrees and distance of their cameras. cameras: B V of them, those of a group one after
        the other, with azimuths relative to the picture's.
        """
        decoded = field_guide.decoded_guide(self.field, pictures, known)
        shown = field_guide.guide_views(self.field, decoded, cameras.resized(self.size, self.size))
        return shown.unflatten(0, (len(pictures), -1))

    def forward(
        self,
        noisy: Float[Tensor, "B V 3 H W"],
        timesteps: Int[Tensor, " B"],
        pictures: Float[Tensor, "B 3 H W"],
        kept: Float[Tensor, " B"],
        guides: Float[Tensor, "B V 4 H W"],
        poses: Float[Tensor, "B V 20"],
        tokens: Int[Tensor, "B L"],
        mask: Int[Tensor, "B L"],
    ) -> Float[Tensor, "B V 3 H W"]:
        """The predicted clean views.

        pictures: in [-1, 1]. kept: 1, or 0 for a picture that is withheld. guides: see the method. poses: see
        `relative_view_features`. tokens, mask: of the captions, see `PriorModel`.
        """
        count, views = noisy.shape[:2]
        if views != self._joined:
            set_views(self.unet, views)
            self._joined = views
        states = self.text_encoder(tokens, attention_mask=mask).last_hidden_state
        given = read_picture(pictures, kept).repeat_interleave(views, 0)
        guide = read_picture(guides.flatten(0, 1), kept.repeat_interleave(views))
        both = torch.cat([F.pixel_unshuffle(noisy.flatten(0, 1), FOLD), given, guide], dim=1)
        output = self.unet(
            both,
            timesteps.repeat_interleave(views),
            states.repeat_interleave(views, 0),
            class_labels=poses.flatten(0, 1),
        ).sample
        return F.pixel_shuffle(output + colours_of(guide), FOLD).unflatten(0, (count, views))


def start_from_text_prior(model: MultiViewModel, prior: PriorModel) -> None:
    """Takes over a text prior of the same architecture, which has learnt about words, shapes and noise.

    It then shows each view as the text prior does, enlarged: the inputs for the picture and its pose have no effect
    at first. Of the two outputs of the text prior, mean and variance, only the mean is kept, which is
    v = alpha eps - sigma x; where there is nothing but noise, x = -v.
    """
    weights = model.unet.state_dict()
    for name, value in prior.unet.state_dict().items():
        if name == "conv_in.weight":
            weights[name].zero_()
            weights[name][:, : 3 * FOLD**2] = value.repeat_interleave(FOLD**2, 1) / FOLD**2
        elif name == "class_embedding.linear_1.weight":
            weights[name].zero_()
            weights[name][:, : value.shape[1]] = value
        elif name.startswith("conv_out"):
            weights[name] = -value[:3].repeat_interleave(FOLD**2, 0)
        else:
            weights[name] = value
    model.unet.load_state_dict(weights)
    _take_over_words(model.text_encoder.state_dict(), prior.text_encoder.state_dict())


def _take_over_words(ours: Mapping[str, Tensor], known: Mapping[str, Tensor]) -> None:
    """The text encoder of a smaller vocabulary; words that it does not have keep their random vectors."""
    new, old = vocabulary(caption_words())[0], vocabulary()[0]
    for name, value in known.items():
        if name.endswith("token_embedding.weight"):
            for token, index in old.items():
                ours[name][new[token]] = value[index]
        else:
            ours[name].copy_(value)


def save_multiview_pipeline(model: MultiViewModel, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """Writes `model` as a pipeline folder of diffusers (safetensors in `dtype`), replacing `folder` in one step."""
    from threedgen.training.prior_model import write_folder

    saved = MultiViewModel(model.architecture, model.field)
    saved.load_state_dict(model.state_dict())
    saved.to(dtype)
    saved.unet.register_to_config(num_views=4)
    index = {
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        field_guide.FOLDER: ["threedgen", "PictureField"],
    }

    def write(path: Path) -> None:
        saved.unet.save_pretrained(path / "unet", safe_serialization=True)
        saved.text_encoder.save_pretrained(path / "text_encoder", safe_serialization=True)
        write_tokenizer(path / "tokenizer", caption_words())
        save_field(model.field, path / field_guide.FOLDER, dtype)

    write_folder(folder, KIND, index, write, prediction="sample")


def load_multiview_pipeline(folder: Path) -> MultiViewModel:
    """The model of a folder that `save_multiview_pipeline` wrote, in float32 and frozen. Raises UserError for
    another folder."""
    from threedgen.training.prior_model import fill_networks, for_size, sample_size

    field = load_picture_field(field_guide.folder_of(folder))
    model = MultiViewModel(for_size(sample_size(folder)), field)
    fill_networks(folder, model.unet, model.text_encoder)
    return model.requires_grad_(False).eval()
