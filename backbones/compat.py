"""Every private or undocumented part of torch and timm that this package uses, each behind one function.

Names with a leading underscore are private, and so are modules and attributes that the public documentation does not
list. A release may change them without notice. `tests/backbones/test_compat.py` checks each function here. Its failure
messages name what to look at in the new release. No other module of this package uses such parts, except `positions`,
which overrides methods of timm's transformers.

The functions import timm when they are called, which takes a second the first time.
"""

from __future__ import annotations

import contextlib
import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves, tree_map_only

if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def tensors_in(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order.

    Uses `torch.utils._pytree.tree_leaves`: torch's own functions take arguments in such containers, named tuples and
    the output classes of other libraries included, and torch has no public function that walks through them.
    """
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def map_tensors(change: Callable[[Tensor], Tensor], values: Any) -> Any:
    """The same nested tuples, lists and dicts with `change` applied to every tensor.

    Uses `torch.utils._pytree.tree_map_only`, for the reason given in `tensors_in`.
    """
    return tree_map_only(Tensor, change, values)


def multiply_adds(network: nn.Module, images: Tensor) -> int:
    """Multiply-adds of one forward pass. Works on the meta device, where nothing is computed.

    Uses `torch.utils.flop_counter.FlopCounterMode`, which the documentation lists without describing it. It counts two
    operations per multiply-add, and counts nothing in kernels that it does not know. Attention is therefore computed by
    matrix products here, whichever kernel it uses otherwise.
    """
    from torch.utils.flop_counter import FlopCounterMode

    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return counter.get_total_flops() // 2


def relu6_backward(gradient: Tensor, output: Tensor) -> Tensor:
    """Gradient of ReLU6 with respect to its input, from the gradient of its output and the output itself.

    Uses the operator `aten.hardtanh_backward`. Its signature asks for the input. The output can be passed
    instead, because the two are equal wherever the gradient is not zero.
    """
    return torch.ops.aten.hardtanh_backward(gradient, output, 0, 6)


def silu_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of `F.silu(x)` with respect to x, from the gradient of the output. Uses `aten.silu_backward`."""
    return torch.ops.aten.silu_backward(gradient, x)


def batch_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm in training mode: its output, and the mean and inverse standard deviation of the batch by channel.

    Updates `running_mean` and `running_var` in place. Uses `torch.native_batch_norm`, because `F.batch_norm` does not
    return the statistics that `batch_norm_backward` needs.
    """
    return torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)


def batch_norm_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    inverse_std: Tensor,
    eps: float,
    needed: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of batch norm in training mode with respect to x, weight and bias, as far as they are `needed`.

    `mean` and `inverse_std` come from `batch_norm`. Uses the operator `aten.native_batch_norm_backward`.
    """
    found = torch.ops.aten.native_batch_norm_backward(
        gradient, x, weight, None, None, mean, inverse_std, True, eps, list(needed)
    )
    in_x, in_weight, in_bias = (value if need else None for value, need in zip(found, needed, strict=True))
    return in_x, in_weight, in_bias


def create_features(name: str, **options: Any) -> nn.Module:
    """The timm network `name` as a feature extractor; `options` are those of `timm.create_model`.

    Passes `strict_img_size=False` to networks with a fixed input size. Swin, for example, then accepts images of any
    size. The option is undocumented and not every network has it; those that do not are created without it.
    """
    import timm

    config = pretrained_config(name)
    if config is not None and config.fixed_input_size:
        with contextlib.suppress(TypeError):
            return timm.create_model(name, features_only=True, strict_img_size=False, **options)
    return timm.create_model(name, features_only=True, **options)


def create_dynamic(name: str, **options: Any) -> nn.Module | None:
    """The whole transformer `name` of timm for images of any size; None if timm supports one size only.

    Passes `dynamic_img_size` and `dynamic_img_pad`: position embeddings are then resampled to the size of the image in
    each call, and images are padded to a multiple of the patch. The options are undocumented, and not every network has
    them.
    """
    import timm

    try:
        return timm.create_model(name, dynamic_img_size=True, dynamic_img_pad=True, **options)
    except TypeError:
        return None


def converted_by_timm(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A state dict with timm's names and the shapes of `network`, from a file of the network's authors.

    Uses `checkpoint_filter_fn` of the module of timm that has the network's class, which `timm.create_model` calls for
    published weights. It renames tensors and resamples position embeddings and patch embeddings. Returns None if the
    module has none, or if it cannot read the file.
    """
    module = next(kind.__module__ for kind in type(network).__mro__ if kind.__module__.startswith("timm."))
    convert = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    try:
        return None if convert is None else convert(dict(state), network)
    except (
        KeyError,
        ValueError,
        RuntimeError,
        AttributeError,
        AssertionError,
        IndexError,
    ):  # a file of another network
        return None


def relative_log_coordinates(size: tuple[int, int], pretrained_size: tuple[int, int], mode: str) -> Tensor:
    """(2 * rows - 1, 2 * columns - 1, 2) offsets between patches on a logarithmic scale, for a grid of `size` patches.

    Uses `timm.layers.pos_embed_rel.gen_relative_log_coords`, which the documentation does not list.
    """
    from timm.layers.pos_embed_rel import gen_relative_log_coords

    return gen_relative_log_coords(size, pretrained_size, mode)


def feature_indices(extractor: nn.Module) -> tuple[int, ...]:
    """The `out_indices` that timm uses for an extractor's maps, finest first: `create_model` accepts them again.

    Reads `feature_info.out_indices`. The documentation describes `feature_info.channels()` and `.reduction()` only.
    """
    info: Any = extractor.feature_info
    return tuple(info.out_indices)


def architecture_of_extractor(extractor: nn.Module) -> str | None:
    """The name that a timm extractor was created with; None if it does not have it.

    Reads the key `architecture` of the undocumented attribute `pretrained_cfg`, a dictionary.
    """
    import timm

    config = getattr(extractor, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    return name if isinstance(name, str) and timm.is_model(name) else None


def returns_channels_last(extractor: nn.Module) -> bool:
    """Whether the maps of a timm extractor have the shape (B, H, W, C), as those of Swin have.

    Reads the undocumented attribute `output_fmt`, which extractors of (B, C, H, W) maps may lack.
    """
    from timm.layers import Format

    return getattr(extractor, "output_fmt", None) == Format.NHWC


def whole_network_keys(extractor_keys: Iterable[str], network_keys: Iterable[str]) -> dict[str, str]:
    """State-dict keys of a timm extractor -> the keys of the same tensors in the whole network.

    timm's extractor classes wrap the network as `model` or `body`, or keep its modules one level up under flattened
    names: `features.0.weight` becomes `features_0.weight`. A key that the network lacks maps to itself.
    """
    network_keys = list(network_keys)
    whole = {key.replace(".", "_", 1): key for key in network_keys} | {key: key for key in network_keys}
    return {
        key: whole.get(key) or whole.get(key.removeprefix("model.").removeprefix("body."), key)
        for key in extractor_keys
    }


def unflattened(key: str) -> str:
    """A key of a timm extractor as in the whole network: `features_0.weight` -> `features.0.weight`.

    For extractors whose whole network is not known. Keys of modules that timm did not move up are returned unchanged.
    """
    return re.sub(r"^(\w+)_(\d+)\.", r"\1.\2.", key)


def layer_groups(network: nn.Module) -> dict[str, int] | None:
    """The layer of each parameter of a timm network by name, counted from the input. None if timm does not know them.

    Uses the undocumented method `group_matcher`, by which timm's layer-wise learning rate decay finds layers. Some
    networks lack it, and that of CAFormer and its relatives raises an error.
    """
    matcher = getattr(network, "group_matcher", None)
    if matcher is None:
        return None
    from timm.models import group_parameters

    try:
        return group_parameters(network, matcher(coarse=False), reverse=True)
    except (TypeError, ValueError, AttributeError):
        return None


def undecayed_names(network: nn.Module) -> set[str]:
    """Names of the parameters of a timm network that its published trainings do not decay, as patterns of `fnmatch`.

    Uses the undocumented method `no_weight_decay`, which timm's optimisers call.
    """
    method = getattr(network, "no_weight_decay", None)
    return set() if method is None else set(method())


def activation_of(norm: nn.Module) -> nn.Module:
    """The activation that is part of a timm batch norm, or the identity: torch's own batch norms have none.

    Reads the children of `timm.layers.BatchNormAct2d`: a dropout and an activation, each an identity if unused.
    """
    used = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    return nn.Sequential(*used) if used else nn.Identity()


def pretrained_config(name: str) -> PretrainedCfg | None:
    """The entry in timm for the published weights of `NAME` or `NAME.TAG`; None for a name that timm does not have.

    The documentation names the class, but few of its fields. This package reads `tag`, `url`, `hf_hub_id`, `license`,
    `has_weights`, `fixed_input_size`, `input_size`, `mean`, `std`, `interpolation` and `crop_pct`.
    """
    import timm

    return timm.get_pretrained_cfg(name)


def weights_folder() -> Path:
    """The folder where timm looks for downloaded weight files; created if absent.

    Uses `timm.models._hub.get_cache_dir`. timm has no public function for it.
    """
    from timm.models._hub import get_cache_dir

    return Path(get_cache_dir())


def python_3_name(module: str, name: str) -> str:
    """MODULE.NAME, as Python 3 calls it, of an object that a pickle names.

    Pickles of protocol 2, which torch writes, use Python 2's names. `_compat_pickle` has the standard library's tables.
    """
    return ".".join(NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name))
