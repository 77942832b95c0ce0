"""What a machine runs out of, told in one message: disk, memory, shared memory, processes. Imports no torch."""

from __future__ import annotations

import errno

from backbones.errors import BadInput, UserError

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc")
_ONEDNN = "could not create a primitive"  # for want of memory, where it does not go on: "descriptor for ..."
_SHARED = ("bus error", "shared memory", "/dev/shm", "torch_shm")
_WORKER = "dataloader worker"


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of its accelerator, does not suffice."""
    if isinstance(error, MemoryError):
        return True
    told = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and (
        any(words in told for words in _MEMORY) or told.strip() == _ONEDNN
    )


def loader_died(error: BaseException) -> bool:
    """Whether an error is torch's word that a loader process is gone. It comes from a signal, amid whatever is done."""
    return isinstance(error, RuntimeError) and _WORKER in str(error).lower()


def explain(error: BaseException) -> UserError | None:
    """The message for an error that is the machine's and not the program's; None for any other."""
    told = str(error).lower()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" at {error.filename}" if error.filename else ""
        return BadInput(f"the disk is full{place}. What was written before is intact; free some space and try again.")
    if isinstance(error, (RuntimeError, OSError)) and any(words in told for words in _SHARED):
        return BadInput(
            "shared memory is full, through which loader processes pass their batches. Give the machine more "
            "(docker run --shm-size 8g), lower --batch_size, or load in the main process with --data.workers 0."
        )
    if loader_died(error):
        return BadInput(
            "a loader process died, most often because the machine ran out of memory and the system killed it. Lower "
            "--data.workers or --batch_size; with --data.workers 0 images are read in the main process. On macOS and "
            'Windows, a script that calls this needs `if __name__ == "__main__":` before its work.'
        )
    if out_of_memory(error):
        return BadInput("memory does not suffice. Lower --batch_size or --image_size, or close other programs.")
    return None


def smaller_batch(batch_size: int, accumulate: int) -> UserError:
    """The message for a training step that does not fit in memory."""
    if batch_size == 1:
        return BadInput("memory does not suffice for a training step of one image. Lower --image_size or --phi.")
    half = batch_size // 2
    return BadInput(
        f"memory does not suffice for a training step of {batch_size} images. Try --batch_size {half} --accumulate "
        f"{2 * accumulate}, which takes the same steps, or a smaller --image_size."
    )
