"""Settings of how a data set is read. The commands have a flag for each; the sentence below a field is its help text.

None means: decided by the data in training, and as in the training in evaluation. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self


@dataclass
class ReadOptions:
    """Settings that all kinds of data sets share."""

    format: str | None = None
    """Layout of the data set, such as coco, yolo or voc; docs/data.md lists all. By default it is recognised."""
    train: str | None = None
    """Training data: a split of the data set, or FILE[:IMAGES], an annotation file and its image folder. By default
    the split train."""
    val: str | None = None
    """Validation data, as for --data.train; or auto, which holds out a fifth of the training images if the data set has
    no validation split. By default the split val."""
    exif: Literal["auto", "apply", "ignore"] | None = None
    """Whether to turn images upright by their EXIF orientation: auto does so where the labels fit only the upright
    image. By default auto."""
    follow_links: bool | None = None
    """Read images through links that lead out of the data set's folder."""
    channels: int | None = None
    """Number of channels of the images, from 1 to 16. They are read with all their bits. By default images are read as
    8-bit RGB."""
    bands: list[int] | None = None
    """Bands of the files to read as channels, counted from 1, in this order, such as 4 3 2 8. By default all bands."""

    @property
    def input_channels(self) -> int:
        """Number of channels of the images that the network receives."""
        return self.channels or len(self.bands or (1, 2, 3))

    @classmethod
    def of(cls, settings: ReadOptions, **changes: Any) -> Self:
        """The options among `settings`, which may have more fields, with some of them changed."""
        known = {field.name: getattr(settings, field.name) for field in fields(cls) if hasattr(settings, field.name)}
        return cls(**known | changes)

    def over(self, stored: ReadOptions, same_data: bool) -> Self:
        """These settings, with the stored ones where they are None.

        Settings that say where data are apply to `stored`'s data only, so they are taken if `same_data`.
        """
        places = () if same_data else ("format", "train", "val", "label_column")
        values = {
            field.name: getattr(stored, field.name, None)
            for field in fields(self)
            if getattr(self, field.name) is None and field.name not in places
        }
        return replace(self, **values)


@dataclass
class BoxOptions(ReadOptions):
    """Settings of data sets with boxes."""

    boxes: Literal["xyxy", "xywh", "cxcywh"] | None = None
    """Numbers of a box in formats that do not define them: two corners (xyxy), or a corner or the centre with width and
    height (xywh, cxcywh). By default they are recognised from the values."""
    scale_boxes: bool | None = None
    """Scale boxes from the image size in the annotations to the size of the image file, if the two differ."""
    merge_classes: bool | None = None
    """Read classes of the same name as one class."""


@dataclass
class ClassOptions(ReadOptions):
    """Settings of data sets with one class per image."""

    label_column: str | None = None
    """Column with the class, in a table or a Hugging Face data set with several that may be it."""


@dataclass
class MaskOptions(ReadOptions):
    """Settings of data sets with a class for every pixel."""

    ignore_index: int | list[int] | None = None
    """Mask values of pixels without a class, which are ignored, such as 255. In ADE20K's layout 0 is always ignored."""
    mask_values: list[str] | None = None
    """Class of each mask value, as VALUE=NAME, such as 0=background 255=lesion; or a YAML, JSON or text file with them.
    Values with the same name are one class. By default the label map of the data set."""
    mask_colors: str | None = None
    """File with the class of each colour of colour-coded masks: CVAT's labelmap.txt, class_dict.csv, YAML or JSON, or
    lines R G B NAME. By default the label map of the data set."""
