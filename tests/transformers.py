"""`python -m tests.transformers`: builds every transformer of timm as a backbone and writes `results/transformers.csv`.

The table says which can serve as a backbone, how, and why the others cannot. All is built on the meta device, without
memory for weights. Takes about 20 minutes on one core.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
from pathlib import Path

import timm
import torch

from backbones.adapter import build_backbone
from backbones.errors import UserError
from backbones.plain import PLAIN_MODULES, PlainBackbone
from engine.record import write_text

TABLE = Path("results/transformers.csv")
FIELDS = ("name", "module", "kind", "patch", "stride", "reason")
# Modules of timm whose networks consist of attention blocks, at least in some stages, and are not plain.
HIERARCHICAL = (
    "coat", "crossvit", "davit", "edgenext", "efficientformer", "efficientformer_v2", "efficientvit_mit",
    "efficientvit_msra", "gcvit", "hiera", "hieradet_sam2", "levit", "maxxvit", "mobilevit", "mvitv2",
    "nest", "nextvit", "pit", "pvt_v2", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr", "tiny_vit",
    "twins", "visformer", "volo",
)  # fmt: skip
MODULES = (*PLAIN_MODULES, *HIERARCHICAL)


def row_of(name: str, module: str) -> dict[str, str]:
    """One line of the table: "plain" networks have a pyramid, "own maps" maps of their own, "no" none."""
    row = {"name": name, "module": module, "kind": "no", "patch": "", "stride": "", "reason": ""}
    try:
        with torch.device("meta"):
            backbone = build_backbone(name).eval()
            maps = backbone(torch.empty(1, 3, 333, 500))
    except UserError as error:
        return row | {"reason": reason_of(str(error))}
    for x, level in zip(maps, backbone.levels, strict=True):
        assert x.shape[1:] == (level.channels, -(-333 // level.stride), -(-500 // level.stride)), name
    if not isinstance(backbone, PlainBackbone):
        return row | {"kind": "own maps"}
    unused = unused_parameters(backbone, maps)
    assert not unused, f"{name}: no map depends on {unused[:3]}"
    return row | {"kind": "plain", "patch": str(backbone.patch), "stride": str(backbone.stride)}


def reason_of(message: str) -> str:
    """The cause in an error message, without the network's name and without advice."""
    return re.sub(r"^'\S+' (cannot serve as a backbone: )?|\. Choose .*", "", message)


def unused_parameters(backbone: PlainBackbone, maps: list[torch.Tensor]) -> list[str]:
    """Names of the parameters that no map depends on."""
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    gradients = torch.autograd.grad(sum(x.sum() for x in maps), parameters, allow_unused=True)
    return [name for name, gradient in zip(names, gradients, strict=True) if gradient is None]


def stored() -> list[dict[str, str]]:
    """The lines of the committed table."""
    with TABLE.open(newline="") as file:
        return list(csv.DictReader(file))


def main() -> None:
    """Build all networks and write the table."""
    argparse.ArgumentParser(prog="python -m tests.transformers", description=__doc__).parse_args()
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for module in MODULES:
        names = timm.list_models(module=module)
        for name in names:
            writer.writerow(row_of(name, module))
        print(f"{module}: {len(names)} networks", flush=True)
    write_text(TABLE, text.getvalue())


if __name__ == "__main__":
    main()
