"""HTML that the widgets share: colours of Jupyter's theme, bars, tables, messages. Text is escaped here."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """<style>
.samovar, .samovar-picture {
  --sv-text: var(--jp-ui-font-color1, #212121); --sv-dim: var(--jp-ui-font-color2, #616161);
  --sv-line: var(--jp-border-color2, #bdbdbd); --sv-fill: var(--jp-brand-color1, #1976d2);
  --sv-track: var(--jp-layout-color3, #e0e0e0); --sv-soft: var(--jp-layout-color2, #eeeeee);
  --sv-error: var(--jp-error-color1, #d32f2f);
}
.samovar { border: 1px solid var(--sv-line); border-radius: 4px; padding: 8px 10px; max-width: 960px;
  overflow: hidden; }
.samovar .widget-html-content, .samovar-picture { line-height: 1.45; color: var(--sv-text);
  font-size: var(--jp-ui-font-size1, 13px); overflow-wrap: anywhere; }
.samovar .samovar-title, .samovar-picture .samovar-title { font-weight: 600; }
.samovar .samovar-dim, .samovar-picture .samovar-dim { color: var(--sv-dim); }
.samovar .samovar-error, .samovar-picture .samovar-error { color: var(--sv-error); }
.samovar-bar { height: 8px; border-radius: 4px; background: var(--sv-track); overflow: hidden;
  border: 1px solid var(--sv-line); box-sizing: border-box; margin: 2px 0; }
.samovar-bar > div { height: 100%; background: var(--sv-fill); }
.samovar table, .samovar-picture table { border-collapse: collapse; width: 100%; table-layout: fixed; }
.samovar td, .samovar th, .samovar-picture td, .samovar-picture th { border: 1px solid var(--sv-line);
  padding: 4px 6px; text-align: left; vertical-align: top; white-space: pre-wrap; }
.samovar th, .samovar-picture th { background: var(--sv-soft); font-weight: 600; }
.samovar .samovar-grow { flex: 1 1 0; min-width: 0; width: auto; }
.samovar button:focus-visible, .samovar input:focus-visible, .samovar select:focus-visible,
.samovar textarea:focus-visible { outline: 2px solid var(--sv-fill); outline-offset: 1px; }
</style>"""


def title(text: str) -> str:
    """A heading of the widget."""
    return f'<div class="samovar-title" role="heading" aria-level="3">{escape(text)}</div>'


def line(text: str, *, dim: bool = False) -> str:
    """A line of text."""
    return f'<div class="samovar-dim">{escape(text)}</div>' if dim else f"<div>{escape(text)}</div>"


def error(text: str) -> str:
    """What went wrong; said in words, too, for those who do not see its colour."""
    return f'<div class="samovar-error" role="alert">Error: {escape(text)}</div>' if text else ""


def bar(fraction: float, label: str, *, role: str = "progressbar") -> str:
    """A bar filled up to `fraction`; `label` says in words what it shows."""
    percent = round(min(max(fraction, 0.0), 1.0) * 100)
    return (
        f'<div class="samovar-bar" role="{role}" aria-label="{escape(label)}" aria-valuemin="0" '
        f'aria-valuemax="100" aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts, its first column naming the rows."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
