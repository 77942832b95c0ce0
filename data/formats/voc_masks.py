"""Pascal VOC's segmentation, and the exports of CVAT and labelme in its folders.

    ROOT/JPEGImages/*.jpg    ROOT/SegmentationClass/*.png    ROOT/ImageSets/Segmentation/{train,val}.txt

Masks have palette indices (or the colours of VOC's palette): 0 is background, 1 to 20 are VOC's classes, and 255, the
border of objects, has no class. CVAT's labelmap.txt (`NAME:R,G,B:parts:actions`) or labelme's class_names.txt replace
VOC's classes. Without ImageSets, all images with a mask are one split.
"""

from __future__ import annotations

from pathlib import Path

from backbones.errors import BadInput
from data.columns import MaskColumns
from data.formats import Format, Sniffed, Split
from data.formats.mask_pairs import Pairs, list_files, stem_of
from data.formats.masks import mask_columns
from data.images import IMAGE_SUFFIXES
from data.label_maps import LabelMap, read_label_map
from data.mask_diagnosis import BORDER, voc_color
from data.mask_files import MASK_SUFFIXES
from data.options import MaskOptions

# VOC2012, http://host.robots.ox.ac.uk/pascal/VOC/voc2012/segexamples/index.html
CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
IMAGES = "JPEGImages"
MASKS = ("SegmentationClass", "SegmentationClassPNG")  # the second: labelme's, where the first has arrays
LISTS = Path("ImageSets", "Segmentation")
LABEL_MAPS = ("labelmap.txt", "class_names.txt", "classes.txt")


def sniff(root: Path) -> Sniffed | None:
    """A folder SegmentationClass with masks, and JPEGImages or ImageSets/Segmentation."""
    masks = _masks(root)
    if masks is None or not ((root / IMAGES).is_dir() or (root / LISTS).is_dir()):
        return None
    return Sniffed(0.85, f"{masks.name} and {IMAGES if (root / IMAGES).is_dir() else LISTS} exist")


def splits(root: Path) -> list[str]:
    """Names of the lists in ImageSets/Segmentation; `train` without any, and for CVAT's only list, `default`."""
    names = [path.stem for path in sorted((root / LISTS).glob("*.txt"))]
    return ["train"] if names in ([], ["default"]) else names


def read(split: Split, options: MaskOptions) -> MaskColumns:
    """The images of a list, with their masks."""
    root, masks = split.root, _masks(split.root)
    images = split.images or root / IMAGES
    if masks is None:
        raise BadInput(f"{root} has no folder {MASKS[0]} with masks")
    if not images.is_dir():
        raise BadInput(
            f"{root} has no folder {IMAGES}: export the images, too, or name their folder, as in `train={root}:IMAGES`",
            settings=("data.train",),
        )
    pairs = _pairs(images, masks, _listed(root, split.name), bool(options.follow_links))
    return mask_columns(pairs, _label_map(root), options, root, masks)


FORMAT = Format(
    name="voc-masks",
    kind="masks",
    layout="""
        ROOT/JPEGImages/, ROOT/SegmentationClass/ and ROOT/ImageSets/Segmentation/{train,val}.txt; CVAT's export has
        labelmap.txt""",
    sniff=sniff,
    splits=splits,
    read=read,
)


def _masks(root: Path) -> Path | None:
    """The folder of the masks."""
    for name in MASKS:
        folder = root / name
        if folder.is_dir() and any(path.suffix.lower() in MASK_SUFFIXES for path in folder.rglob("*.*")):
            return folder
    return None


def _listed(root: Path, name: str) -> tuple[Path, list[str]] | None:
    """The list file of a split and the image names in it, without suffixes; None if all images are meant."""
    found = [name] if (root / LISTS / f"{name}.txt").is_file() else ["default"]
    file = root / LISTS / f"{found[0]}.txt"
    if not file.is_file():
        return None
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read {file}: {error}") from error
    # Datumaro quotes names with spaces; lists of other VOC tasks have a second column with 1 or -1.
    names = [line.strip()[1:-1] if line.strip().startswith('"') else line.strip() for line in lines if line.strip()]
    if not names:
        raise BadInput(f"{file} lists no images")
    return file, list(dict.fromkeys(names))


def _pairs(images: Path, masks: Path, listed: tuple[Path, list[str]] | None, follow: bool) -> Pairs:
    """Images and masks of the same name. Raises BadInput for listed names without an image."""
    all_images = [name for name in list_files(images, follow) if name.lower().endswith(IMAGE_SUFFIXES)]
    by_stem: dict[str, str] = {}
    for name in all_images:
        if by_stem.setdefault(stem_of(name), name) != name:
            raise BadInput(f"{images} has several images called {stem_of(name)}: they would share one mask")
    mask_of = {stem_of(name): name for name in list_files(masks, follow) if name.lower().endswith(MASK_SUFFIXES)}
    if listed is None:
        stems = sorted(by_stem.keys() & mask_of.keys())
        if not stems:
            raise BadInput(f"no image in {images} has the name of a mask in {masks}")
    else:
        file, names = listed
        suffixed = {name for name in names if name.lower().endswith(IMAGE_SUFFIXES) and stem_of(name) in by_stem}
        stems = sorted({stem_of(name) if name in suffixed else name for name in names})
        missing = [stem for stem in stems if stem not in by_stem]
        if missing:
            raise BadInput(f"{len(missing)} of {len(stems)} images of {file} are not in {images}: {_some(missing)}")
    left_out = {}
    if unlisted := sorted(by_stem.keys() - mask_of.keys()) if listed is None else []:
        left_out["they have no mask"] = [by_stem[stem] for stem in unlisted]
    files = [masks / mask_of.get(stem, f"{stem}.png") for stem in stems]
    return Pairs(images, [by_stem[stem] for stem in stems], files, left_out)


def _label_map(root: Path) -> LabelMap:
    """The label map in the folder, else VOC's."""
    file = next((root / name for name in LABEL_MAPS if (root / name).is_file()), None)
    if file is not None:
        found = read_label_map(file)
        if found.positional and not found.colors:  # labelme paints with VOC's palette and writes 255 for its border
            colors = {voc_color(value): name for value, name in found.values.items() if value < BORDER}
            return LabelMap(found.source, {**found.values, BORDER: "void"}, {**colors, voc_color(BORDER): "void"})
        return found
    names = {**dict(enumerate(CLASSES)), BORDER: "void"}
    return LabelMap("Pascal VOC", names, {voc_color(value): name for value, name in names.items()}, standard=True)


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
