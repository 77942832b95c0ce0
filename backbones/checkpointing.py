"""Gradient checkpointing: less memory in training for more time (arXiv:1604.06174).

The backward pass needs the intermediate results of the forward pass. With checkpointing, each block of a backbone keeps
only its input, and the backward pass computes the block again. Outputs and gradients are the same: random draws are
repeated, and batch norms do not count the second pass in their running statistics.

timm's own `set_grad_checkpointing` is not used. Its batch norms count the second pass, it does not checkpoint the last
stage of a feature extractor, and networks from other sources do not have it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import is_grad_enabled, nn
from torch.utils.checkpoint import checkpoint

from backbones.inference import BATCH_NORMS
from backbones.layers import parameter_blocks


def checkpoint_blocks(network: nn.Module) -> list[str]:
    """Make the blocks of a network compute their intermediate results again in the backward pass, in place.

    Has no effect where no gradients are computed. Returns the names of the blocks.
    """
    names = block_modules(network)
    for name in names:
        module = network.get_submodule(name)
        module.forward = partial(_checkpointed, module)
    return names


def block_modules(network: nn.Module) -> list[str]:
    """Names of the modules that keep only their input, in the order in which they are registered.

    They are the largest modules within one block, see `parameter_blocks`. Stages that are one block for timm are
    divided further. Single layers are left out, because they store little more than their input.
    """
    return list(_within_one_block(network, "", parameter_blocks(network)))


def _within_one_block(module: nn.Module, name: str, blocks: dict[str, int]) -> Iterator[str]:
    children = dict(module.named_children())
    inside = {block for parameter, block in blocks.items() if parameter.startswith(f"{name}.")}
    if not children or (name and not inside):
        return
    is_sequence = isinstance(module, nn.Sequential) and all(any(child.children()) for child in children.values())
    is_container = isinstance(module, nn.ModuleList | nn.ModuleDict) or is_sequence
    if name and len(inside) == 1 and not is_container and "blocks" not in children:
        yield name
        return
    for child, part in children.items():
        yield from _within_one_block(part, f"{name}.{child}".lstrip("."), blocks)


def _checkpointed(module: nn.Module, *inputs: Any, **options: Any) -> Any:
    """The module's own forward pass, computed again in the backward pass."""
    if not is_grad_enabled():
        return type(module).forward(module, *inputs, **options)

    def forward(*inputs: Any, **options: Any) -> Any:
        return type(module).forward(module, *map(_copied, inputs), **options)

    norms: list[nn.Module] = [norm for norm in module.modules() if isinstance(norm, BATCH_NORMS)]
    modes = [norm.training for norm in norms]  # a single value per channel puts a norm in evaluation mode for one step
    return checkpoint(
        forward,
        *map(_copied, inputs),
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _repeated(norms, modes)),
        **options,
    )


def _copied(value: Any) -> Any:
    """A copy of a list: DenseNet and HRNet change lists of maps between the two passes."""
    return list(value) if isinstance(value, list) else value


@contextmanager
def _repeated(norms: list[nn.Module], modes: list[bool]) -> Iterator[None]:
    """In this context batch norms have the modes of the first pass, and update copies of their running statistics."""
    before = [(norm.training, dict(norm.named_buffers(recurse=False))) for norm in norms]
    for norm, mode, (_, buffers) in zip(norms, modes, before, strict=True):
        norm.training = mode
        for name, value in buffers.items():
            setattr(norm, name, value.clone())
    try:
        yield
    finally:  # also if the pass stops early, as soon as it has computed all that the backward pass needs
        for norm, (training, buffers) in zip(norms, before, strict=True):
            norm.training = training
            for name, value in buffers.items():
                setattr(norm, name, value)
