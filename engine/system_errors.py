"""Errors of the machine, each as one message: full disk or memory, no shared memory, dead processes. Torch-free."""

from __future__ import annotations

import errno

from backbones.errors import BadInput, UserError

_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory", "bad_alloc")
# oneDNN reports a lack of memory with exactly this message. A longer one, "... descriptor for ...", has other causes.
_ONEDNN = "could not create a primitive"
_SHARED = ("bus error", "shared memory", "/dev/shm", "torch_shm")
_WORKER = "dataloader worker"
# What a disk or a network drive reports: not writable, open elsewhere, broken, or not reachable.
_FILE_SYSTEM = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.ETXTBSY, errno.EIO, errno.ESTALE, errno.ENODEV,
    errno.ENOTCONN, errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
)  # fmt: skip


def out_of_memory(error: BaseException) -> bool:
    """Whether the error reports a lack of main memory or GPU memory."""
    if isinstance(error, MemoryError):
        return True
    message = str(error).lower()
    return isinstance(error, (RuntimeError, OSError)) and (
        any(words in message for words in _MEMORY) or message.strip() == _ONEDNN
    )


def loader_died(error: BaseException) -> bool:
    """Whether the error reports that a data loader process died.

    torch raises this error from a signal handler, so that any statement can raise it.
    """
    return isinstance(error, RuntimeError) and _WORKER in str(error).lower()


def explain(error: BaseException) -> UserError | None:
    """The UserError for an error that the machine caused. None for any other error."""
    message = str(error).lower()
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = f" at {error.filename}" if error.filename else ""
        return BadInput(f"the disk is full{place}. Files written before are intact. Free some space and try again.")
    if isinstance(error, OSError) and error.errno in _FILE_SYSTEM and error.filename:
        place = error.filename2 or error.filename
        return BadInput(f"cannot use {place}: {error.strerror}. Files written before are intact.")
    if isinstance(error, (RuntimeError, OSError)) and any(words in message for words in _SHARED):
        return BadInput(
            "shared memory is full. Loader processes use it to pass batches to the main process. Increase it (docker "
            "run --shm-size 8g), lower `batch_size`, or load images in the main process with `workers=0`.",
            settings=("batch_size", "data.workers"),
        )
    if loader_died(error):
        return BadInput(
            "a loader process died. The usual cause is that the machine ran out of memory and the system killed it. "
            "Lower `workers` or `batch_size`; with `workers=0` the main process reads the images. On macOS and Windows "
            'a script that starts loader processes needs `if __name__ == "__main__":` before its work.',
            settings=("data.workers", "batch_size"),
        )
    if out_of_memory(error):
        return BadInput(
            "out of memory. Lower `batch_size` or `image_size`, or close other programs.",
            settings=("batch_size", "image_size"),
        )
    return None


def cannot_write(path: object, error: OSError) -> UserError:
    """The error for a file or folder that could not be written."""
    return explain(error) or BadInput(f"cannot write {path}: {error.strerror or error}")


def nothing_fits() -> UserError:
    """The error for a training step of one image that does not fit in memory."""
    return BadInput(
        "out of memory in a training step with one image. Use `checkpointing=True`, or lower `image_size` or `phi`.",
        settings=("checkpointing", "image_size", "phi"),
    )


def fitted_batch(images: int) -> UserError:
    """The error for a training step that does not fit in memory, although `accumulate="auto"` chose it."""
    return BadInput(
        f"out of memory in a training step with the {images} images at once that `accumulate='auto'` chose. Free the "
        "memory that other programs use, then resume the run. If that is not possible, start a new run, which chooses "
        "again.",
        settings=("accumulate",),
    )


def smaller_batch(batch_size: int, accumulate: int) -> UserError:
    """The error for a training step that does not fit in memory. It suggests settings that compute the same steps."""
    if batch_size == 1:
        return nothing_fits()
    half = batch_size // 2
    return BadInput(
        f"out of memory in a training step with {batch_size} images. Use `batch_size={half}` "
        f"`accumulate={2 * accumulate}`, which computes the same optimiser steps, `accumulate='auto'`, which divides "
        "the batch until it fits, `checkpointing=True`, or a smaller `image_size`.",
        settings=("batch_size", "accumulate", "checkpointing", "image_size"),
    )
