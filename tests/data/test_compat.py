"""The interface of albumentations that data/compat.py uses. A failure message names the code to look at."""

import random

import albumentations as A
import numpy as np

from data import compat

TRANSFORMS = "data/transforms.py builds on albumentations/core/transforms_interface.py"
COMPOSE = "data/compat.py builds on Compose.set_random_state in albumentations/core/composition.py"


def test_the_hooks_of_a_step_are_called():
    called = []

    class Step(compat.DualTransform):
        def get_params_dependent_on_data(self, params, data):
            assert params["shape"][:2] == (6, 8), f"the shape of the image: {TRANSFORMS}"
            called.append("params")
            return {"value": self.py_random.random()}

        def apply(self, img, value, **params):
            called.append("image")
            return img

        def apply_to_mask(self, mask, value, **params):
            called.append("mask")
            return mask

        def apply_to_bboxes(self, bboxes, value, **params):
            assert bboxes[0, :4].tolist() == [0.25, 0.0, 0.5, 0.5], f"boxes are fractions of the image: {TRANSFORMS}"
            called.append("boxes")
            return bboxes

    step = Step(p=1.0)
    pipeline = A.Compose([step], bbox_params=A.BboxParams("pascal_voc", label_fields=["labels"]))
    out = pipeline(
        image=np.zeros((6, 8, 3), np.uint8),
        mask=np.zeros((6, 8), np.uint8),
        bboxes=np.array([[2.0, 0.0, 4.0, 3.0]]),
        labels=np.array([1]),
    )
    assert sorted(called) == ["boxes", "image", "mask", "params"], TRANSFORMS
    assert np.asarray(out["bboxes"]).tolist() == [[2.0, 0.0, 4.0, 3.0]], TRANSFORMS
    assert 0 <= step.params["value"] < 1, f"`params` holds the drawn values: {TRANSFORMS}"


def test_draws_are_a_function_of_the_seed_and_differ_between_steps():
    class Draws(A.ImageOnlyTransform):
        def get_params_dependent_on_data(self, params, data):
            return {"drawn": (self.py_random.random(), float(self.random_generator.random()))}

        def apply(self, img, drawn, **params):
            return img

    steps = [Draws(p=1.0), Draws(p=1.0)]
    pipeline, draw = A.Compose(steps), random.Random()

    def drawn(seed):
        compat.set_random_state(pipeline, seed, draw)
        pipeline(image=np.zeros((4, 4, 3), np.uint8))
        return [step.params["drawn"] for step in steps]

    first, other, again = drawn(5), drawn(6), drawn(5)
    assert first == again, f"equal seeds, different values: {COMPOSE}"
    assert first != other, f"the seed has no effect: {COMPOSE}"
    assert first[0][0] != first[1][0], f"two steps draw equal values: {COMPOSE}"
    assert first[0][1] != first[1][1], f"two steps draw equal values: {COMPOSE}"
    state = draw.getstate()
    compat.set_random_state(pipeline, 5, draw)
    assert draw.getstate() == random.Random(5).getstate() != state, f"the generator is not seeded: {COMPOSE}"
    assert all(step.py_random is draw for step in steps), f"steps do not use the generator: {COMPOSE}"
