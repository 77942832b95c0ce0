"""Pictures of a finished segmentation run, from the files in its folder and its checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.batch import Sample
from data.mask_dataset import MaskDataset
from engine.checkpoint import read_run
from engine.predictor import Predictor
from engine.scored_images import pictures_of, positions, scored_images
from segmentation.config import PredictConfig, TrainConfig
from segmentation.task import SegmentationTask


def draw_images(run: Path, record: dict[str, Any], keys: Sequence[str]) -> dict[str, np.ndarray]:
    """Pictures (H, W, 3) uint8 RGB of images by their id: the truth and the prediction.

    Runs do not store class maps. Images without a picture in the run folder are predicted again from the checkpoint.

    Raises BadInput if the data set or the checkpoint is absent or damaged.
    """

    @cache
    def predictor() -> Predictor:
        info, state = read_run(run)
        return Predictor(SegmentationTask.from_run(info, state, PredictConfig()), torch.device("cpu"))

    def draw(key: str, sample: Sample) -> np.ndarray:
        predictions = predictor()(predictor().prepare(sample.image))
        return predictor().task.picture(sample.image, predictions, truth=sample)

    dataset = scored_images(MaskDataset, record, TrainConfig.of(record["config"]))
    return pictures_of(run, dataset, positions([str(i) for i in dataset.image_ids], keys), draw)
