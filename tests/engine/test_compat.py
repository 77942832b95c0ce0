"""The parts of torch and Lightning that engine/compat.py uses. A failure message names the code to look at."""

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import nn

from engine import compat
from engine.checkpoint_io import AtomicCheckpointIO


def test_all_norms_over_a_batch_have_one_base():
    norms = (nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2), nn.SyncBatchNorm(2))
    message = "engine/task.py sets the momentum of torch.nn.modules.batchnorm._BatchNorm"
    assert all(isinstance(norm, compat.BatchNorm) and norm.momentum == 0.1 for norm in norms), message
    assert not isinstance(nn.GroupNorm(1, 2), compat.BatchNorm), message


def test_averages_of_many_tensors_equal_those_of_each():
    message = "the weight average in engine/trainer.py uses torch._foreach_lerp_ and torch._foreach_copy_"
    generator = torch.Generator().manual_seed(0)
    tensors, ends = ([torch.rand(shape, generator=generator) for shape in ((2, 3), (4,))] for _ in range(2))
    expected = [tensor.lerp(end, 0.25) for tensor, end in zip(tensors, ends, strict=True)]
    compat.lerp_all_(tensors, ends, 0.25)
    assert all(torch.equal(a, b) for a, b in zip(tensors, expected, strict=True)), message
    counts, sources = [torch.tensor(1), torch.tensor([2, 3])], [torch.tensor(7), torch.tensor([8, 9])]
    compat.copy_all_(counts, sources)
    assert [count.tolist() for count in counts] == [7, [8, 9]], message


def test_checkpoints_are_written_and_read_through_the_plugin(tmp_path):
    message = "engine/checkpoint_io.py overrides save_checkpoint of lightning.fabric.plugins.io.TorchCheckpointIO"
    plugin = AtomicCheckpointIO()
    assert isinstance(plugin, TorchCheckpointIO), message
    plugin.save_checkpoint({"epoch": 3}, tmp_path / "some" / "last.ckpt")
    assert plugin.load_checkpoint(tmp_path / "some" / "last.ckpt", weights_only=True) == {"epoch": 3}, message
    assert [file.name for file in (tmp_path / "some").iterdir()] == ["last.ckpt"], message
