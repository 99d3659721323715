"""When a device's memory did not suffice; needs no torch."""

import sys

OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
"""Words of torch's out-of-memory errors."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of the machine or of the GPU."""
    # Told by name and words: torch need not be loaded to know its out-of-memory
    # errors, which are plain RuntimeErrors on the CPU and on MPS.
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or told


def return_memory() -> None:
    """Give what torch holds of a GPU's memory for later back to the GPU."""
    torch = sys.modules.get("torch")
    if torch is None:
        return
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
