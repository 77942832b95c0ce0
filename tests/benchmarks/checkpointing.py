"""Memory and time with `--checkpointing`: bytes that a training step stores for its backward pass, and its time.

`python -m tests.benchmarks.checkpointing` prints the table of docs/guides/fine-tuning.md.
"""

from __future__ import annotations

import copy
import time

import torch
from torch import Tensor, nn

from backbones import create_backbone
from backbones.checkpointing import checkpoint_blocks

NETWORKS = (
    "tf_efficientnet_lite0", "efficientnet_b0", "resnet18", "resnet50", "convnext_tiny",
    "swin_tiny_patch4_window7_224", "vit_small_patch16_224",
)  # fmt: skip
IMAGES, SIZE = 4, 256
STEPS = 6  # the fastest counts


def kept_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes of the tensors that one forward pass keeps for the backward pass, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept: dict[int, Tensor] = {}  # by storage; the tensors, so that no storage is used again

    def pack(tensor: Tensor) -> Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in parameters:
            kept[place] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        network(images)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def step_seconds(network: nn.Module, images: Tensor) -> float:
    """Processor time of one forward and backward pass, in seconds: other programs affect it less than elapsed time."""
    start = time.process_time()
    torch.stack([x.mean() for x in network(images)]).sum().backward()
    return time.process_time() - start


def table() -> list[str]:
    """Lines of Markdown."""
    lines = [
        f"| backbone, {IMAGES} images of {SIZE} px | kept | checkpointing | step | checkpointing | slower by |",
        "|---|---|---|---|---|---|",
    ]
    images = torch.randn(IMAGES, 3, SIZE, SIZE)
    for name in NETWORKS:
        networks = [create_backbone(name).train()]
        networks.append(copy.deepcopy(networks[0]))
        checkpoint_blocks(networks[1])
        before, after = (kept_bytes(network, images) / 1e6 for network in networks)
        rounds = [[step_seconds(network, images) for network in networks] for _ in range(STEPS)]
        plain, checkpointed = (min(seconds) for seconds in zip(*rounds, strict=True))
        lines.append(
            f"| `{name}` | {before:.0f} MB | {after:.0f} MB | {plain:.2f} s | {checkpointed:.2f} s | "
            f"{100 * (checkpointed / plain - 1):.0f}% |"
        )
        print(lines[-1], flush=True)
    return lines


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    table()
