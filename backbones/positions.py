"""Position embeddings of timm's transformers with a fixed image size, resampled to the size of the image in each call.

The parameters keep the size of the published weights, so that files with them load unchanged. timm's own
`set_input_size` replaces the parameters by resampled ones, which allows one image size until the next call. The
resampling is the same, so the outputs are equal.

timm has no public way to add this. The classes of its modules are therefore replaced by subclasses, which override
the one method or attribute that depends on the image size.
"""

from __future__ import annotations

import numpy as np
import torch
from timm.layers import PatchEmbed, RelPosBias, RelPosMlp, gen_relative_position_index, resample_abs_pos_embed
from timm.models.beit import Attention, Beit
from timm.models.cait import Cait
from torch import Tensor, nn

from backbones.compat import relative_log_coordinates


class Grid:
    """The number of patches of the images in the current call. All modules of a network share one.

    Attributes:
        size: rows and columns of patches.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def index(self, class_token: bool, device: torch.device) -> Tensor:
        """(N, N) index of the relative position of each pair of tokens, see `gen_relative_position_index`.

        It is computed in each call: a tensor that was stored during tracing or in inference mode cannot be used later.
        """
        return gen_relative_position_index(self.size, class_token=class_token, device=device)


def accept_any_size(network: nn.Module) -> None:
    """Let a BEiT, CaiT or VisionTransformerRelPos of timm take images of any size, padded to a multiple of the patch.

    Changes the network in place. Names, shapes and values of its parameters stay the same. A network with another class
    of patch embedding stays as it is.
    """
    patches = getattr(network, "patch_embed", None)
    if not isinstance(patches, PatchEmbed):
        return
    patches.strict_img_size = False
    patches.dynamic_img_pad = True  # type: ignore[misc]
    grid = Grid(patches.grid_size)
    for module in network.modules():
        found = next((own for theirs, own in _SUBCLASSES.items() if type(module) is theirs), None)
        if found is not None:
            module.__class__ = found
            module.grid = grid  # type: ignore[assignment]


class _Patches(PatchEmbed):
    """Stores the number of patches for the other modules."""

    grid: Grid

    def forward(self, x: Tensor) -> Tensor:
        self.grid.size = self.dynamic_feat_size((x.shape[-2], x.shape[-1]))
        return super().forward(x)


class _Absolute(nn.Module):
    """A network that adds its parameter `pos_embed` to the tokens."""

    grid: Grid
    prefix_tokens = 0

    @property
    def pos_embed(self) -> Tensor | None:
        native = self._parameters.get("pos_embed")  # BEiT may have none
        if native is None:
            return None
        size = self.patch_embed.grid_size  # type: ignore[union-attr]
        return resample_abs_pos_embed(native, self.grid.size, size, num_prefix_tokens=self.prefix_tokens)


class _Cait(_Absolute, Cait):  # type: ignore[misc]
    """CaiT (arXiv:2103.17239)."""


class _Beit(_Absolute, Beit):  # type: ignore[misc]
    """BEiT (arXiv:2106.08254)."""

    prefix_tokens = 1


class _BeitAttention(Attention):
    """BEiT's attention, with a table of relative positions in each block."""

    grid: Grid

    def _get_rel_pos_bias(self) -> Tensor:
        return _bias(self.relative_position_bias_table, self.window_size, self.grid, True)


class _RelativeTable(RelPosBias):
    """A table of relative positions, as in Swin."""

    grid: Grid

    def get_bias(self) -> Tensor:
        return _bias(self.relative_position_bias_table, self.window_size, self.grid, self.prefix_tokens > 0)


class _RelativeMlp(RelPosMlp):
    """A network that computes the bias from relative positions, as in Swin v2: no table to resample."""

    grid: Grid

    def get_bias(self) -> Tensor:
        rows, columns = self.grid.size
        parameter = next(self.mlp.parameters())
        coordinates = relative_log_coordinates(self.grid.size, self.pretrained_window_size, self.mode)
        by_position = self.mlp(coordinates.to(parameter)).view(-1, self.num_heads)
        index = self.grid.index(False, parameter.device)
        bias = by_position[index.view(-1)].view(rows * columns, rows * columns, -1).permute(2, 0, 1)
        bias = self.bias_act(bias) if self.bias_gain is None else self.bias_gain * self.bias_act(bias)
        before = self.prefix_tokens
        return nn.functional.pad(bias, (before, 0, before, 0)).unsqueeze(0).contiguous()


_SUBCLASSES: dict[type[nn.Module], type[nn.Module]] = {
    PatchEmbed: _Patches,
    Cait: _Cait,
    Beit: _Beit,
    Attention: _BeitAttention,
    RelPosBias: _RelativeTable,
    RelPosMlp: _RelativeMlp,
}


def _bias(table: Tensor, native: tuple[int, int], grid: Grid, class_token: bool) -> Tensor:
    """(1, heads, N, N) bias of attention for N tokens, from the table of a network for `native` patches."""
    if grid.size != tuple(native):
        table = resample_table(table, native, grid.size)
    index = grid.index(class_token, table.device)
    return table[index.view(-1)].view(*index.shape, -1).permute(2, 0, 1).unsqueeze(0).contiguous()


def resample_table(table: Tensor, native: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """A table of relative positions for `native` patches, resampled for `size` patches, both (rows, columns).

    The table has one row for each pair of offsets, (2 * rows - 1) * (2 * columns - 1), and maybe further rows for
    the class token, which stay the same; its columns are attention heads. Values at new offsets are interpolated
    linearly, see `_interpolation`, as in timm's `resize_rel_pos_bias_table` and BEiT's fine-tuning.
    """
    rows, columns = (2 * side - 1 for side in native)
    positions, others = table[: rows * columns], table[rows * columns :]
    vertical, horizontal = (torch.from_numpy(_interpolation(a, b)).to(table) for a, b in zip(native, size, strict=True))
    resampled = torch.einsum("yi,xj,ijh->yxh", vertical, horizontal, positions.view(rows, columns, -1))
    return torch.cat([resampled.flatten(0, 1), others])


def _interpolation(native: int, size: int) -> np.ndarray:
    """(2 * size - 1, 2 * native - 1) weights that interpolate values at offsets between `native` patches in a row.

    The old offsets are spread over the new range with distances that grow geometrically from 1 at offset 0. Source:
    `beit/run_class_finetuning.py` of microsoft/unilm, with its bounds 1.01 and 1.5 for the factor.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        factor = (low + high) / 2
        reach = (1 - factor ** (native - 1)) / (1 - factor)
        low, high = (low, factor) if reach > size - 1 else (factor, high)
    side = np.cumsum(factor ** np.arange(native - 1))
    offsets = np.concatenate([-side[::-1], [0.0], side])
    wanted = np.arange(-(size - 1), size, dtype=np.float64)
    return np.stack([np.interp(wanted, offsets, unit) for unit in np.eye(len(offsets))], axis=1)
