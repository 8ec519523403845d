from __future__ import annotations

import pytest

from samovar_server.errors import InsufficientMemory, LoadFailed
from samovar_server.loader.failure import from_exit, from_words


@pytest.mark.parametrize(
    "words",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.",
        "[Errno 12] Cannot allocate memory",
        "ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 9",
        "vk::Device::allocateMemory: ErrorOutOfDeviceMemory; out of device memory",
        "torch.OutOfMemoryError: HIP error",
        "std::bad_alloc",
        "Unable to allocate 9 GiB for an array",
    ],
)
def test_all_ways_to_say_that_memory_ran_out(words: str) -> None:
    error = from_words("org/m", words)
    assert type(error) is InsufficientMemory
    assert error.message.startswith("Memory ran out while org/m was loaded. Unload other models")


def test_any_other_cause_is_shown_in_one_line() -> None:
    error = from_words("org/m", "tensor 'a'\n  is missing. See here.", engine="llama.cpp")
    assert type(error) is LoadFailed
    assert error.message == (
        "org/m could not be loaded by llama.cpp: tensor 'a' is missing. See the server's log."
    )
    assert len(from_words("org/m", "x" * 10_000).message) < 400


def test_a_kill_by_the_system_means_memory_and_another_end_does_not() -> None:
    assert type(from_exit("org/m", -9)) is InsufficientMemory
    assert type(from_exit("org/m", -11)) is type(from_exit("org/m", 1)) is LoadFailed
    assert "SIGSEGV" in from_exit("org/m", -11).message
