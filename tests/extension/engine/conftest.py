"""What tests of tiny models share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from transformers.utils import logging as transformers_logging


@pytest.fixture(scope="module")
def quiet_and_small() -> Iterator[None]:
    """No hints of transformers about faster kernels; no threads, which only wait for each other here."""
    verbosity, threads = transformers_logging.get_verbosity(), torch.get_num_threads()
    transformers_logging.set_verbosity_error()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    transformers_logging.set_verbosity(verbosity)
