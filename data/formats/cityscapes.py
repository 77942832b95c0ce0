"""Cityscapes: photographs in leftImg8bit, masks in gtFine (or gtCoarse), in one folder per city.

    ROOT/leftImg8bit/{train,val}/CITY/NAME_leftImg8bit.png    ROOT/gtFine/{train,val}/CITY/NAME_gtFine_labelIds.png

labelIds are read as the 19 classes that the benchmark scores; the other ids have no class. Files labelTrainIds, which
the authors' scripts write, are preferred where every image has one.
"""

from __future__ import annotations

from pathlib import Path

from backbones.errors import BadInput
from data.columns import MaskColumns
from data.formats import Format, Sniffed, Split
from data.formats.mask_pairs import NO_IMAGE, Pairs, list_files
from data.formats.masks import mask_columns
from data.label_maps import LabelMap
from data.options import MaskOptions

IMAGES, TRUTHS = "leftImg8bit", ("gtFine", "gtCoarse")
LABEL_IDS, TRAIN_IDS = "labelIds", "labelTrainIds"
# Label id -> class, of cityscapesScripts, helpers/labels.py, in the order of its train ids. All other ids to 33 are
# not scored, such as 0 unlabeled, 4 static, 9 parking, 18 polegroup and 29 caravan.
CLASS_OF_LABEL_ID = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
    28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
LARGEST_LABEL_ID, NO_ID = 33, 255


def sniff(root: Path) -> Sniffed | None:
    """Folders leftImg8bit and gtFine or gtCoarse with the same split folders."""
    names = splits(root)
    return Sniffed(0.95, f"{IMAGES}/{names[0]} and {_truth(root).name}/{names[0]} exist") if names else None


def splits(root: Path) -> list[str]:
    """Folders that exist for images and masks."""
    images, truth = root / IMAGES, _truth(root)
    if not images.is_dir() or not truth.is_dir():
        return []
    return [path.name for path in sorted(images.iterdir()) if path.is_dir() and (truth / path.name).is_dir()]


def read(split: Split, options: MaskOptions) -> MaskColumns:
    """The images of all cities of a split."""
    if not split.name:
        raise BadInput(
            f"{split.root} is the folder of a data set: name one of its splits, {', '.join(splits(split.root))}"
        )
    folder, truth = split.root / IMAGES / split.name, _truth(split.root) / split.name
    kind = truth.parent.name
    follow = bool(options.follow_links)
    ending = f"_{IMAGES}"
    names = [name for name in list_files(folder, follow) if Path(name).stem.endswith(ending)]
    if not names:
        raise BadInput(f"{folder} has no images *{ending}.png")
    files = set(list_files(truth, follow))
    bases = [name[: name.rindex(ending)] for name in names]
    id_kind = TRAIN_IDS if all(f"{base}_{kind}_{TRAIN_IDS}.png" in files for base in bases) else LABEL_IDS
    masks = [f"{base}_{kind}_{id_kind}.png" for base in bases]
    if not files.intersection(masks):
        others = sorted({file.rpartition("_")[2] for file in files})
        raise BadInput(
            f"{truth} has no files *_{kind}_{LABEL_IDS}.png, whose values are classes. It has {', '.join(others[:6])}: "
            "instanceIds number objects, and color files are for viewing"
        )
    unused = sorted(file for file in files - set(masks) if file.endswith(f"_{kind}_{id_kind}.png"))
    left_out = {NO_IMAGE: unused} if unused else {}
    pairs = Pairs(folder, names, [truth / mask for mask in masks], left_out)
    return mask_columns(pairs, _label_map(id_kind), options, split.root, truth)


FORMAT = Format(
    name="cityscapes",
    kind="masks",
    layout="ROOT/leftImg8bit/{train,val}/CITY/ and ROOT/gtFine/{train,val}/CITY/ with the files labelIds",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _truth(root: Path) -> Path:
    return next((root / name for name in TRUTHS if (root / name).is_dir()), root / TRUTHS[0])


def _label_map(kind: str) -> LabelMap:
    """The 19 classes by label id, or by train id. Other ids have no class, which is the benchmark's rule."""
    if kind == TRAIN_IDS:
        names = {**dict(enumerate(CLASS_OF_LABEL_ID.values())), NO_ID: "void"}
    else:
        ids = [*range(LARGEST_LABEL_ID + 1), NO_ID]
        names = {value: CLASS_OF_LABEL_ID.get(value, "void") for value in ids}
    return LabelMap("Cityscapes", names, {}, standard=True)
