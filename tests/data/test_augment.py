"""Pipelines of albumentations: masks, boxes, seeds, and content that is refused."""

import io
import json
import logging
from dataclasses import replace

import albumentations as A
import numpy as np
import pytest
import yaml
from albumentations.core.serialization import SERIALIZABLE_REGISTRY

from backbones.errors import BadInput
from data.augment import Augmentation, augmentation
from data.batch import IGNORE, Sample
from data.compat import serializable_class
from data.loader import train_loader
from data.transforms import ScaleJitterCrop, Transform
from engine.setting_files import MAX_VALUES, read_pipeline

SIZE = (96, 128)
# Arguments that a transform needs, or that make it add pixels.
ARGUMENTS = {
    "Affine": {"rotate": (30, 60), "scale": (0.5, 0.6)},
    "AtLeastOneBBoxRandomCrop": {"height": 64, "width": 64},
    "CenterCrop": {"height": 64, "width": 64},
    "CoarseDropout": {"fill_mask": 0},
    "ConstrainedCoarseDropout": {"mask_indices": [1]},
    "Crop": {"x_max": 100, "y_max": 90},
    "CropAndPad": {"percent": (0.1, 0.3)},
    "CropNonEmptyMaskIfExists": {"height": 64, "width": 64},
    "ElasticTransform": {"alpha": 200},
    "Erasing": {"fill_mask": 0},
    "GridElasticDeform": {"num_grid_xy": (4, 4), "magnitude": 10},
    "LongestMaxSize": {"max_size": 80},
    "OpticalDistortion": {"distort_limit": (0.8, 0.9)},
    "Pad": {"padding": 20},
    "PadIfNeeded": {"min_height": 700, "min_width": 700},
    "Perspective": {"scale": (0.2, 0.3), "fit_output": True},
    "RandomCrop": {"height": 64, "width": 64},
    "RandomResizedCrop": {"size": (64, 64)},
    "RandomScale": {"scale_limit": (-0.6, -0.4)},
    "RandomSizedCrop": {"min_max_height": (40, 80), "size": (64, 64)},
    "Resize": {"height": 100, "width": 80},
    "Rotate": {"limit": (30, 60)},
    "SafeRotate": {"limit": (30, 60)},
    "ShiftScaleRotate": {"rotate_limit": (30, 60)},
    "SmallestMaxSize": {"max_size": 80},
    "XYMasking": {"num_masks_x": 1, "num_masks_y": 1, "mask_x_length": 20, "mask_y_length": 20, "fill_mask": 0},
}
# They need more than an image and its mask.
OTHERS = {
    "BBoxSafeRandomCrop", "CoarseDropout3D", "CenterCrop3D", "CubicSymmetry", "Mosaic", "OverlayElements", "Pad3D",
    "PadIfNeeded3D", "RandomCrop3D", "RandomCropNearBBox", "RandomSizedBBoxSafeCrop", "ToTensor3D",
}  # fmt: skip
DUAL = sorted(
    name
    for name in SERIALIZABLE_REGISTRY
    if (found := serializable_class(name)) is not None and issubclass(found, A.DualTransform) and name not in OTHERS
)


def sample(height=150, width=200, label=1):
    """Noise, two boxes, and one class everywhere."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    boxes = np.array([[20, 25, 100, 110], [50, 10, 195, 145]], np.float32)
    mask = np.full((height, width), label, np.uint8)
    return Sample(image, 7, (height, width), (1.0, 1.0), boxes, np.array([3, 4]), mask)


def letterbox(size=SIZE):
    return Transform(ScaleJitterCrop(size), [], (1, 2, 3), min_visibility=0.0)


def own(*steps, kind="boxes", then=None, **outer):
    return Augmentation(A.to_dict(A.Compose(list(steps), **outer)), then or letterbox(), kind)


def unchanged(sample, seed):
    return sample


@pytest.mark.parametrize("name", DUAL)
@pytest.mark.case("geometry")
def test_added_pixels_have_no_class(name):
    """Whatever a transform adds, no pixel gets another class, and image and mask keep the same size."""
    step = {"__class_fullname__": name, "p": 1.0, **ARGUMENTS.get(name, {})}
    for label in (0, 1):
        out = Augmentation({"transform": step}, unchanged, "masks")(sample(label=label), 1)
        assert set(np.unique(out.mask)) <= {label, IGNORE}
        assert out.mask.shape == out.image.shape[:2]
        assert out.mask.dtype == np.uint8


def test_rotation_adds_ignored_pixels_where_it_adds_black_ones():
    step = A.Rotate((40, 40), p=1, fill=0, fill_mask=2, interpolation=0)
    image = sample()
    image.image = np.maximum(image.image, 1)
    out = own(step, kind="masks", then=unchanged)(image, 0)
    assert 0.1 < (out.mask == IGNORE).mean() < 0.6
    assert ((out.mask == IGNORE) == (out.image == 0).all(2)).all()


def test_interpolation_never_mixes_classes():
    image = sample()
    image.mask[:, 80:] = 9
    step = {"__class_fullname__": "Affine", "rotate": [20, 20], "mask_interpolation": 1, "p": 1}
    out = Augmentation({"transform": step}, unchanged, "masks")(image, 0)
    assert set(np.unique(out.mask)) == {1, 9, IGNORE}


def test_boxes_move_with_the_image():
    """A flip and a crop by hand: the second box is cut, and of the first too little remains."""
    crop = A.Crop(x_min=0, y_min=0, x_max=110, y_max=150, p=1)
    out = own(A.HorizontalFlip(p=1), crop, then=unchanged)(sample(), 0)
    assert out.image.shape == (150, 110, 3)
    # Flipped: 100..180 and 5..150. The crop keeps 10 of 80 and 105 of 145 columns.
    np.testing.assert_allclose(out.boxes, [[5, 10, 110, 145]], atol=1e-4)
    assert out.labels.tolist() == [4]


@pytest.mark.case("geometry")
def test_boxes_stay_inside_of_the_input():
    steps = [
        A.OneOf([A.Rotate(60, p=1), A.Perspective(p=1), A.ShiftScaleRotate(rotate_limit=45, p=1)], p=1),
        A.RandomSizedBBoxSafeCrop(90, 120, p=0.5),
        A.RandomResizedCrop((70, 150), scale=(0.3, 1), p=0.5),
    ]
    transform = own(*steps)
    kept = 0
    for seed in range(60):
        out = transform(replace(sample(), mask=None), seed)
        kept += len(out.boxes)
        assert out.image.shape == (*SIZE, 3)
        assert len(out.boxes) == len(out.labels)
        assert (out.boxes >= 0).all()
        assert (out.boxes <= np.array([SIZE[1], SIZE[0]] * 2) + 1e-3).all()
        assert (out.boxes[:, 2:] > out.boxes[:, :2]).all()
    assert kept > 60


def test_images_without_boxes():
    empty = sample()
    empty.boxes, empty.labels = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    out = own(A.HorizontalFlip(p=1), A.Rotate(p=1))(empty, 0)
    assert out.boxes.shape == (0, 4)


class Images:
    """A data set of one image, with a pipeline."""

    def __init__(self, transform, length=8):
        self.transform, self.length = transform, length

    def __len__(self):
        return self.length

    def __getitem__(self, draw):
        return self.transform(sample(), draw.seed)


@pytest.mark.case("seed")
def test_results_depend_only_on_the_seed():
    """Nested transforms included, in any order of calls, and in any number of loader processes."""
    steps = [
        A.SomeOf([A.HorizontalFlip(p=0.5), A.GaussNoise(p=1), A.ColorJitter(p=1), A.CoarseDropout(p=1)], n=2, p=1),
        A.Sequential([A.OneOf([A.Affine(rotate=20, p=1), A.ElasticTransform(p=1)], p=0.7), A.RandomRain(p=0.3)], p=0.9),
    ]
    first, second = own(*steps), own(*steps)
    results = [first(sample(), seed) for seed in range(12)]
    for seed in reversed(range(12)):
        again = second(sample(), seed)
        assert np.array_equal(again.image, results[seed].image)
        assert np.array_equal(again.boxes, results[seed].boxes)
    assert len({result.image.tobytes() for result in results}) == 12
    batches = [list(train_loader(Images(first), 4, seed=3, workers=workers)) for workers in (0, 2)]
    for one, other in zip(*batches, strict=True):
        assert (one.images == other.images).all()


def test_the_probability_of_the_whole_pipeline_counts():
    transform = own(A.InvertImg(p=1), kind="classes", then=unchanged, p=0.5)
    changed = [not np.array_equal(transform(sample(), seed).image, sample().image) for seed in range(60)]
    assert 15 < sum(changed) < 45


def test_none_only_resizes_and_recipe_is_that_of_the_task():
    resize = letterbox()
    assert augmentation("none", unchanged, resize, "boxes") is resize
    assert augmentation("recipe", unchanged, resize, "boxes") is unchanged
    pipeline = A.to_dict(A.HorizontalFlip(p=1))
    assert isinstance(augmentation(pipeline, unchanged, resize, "boxes"), Augmentation)


def test_settings_of_the_files_own_boxes_are_replaced():
    """Its boxes may be in another format, and nested pipelines may have settings too."""
    inner = A.Compose([A.VerticalFlip(p=1)], bbox_params=A.BboxParams("yolo", label_fields=["other"]), seed=1)
    outer = A.Compose([A.HorizontalFlip(p=1), inner], bbox_params=A.BboxParams("coco", label_fields=["c"]), seed=5)
    out = Augmentation(A.to_dict(outer), unchanged, "boxes")(sample(), 0)
    np.testing.assert_allclose(out.boxes, [[100, 40, 180, 125], [5, 5, 150, 140]], atol=1e-4)


def test_files_of_earlier_versions_of_albumentations():
    step = {"__class_fullname__": "albumentations.augmentations.geometric.transforms.HorizontalFlip",
            "always_apply": True, "p": 0.0}  # fmt: skip
    out = Augmentation({"transform": step}, unchanged, "boxes")(sample(), 0)
    assert np.array_equal(out.image, sample().image[:, ::-1])
    step = {"__class_fullname__": "PadIfNeeded", "min_height": 9, "min_width": 9, "value": [0, 0, 0], "p": 1.0}
    with pytest.raises(BadInput, match="'value' are not valid for transform PadIfNeeded"):
        Augmentation({"transform": step}, unchanged, "boxes")


def test_advice_of_albumentations_is_a_warning(caplog):
    caplog.set_level(logging.WARNING)
    own(A.ShiftScaleRotate(p=1))
    assert "--data.augment: ShiftScaleRotate is a special case of Affine" in caplog.text


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_files_as_albumentations_saves_them(tmp_path, form):
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.OneOf([A.Rotate((-20, 20)), A.CLAHE()], p=0.4)])
    A.save(pipeline, tmp_path / f"p.{form}", data_format=form)
    content = read_pipeline(str(tmp_path / f"p.{form}"))
    assert content == json.loads(json.dumps(A.to_dict(pipeline)))
    assert read_pipeline(content) == content
    assert yaml.safe_load(yaml.safe_dump(content)) == content
    assert Augmentation(content, letterbox(), "boxes")(sample(), 0).image.shape == (*SIZE, 3)


# --- what is refused


@pytest.mark.case("R17")
@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "data.transforms.ScaleJitterCrop",  # a transform, but of another package
        "albumentations.core.composition.system",
        "albumentations.os.system",
        "Lambda",
        "BboxParams",
        "BasicTransform",
        "DualTransform",
        "Nothing",
        "",
        3,
        None,
        ["HorizontalFlip"],
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_only_albumentations_own_transforms_are_built(name, nested):
    step = {"__class_fullname__": name, "p": 1.0, "args": ["touch /tmp/x"]}
    step = {"__class_fullname__": "OneOf", "transforms": [step], "p": 1.0} if nested else step
    with pytest.raises(BadInput, match=r"is not a transform of albumentations|has no `__class_fullname__`"):
        Augmentation({"transform": step}, unchanged, "boxes")


@pytest.mark.case("R17")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("transform: !!python/object/apply:os.system ['exit 1']", "not valid"),
        ("!!python/object/new:os.system ['exit 1']", "not valid"),
        ("", "has no `transform`"),
        ("- HorizontalFlip", "has no `transform`"),
        ("transform: HorizontalFlip", "has no `transform`"),
        ("transform: {", "not valid"),
        ("a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c]\n"
         "e: &e [*d, *d, *d, *d, *d, *d]\nf: &f [*e, *e, *e, *e]\ntransform: {g: [*f, *f]}", f"{MAX_VALUES} values"),
    ],
)  # fmt: skip
def test_content_that_is_no_pipeline(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(BadInput, match=message):
        read_pipeline(str(tmp_path / "p.yaml"))


def test_a_cycle_in_a_file_ends(tmp_path):
    (tmp_path / "p.yaml").write_text("transform: &t\n  __class_fullname__: OneOf\n  p: 1\n  transforms: [*t]\n")
    with pytest.raises(BadInput, match="values"):
        read_pipeline(str(tmp_path / "p.yaml"))


@pytest.mark.parametrize(
    ("step", "kind", "message"),
    [
        (A.Normalize(), "classes", "Normalize of the pipeline in `augment` does not return an 8-bit RGB image"),
        (A.ToFloat(), "boxes", "ToFloat .* 8-bit RGB"),
        (A.pytorch.ToTensorV2(), "masks", "ToTensorV2 .* 8-bit RGB"),
        (A.ToGray(num_output_channels=1), "boxes", "ToGray .* 8-bit RGB"),
        (A.OverlayElements(), "boxes", "OverlayElements .* not its boxes"),
        (A.CropNonEmptyMaskIfExists(9, 9), "boxes", "CropNonEmptyMaskIfExists .* fails"),
        (A.RandomSizedBBoxSafeCrop(9, 9), "masks", "RandomSizedBBoxSafeCrop .* needs 'bboxes'"),
        (A.RandomCrop(900, 900), "boxes", "RandomCrop .* fails for an image of 512 x 512"),
    ],
)
def test_transforms_that_cannot_be_used_are_named_before_training(step, kind, message):
    """Also if they are nested and hardly ever applied."""
    step.p = 0.001
    with pytest.raises(BadInput, match=message):
        own(A.OneOf([A.HorizontalFlip(), A.Sequential([step])]), kind=kind)


def test_an_argument_out_of_range():
    step = {"__class_fullname__": "Rotate", "limit": "many", "p": 1.0}
    with pytest.raises(BadInput, match="Rotate in `augment` is not valid"):
        Augmentation({"transform": step}, unchanged, "boxes")
    with pytest.raises(BadInput, match="no list of `transforms`"):
        Augmentation({"transform": {"__class_fullname__": "Compose", "p": 1.0}}, unchanged, "boxes")


def test_a_pipeline_that_fails_for_an_image_names_it():
    transform = own(A.RandomCrop(200, 200, p=1), kind="classes")
    assert transform(sample(200, 200), 0).image.shape == (*SIZE, 3)
    with pytest.raises(BadInput, match="fails for image 7 of 200 x 150 pixels"):
        transform(sample(), 0)


def test_the_search_for_a_mask_ignores_unlabelled_pixels_and_class_0():
    """CropNonEmptyMaskIfExists looks for pixels of other classes, as in albumentations."""
    image = sample(label=0)
    image.mask[:70], image.mask[100:110, 150:160] = IGNORE, 2
    transform = own(A.CropNonEmptyMaskIfExists(40, 40, p=1), kind="masks", then=unchanged)
    for seed in range(20):
        assert (transform(image, seed).mask == 2).any()
    transform = own(A.CropNonEmptyMaskIfExists(40, 40, ignore_values=[2], p=1), kind="masks", then=unchanged)
    assert not all((transform(image, seed).mask == 2).any() for seed in range(20))


def test_what_save_writes_to_a_buffer_is_what_is_read():
    text = io.StringIO()
    A.save(A.HorizontalFlip(p=0.25), text, data_format="yaml")
    out = Augmentation(read_pipeline(yaml.safe_load(text.getvalue())), unchanged, "classes")
    flipped = [np.array_equal(out(sample(), seed).image, sample().image[:, ::-1]) for seed in range(80)]
    assert 8 < sum(flipped) < 35
