"""HTML that the widgets share: colours of Jupyter's theme, bars, messages. Text is escaped here."""

from __future__ import annotations

from html import escape

STYLE = """<style>
.samovar, .samovar-picture {
  --sv-text: var(--jp-ui-font-color1, #212121); --sv-dim: var(--jp-ui-font-color2, #616161);
  --sv-line: var(--jp-border-color2, #bdbdbd); --sv-fill: var(--jp-brand-color1, #1976d2);
  --sv-track: var(--jp-layout-color3, #e0e0e0); --sv-soft: var(--jp-layout-color2, #eeeeee);
  --sv-error: var(--jp-error-color1, #d32f2f);
}
[data-jp-theme-light="false"] :is(.samovar, .samovar-picture) { --sv-error: var(--jp-error-color2, #e57373);
  --jp-widgets-dropdown-arrow: url("data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' \
viewBox='0 0 18 18'%3E%3Cpath fill='none' stroke='%23e0e0e0' stroke-width='2' \
d='M5 7l4 4 4-4'/%3E%3C/svg%3E"); }
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
  padding: 4px 6px; text-align: left !important; vertical-align: top; white-space: pre-wrap; }
.samovar th, .samovar-picture th { background: var(--sv-soft); font-weight: 600; }
.samovar td .samovar-dim, .samovar-picture td .samovar-dim { font-size: 12px; }
.samovar .widget-label { text-align: left; }
.samovar-tokens { position: relative; white-space: pre-wrap; line-height: 1.9; }
.samovar-tokens > span:hover::after { content: attr(data-more); position: absolute; left: 0; z-index: 10;
  display: block; width: max-content; max-width: 100%; box-sizing: border-box; padding: 4px 8px;
  color: var(--sv-text); background: var(--jp-layout-color1, #ffffff); border: 1px solid var(--sv-line);
  border-radius: 4px; box-shadow: 0 2px 6px rgba(0, 0, 0, 0.3); line-height: 1.45; pointer-events: none; }
.samovar button:focus-visible, .samovar input:focus-visible, .samovar select:focus-visible,
.samovar textarea:focus-visible { outline: 2px solid var(--sv-fill); outline-offset: 1px; }
</style>"""


def title(text: str) -> str:
    """A heading of the widget."""
    return f'<div class="samovar-title" role="heading" aria-level="3">{escape(text)}</div>'


def line(text: str, *, dim: bool = False) -> str:
    """A line of text."""
    return f'<div class="samovar-dim">{escape(text)}</div>' if dim else f"<div>{escape(text)}</div>"


def news(text: str) -> str:
    """What has come of something that the user has asked for, if anything; screen readers tell it."""
    return f'<div role="status">{escape(text)}</div>' if text else ""


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
