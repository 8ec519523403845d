"""Rows as pandas DataFrames, for whoever has pandas; samovar does not need it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from samovar.errors import BadOption

if TYPE_CHECKING:
    import pandas as pd


def dataframe(rows: Sequence[Mapping[str, Any]], index: Any = None) -> pd.DataFrame:
    """`rows` as a DataFrame; BadOption says so where pandas is not installed."""
    try:
        import pandas as pd
    except ImportError:
        raise BadOption(
            "A DataFrame needs pandas: %pip install pandas. Without it, rows() gives the same."
        ) from None
    return pd.DataFrame(rows, index=index)


def is_dataframe(value: object) -> bool:
    """Whether `value` is a DataFrame; where nobody has imported pandas nothing is."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(value, pandas.DataFrame)
