"""What the configs of a pipeline folder may say, checked before any library reads them.

The keys of diffusers and transformers mean the same in all of their classes, so one table serves every part. A key
that is not in the table is left to the class that reads it. Limits lie far above those of every published model:
what is beyond them is damage, and would be paid for in memory and time before anything complains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from threedgen.core.errors import UserError

LARGEST_SIDE = 4096
"""Pixels or latents: the largest side of a sample."""
MOST_STEPS = 100_000
"""The largest number of noise levels of a training."""
_HEADS = 64  # that attend to an added text unless a config of diffusers says otherwise
_DEEPEST = 8  # levels of lists and objects in a config


@dataclass(frozen=True)
class _Rule:
    """what: the values that `fits` allows, in words that follow "not". lists: how many levels of lists of them will
    do, too. null: whether null will do."""

    what: str
    fits: Callable[[Any], bool]
    lists: int = 0
    null: bool = True

    def __call__(self, value: Any) -> bool:
        return self.null if value is None else self._holds(value, self.lists)

    def _holds(self, value: Any, lists: int) -> bool:
        if isinstance(value, list) and lists:
            return bool(value) and all(self._holds(item, lists - 1) for item in value)
        return self.fits(value)


def _whole(low: int, high: int, lists: int = 0, null: bool = True) -> _Rule:
    def fits(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high

    return _Rule(f"a whole number from {low} to {high}", fits, lists, null)


def _number(
    low: float = -1e6, high: float = 1e6, above: bool = False, lists: int = 0, null: bool = True
) -> _Rule:
    def fits(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            return False
        return value > low or not above

    start = f"above {low:g} and up" if above else f"from {low:g}"
    return _Rule(f"a number {start} to {high:g}", fits, lists, null)


def _all_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _all_widths(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_WIDTH.fits(item) for item in value)


_TEXT = _Rule("a text", lambda value: isinstance(value, str))
_TEXTS = _Rule("a list of texts", _all_texts)
_FLAG = _Rule("true or false", lambda value: isinstance(value, bool))
_WIDTH, _COUNT = _whole(1, 1_000_000, lists=1), _whole(1, 100_000, lists=1)
_LENGTH = _whole(1, MOST_STEPS)


def _rules() -> Iterator[tuple[str, _Rule]]:
    for names, rule in (
        ("in_channels latent_channels z_dim num_views", _whole(1, 100_000, null=False)),
        ("out_channels hidden_size intermediate_size projection_dim d_model d_ff d_kv", _WIDTH),
        ("block_out_channels cross_attention_dim encoder_hid_dim time_embedding_dim", _WIDTH),
        ("joint_attention_dim pooled_projection_dim caption_projection_dim", _WIDTH),
        ("projection_class_embeddings_input_dim addition_time_embed_dim", _WIDTH),
        ("attention_head_dim num_attention_heads num_heads norm_num_groups", _COUNT),
        ("addition_embed_type_num_heads num_key_value_heads num_channels", _COUNT),
        ("vocab_size", _whole(1, 100_000_000)),
        ("bos_token_id eos_token_id pad_token_id decoder_start_token_id", _whole(-1, 100_000_000)),
        ("num_hidden_layers num_layers num_single_layers num_decoder_layers", _whole(0, 1000)),
        ("extra_ids", _whole(0, 10_000)),
        ("freq_shift", _number(-1e3, 1e3, null=False)),
        ("max_position_embeddings pos_embed_max_size max_text_seq_length", _LENGTH),
        ("motion_max_seq_length sample_frames num_frames", _LENGTH),
        ("base_image_seq_len max_image_seq_len", _whole(0, 10_000_000, null=False)),
        ("sample_size image_size sample_height sample_width", _whole(1, LARGEST_SIDE, lists=1)),
        ("patch_size patch_size_t scale_factor_spatial scale_factor_temporal", _whole(1, 1024, lists=1)),
        ("temporal_compression_ratio", _whole(1, 1024)),
        ("axes_dims_rope", _Rule("a list of whole numbers above 0", _all_widths)),
        ("layers_per_block transformer_layers_per_block", _whole(0, 1000, lists=2)),
        ("downsample_padding", _whole(0, 1)),
        ("num_train_timesteps", _whole(1, MOST_STEPS, null=False)),
        ("beta_start beta_end", _number(0.0, 1.0, null=False)),
        ("trained_betas", _number(0.0, 1.0, lists=1)),
        ("shift flow_shift snr_shift_scale", _number(0.0, 1e6, above=True, null=False)),
        ("base_shift max_shift", _number(-100.0, 100.0, null=False)),
        ("sigma_min sigma_max", _number(0.0, 1e6)),
        ("scaling_factor", _number(0.0, 1e6, above=True, null=False)),
        ("shift_factor mid_block_scale_factor resnet_out_scale_factor", _number()),
        ("latents_mean latents_std", _number(lists=1)),
        ("norm_eps layer_norm_eps layer_norm_epsilon", _number(0.0, 1.0)),
        ("dropout attention_dropout dropout_rate", _number(0.0, 1.0)),
        ("act_fn hidden_act feed_forward_proj class_embed_type addition_embed_type", _TEXT),
        ("beta_schedule prediction_type timestep_type mid_block_type time_embedding_type", _TEXT),
        ("resnet_time_scale_shift attention_type model_type _class_name", _TEXT),
        ("down_block_types up_block_types architectures", _TEXTS),
        ("flip_sin_to_cos use_linear_projection use_dynamic_shifting use_flow_sigmas", _FLAG),
        ("rescale_betas_zero_snr guidance_embeds use_attention_mask upcast_attention", _FLAG),
    ):
        yield from ((name, rule) for name in names.split())


_RULES = dict(_rules())


def check_config(path: Path, config: Mapping[str, Any]) -> None:
    """Raises UserError for the first key of a config, in it or in an object in it, whose value cannot be meant.

    path: its file, which the message names.
    """
    _check(path, config, _DEEPEST)
    heads = config.get("addition_embed_type_num_heads", _HEADS)
    width = config.get("encoder_hid_dim") or config.get("cross_attention_dim")
    added = config.get("addition_embed_type") == "text"
    if added and isinstance(heads, int) and isinstance(width, int) and width % heads:
        wanted = f"a divisor of the width of its text, {width}"
        raise damaged_key(path, "addition_embed_type_num_heads", heads, wanted)


def _check(path: Path, values: Mapping[str, Any], levels: int) -> None:
    for key, value in values.items():
        rule = _RULES.get(key)
        if rule is not None and not (_within(value, levels) and rule(value)):
            raise damaged_key(path, key, value, rule.what)
        if not _within(value, levels):
            raise damaged_key(path, key, value, "a value with few levels")
        if isinstance(value, Mapping):
            _check(path, value, levels - 1)


def _within(value: Any, levels: int) -> bool:
    """Whether a value has at most so many levels of lists and objects."""
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    return levels >= 0 and all(_within(item, levels - 1) for item in inner)


def damaged_key(path: Path, key: str, value: Any, wanted: str) -> UserError:
    """The error for a key of a config, with its value. wanted: what it should be."""
    # The values of a damaged file can be of any length and depth.
    shown = repr(value) if isinstance(value, str | int | float | None) else f"a {type(value).__name__}"
    shown = shown if len(shown) <= 60 else f"{shown[:60]}..."
    return UserError(
        f"prior '{path.parent.parent}' is damaged, {key} in {path.parent.name}/{path.name} is {shown}, not "
        f"{wanted}: copy it again"
    )
