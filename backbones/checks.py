"""What the doctor looks at: each check takes a network in evaluation mode and yields what it found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from backbones.adapter import build_backbone
from backbones.base import Backbone
from backbones.errors import UserError

PROBED = 256, 256  # height and width, for everything but sizes
NEAR, FAR = 1.5, 2.5  # cells; networks without padding, such as Inception, lie between


@dataclass(frozen=True)
class Finding:
    """One check: what was looked at, how it ended, and what that means."""

    check: str
    state: Literal["ok", "warning", "failed"]
    says: str


def images(height: int, width: int, count: int = 2) -> Tensor:
    """Smooth noise of unit variance, as normalised photographs roughly are: (count, 3, height, width)."""
    coarse = torch.randn(count, 3, height // 8 + 2, width // 8 + 2)
    noise = F.interpolate(coarse, (height, width), mode="bilinear") + 0.3 * torch.randn(count, 3, height, width)
    return noise / noise.std()


def sizes(backbone: Backbone, image_sizes: Sequence[tuple[int, int]]) -> Iterator[Finding]:
    """Channels and sizes of the maps against `levels`, for square and odd images."""
    for height, width in image_sizes:
        with torch.no_grad():
            maps = backbone(images(height, width, 1))
        expected = [(v.channels, -(-height // v.stride), -(-width // v.stride)) for v in backbone.levels]
        found = [tuple(x.shape[1:]) for x in maps]
        if found != expected:
            yield Finding(f"maps of {height}x{width}", "failed", f"they are {found}, where `levels` promise {expected}")
            return
    told = ", ".join(f"{level.channels} at stride {level.stride}" for level in backbone.levels)
    yield Finding(
        "maps", "ok", f"channels {told}; of the right size for {', '.join(f'{h}x{w}' for h, w in image_sizes)}"
    )


def normalisation(backbone: Backbone) -> Iterator[Finding]:
    """What the weights expect of an image."""
    told = backbone.provenance
    mean, std = (", ".join(f"{v:.3f}" for v in values) for values in (told.mean, told.std))
    says = f"mean {mean}; std {std}; weights {told.source}"
    if told.source.startswith("file:"):
        yield Finding("normalisation", "warning", f"{says}: assumed, for a file does not tell what it was trained with")
    else:
        yield Finding("normalisation", "ok", says)


def cost(backbone: Backbone) -> Iterator[Finding]:
    """Parameters and multiply-adds that it takes to get to each map, counted without memory."""
    told = []
    try:
        for level in backbone.levels:
            with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
                part = build_backbone(backbone.name, (level.stride,)).eval()
                counter.flop_counts.clear()  # one's own networks are tried when they are built
                part(torch.empty(1, 3, *PROBED))
            params, macs = sum(p.numel() for p in part.parameters()), counter.get_total_flops() / 2
            told.append(f"{params / 1e6:.3g}M and {macs / 1e9:.3g}B to stride {level.stride}")
    except (RuntimeError, NotImplementedError, UserError) as error:
        says = "cannot be counted, for the network does not run on the meta device, which experiments.compare needs"
        yield Finding("cost", "warning", f"{says} ({str(error)[:100]})")
        return
    height, width = PROBED
    yield Finding("cost", "ok", f"parameters and multiply-adds at {height}x{width}: {', '.join(told)}")


def values(backbone: Backbone) -> Iterator[Finding]:
    """Numbers that are none, and channels that say the same of every image."""
    with torch.no_grad():
        maps = backbone(images(*PROBED))
    for x, level in zip(maps, backbone.levels, strict=True):
        if not torch.isfinite(x).all():
            yield Finding(f"values at stride {level.stride}", "failed", "some are infinite or no numbers")
            return
        constant = x.transpose(0, 1).flatten(1).std(1) <= 1e-6 * x.abs().max()
        share = constant.float().mean().item()
        if share == 1:
            yield Finding(f"values at stride {level.stride}", "failed", "the map is the same for every image and place")
        elif share > 0.5:
            yield Finding(f"values at stride {level.stride}", "warning", f"{100 * share:.0f}% of the channels are dead")
    spreads = ", ".join(f"{x.std().item():.2g}" for x in maps)
    yield Finding("values", "ok", f"finite; standard deviations {spreads}")


def batches(backbone: Backbone) -> Iterator[Finding]:
    """An image's maps must not depend on the other images of its batch, in evaluation mode."""
    batch = images(*PROBED)
    with torch.no_grad():
        together, alone = backbone(batch), backbone(batch[:1])
    yield _same("images of a batch", together, alone, "an image's maps depend on its neighbours in the batch")


def batch_norms(backbone: Backbone) -> Iterator[Finding]:
    """Running statistics have to follow the images in training, and to rest in evaluation mode."""
    norms = {name: module for name, module in backbone.named_modules() if isinstance(module, _BatchNorm)}
    means = {name: norm.running_mean for name, norm in norms.items() if norm.running_mean is not None}
    if len(means) < len(norms):
        left_out = sorted(norms.keys() - means.keys())
        yield Finding("batch norm", "failed", f"{left_out[0]} keeps no statistics: evaluation depends on the batch")
        return
    kept = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    moved: dict[bool, set[str]] = {}
    with torch.no_grad():
        for training in (False, True):
            maps = backbone.train(training)(images(*PROBED))
            moved[training] = {name for name, mean in means.items() if not mean.equal(kept[f"{name}.running_mean"])}
        finite = all(x.isfinite().all() for x in maps)
        backbone.eval()
        for name, buffer in backbone.named_buffers():
            buffer.copy_(kept[name])
    still = sorted(means.keys() - moved[True])
    if moved[False]:
        yield Finding("batch norm", "failed", f"{min(moved[False])} learns from images in evaluation mode")
    elif not finite:
        yield Finding("batch norm", "failed", "maps are finite in evaluation, and not in training mode")
    elif still:
        yield Finding("batch norm", "warning", f"{len(still)} of {len(norms)} learn nothing in training: {still[0]}")
    else:
        says = f"all {len(norms)} follow the images in training, and rest in evaluation"
        yield Finding("batch norm", "ok", says if norms else "none: such networks often want a lower learning rate")


def memory_format(backbone: Backbone) -> Iterator[Finding]:
    """Channels-last, which trainings use, has to give the same maps."""
    batch = images(*PROBED, 1)
    with torch.no_grad():
        plain = backbone(batch)
        maps = backbone.to(memory_format=torch.channels_last)(batch.to(memory_format=torch.channels_last))
    yield _same("channels-last", maps, plain, "it gives other maps: a view or reshape takes the layout for granted")


def gradients(backbone: Backbone) -> Iterator[Finding]:
    """Every parameter has to learn from some map, and every map to teach the first layer."""
    parameters = dict(backbone.named_parameters())
    reached: set[str] = set()
    maps = backbone(images(*PROBED))
    first = next(iter(parameters))
    for x, level in zip(maps, backbone.levels, strict=True):
        if not x.requires_grad:
            yield Finding("gradients", "failed", f"the map at stride {level.stride} is detached: nothing learns by it")
            return
        found = torch.autograd.grad(x.square().mean(), list(parameters.values()), retain_graph=True, allow_unused=True)
        # Zeros count: ResNets begin with the last scale of each branch at zero, which nothing passes at first.
        reached |= {name for name, g in zip(parameters, found, strict=True) if g is not None}
        broken = [name for name, g in zip(parameters, found, strict=True) if g is not None and not g.isfinite().all()]
        if broken:
            yield Finding("gradients", "failed", f"from stride {level.stride} to {broken[0]} they are not finite")
            return
        if first not in reached:
            yield Finding("gradients", "failed", f"none comes from stride {level.stride} to the first layer, {first}")
            return
    left_out = sorted(parameters.keys() - reached)
    if left_out:
        names = ", ".join(left_out[:3]) + (", ..." if len(left_out) > 3 else "")
        yield Finding("gradients", "warning", f"{len(left_out)} parameters never learn: {names}")
    else:
        yield Finding("gradients", "ok", f"from every map to the first layer, and to all {len(parameters)} parameters")


def alignment(backbone: Backbone) -> Iterator[Finding]:
    """A spot in the image has to change the maps around the cell that lies over it, where anchors are put."""
    height, width = PROBED
    stride = max(level.stride for level in backbone.levels)
    away: dict[int, list[float]] = {level.stride: [] for level in backbone.levels}
    base = images(height, width, 1)
    with torch.no_grad():
        plain = backbone(base)
        for row in (height * 3 // 8, height * 5 // 8):
            for column in (width * 3 // 8, width * 5 // 8):
                changed = base.clone()
                half = stride // 4
                changed[..., row - half : row + half, column - half : column + half] += 2.0
                for x, before, level in zip(backbone(changed), plain, backbone.levels, strict=True):
                    away[level.stride].append(_distance((x - before).abs().sum(1)[0], level.stride, row, column))
    for found, distances in away.items():
        worst = max(distances)
        if worst != worst:
            yield Finding("alignment", "failed", f"the map at stride {found} does not see a spot in the image")
        elif worst > NEAR:
            state: Literal["warning", "failed"] = "warning" if worst <= FAR else "failed"
            yield Finding("alignment", state, f"at stride {found} a spot is seen {worst:.1f} cells from its place")
    told = ", ".join(f"{max(distances):.1f} at stride {found}" for found, distances in away.items())
    if all(max(distances) <= NEAR for distances in away.values()):
        yield Finding("alignment", "ok", f"spots are seen where they are, to within cells: {told}")


def _distance(change: Tensor, stride: int, row: int, column: int) -> float:
    """Cells between a spot at (row, column) px and the centre of what it changed most in a map (h, w); NaN for nothing.

    Networks with squeeze-and-excite change a little everywhere: only what changed by half as much as the most counts.
    """
    if change.max() <= 0:
        return float("nan")
    weights = torch.where(change >= change.max() / 2, change, torch.zeros_like(change))
    rows, columns = (torch.arange(n, dtype=weights.dtype) + 0.5 for n in weights.shape)
    y = ((weights.sum(1) * rows).sum() / weights.sum()).item() - row / stride
    x = ((weights.sum(0) * columns).sum() / weights.sum()).item() - column / stride
    return max(abs(y), abs(x))


def _same(check: str, maps: list[Tensor], others: list[Tensor], otherwise: str) -> Finding:
    """Whether the first image's maps agree to within rounding."""
    worst = max(
        ((a[:1] - b[:1]).abs().max() / b.abs().max().clamp_min(1e-12)).item() for a, b in zip(maps, others, strict=True)
    )
    if worst > 1e-3:
        return Finding(check, "failed", f"{otherwise} (by {worst:.1g} of the largest value)")
    return Finding(check, "ok", f"the same maps, to {worst:.0e} of the largest value")


OTHERS: tuple[Callable[[Backbone], Iterator[Finding]], ...] = (
    normalisation, cost, values, batches, batch_norms, memory_format, gradients, alignment,
)  # fmt: skip
