"""Parts that widgets are made of, with names that screen readers can tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar

import ipywidgets

from samovar.widgets.comms import hear_in_subshells

WIDE = {"description_width": "initial"}
"""The style of a field among others: its description takes the width that it needs."""

FIRST = {"description_width": "68px"}
"""The style of a field that begins a line, so that those below each other are aligned."""

Item_contra = TypeVar("Item_contra", contravariant=True)
Item = TypeVar("Item")


class Row(Protocol[Item_contra]):
    """One line of a list: what it is made of, and writing to it."""

    box: ipywidgets.Box

    def parts(self) -> list[ipywidgets.Widget]:
        """All parts, also those that `box` does not show just now."""

    def show(self, item: Item_contra) -> None:
        """Write `item` to the row."""


class Rows(Generic[Item]):
    """A list of rows. A row stays the same widget while its key is there, so that it keeps the focus."""

    def __init__(self, make: Callable[[str], Row[Item]]) -> None:
        self.box = ipywidgets.VBox()
        self._make = make
        self._shown: dict[str, Row[Item]] = {}

    def show(self, items: Mapping[str, Item]) -> None:
        """Show `items`, and nothing else."""
        kept = {key: self._shown.get(key) or self._new(key) for key in items}
        for key, item in items.items():
            kept[key].show(item)
        if list(kept) != list(self._shown):
            self.box.children = [shown.box for shown in kept.values()]
        for gone in self._shown.keys() - kept.keys():
            for part in [*self._shown[gone].parts(), self._shown[gone].box]:
                part.close()
        self._shown = kept

    def _new(self, key: str) -> Row[Item]:
        made = self._make(key)
        hear_in_subshells(made.parts())
        return made


def button(description: str, what_it_does: str, on_click: Callable[[], Any]) -> ipywidgets.Button:
    """A button; `what_it_does` is its tooltip, which screen readers tell after its name."""
    made = ipywidgets.Button(
        description=description,
        tooltip=what_it_does,
        layout={"width": "auto", "min_width": "84px", "flex": "0 0 auto"},
    )
    made.on_click(lambda _: on_click())
    return made


def row(*parts: ipywidgets.Widget) -> ipywidgets.HBox:
    """Parts side by side that wrap where the notebook is narrow."""
    return ipywidgets.HBox(parts, layout={"flex_flow": "row wrap", "align_items": "center", "width": "100%"})


def growing(part: ipywidgets.Widget) -> ipywidgets.Widget:
    """`part`, taking the width that the others in its row leave."""
    part.layout.width = "auto"
    part.layout.flex = "1 1 220px"
    part.layout.min_width = "0"
    return part


def model_box(name: str) -> ipywidgets.Widget:
    """Where a model is named; those that are in memory are to be its `options`."""
    return growing(
        ipywidgets.Combobox(
            value=name,
            description="Model",
            placeholder="empty: the default",
            continuous_update=False,
            style=FIRST,
        )
    )


def all_parts(box: ipywidgets.Box) -> list[ipywidgets.Widget]:
    """Everything inside `box`, however deep."""
    found: list[ipywidgets.Widget] = []
    for part in box.children:
        if isinstance(part, ipywidgets.Box):
            found += all_parts(part)
        found.append(part)
    return found
