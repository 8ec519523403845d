"""Output tokens per second as grouped bars, written as SVG by hand: no library is needed for a few boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from tests.benchmarks.results import Cycles, Fairness, Serving

COLOURS = ("#b5482a", "#e39a5f", "#d69c8a", "#f0cda9", "#7d8ca3", "#4a5f7f", "#5d8a66", "#8f6f9e")
BAR, GAP, HEIGHT, LEFT, TOP = 34, 36, 260, 50, 40


def throughput(serving: Serving, scenarios: Sequence[str]) -> str:
    """An SVG picture of output tok/s, one group of bars for each of `scenarios`."""
    servers = serving.servers()
    group = BAR * len(servers) + GAP
    width = LEFT + group * len(scenarios)
    speeds = {
        (scenario, server): row.tokens_per_second
        for scenario in scenarios
        for server in servers
        if (row := serving.row(server, scenario)) is not None
    }
    scale = HEIGHT / max(speeds.values())
    shapes: list[str] = []
    for column, scenario in enumerate(scenarios):
        start = LEFT + column * group
        for place, server in enumerate(servers):
            if (speed := speeds.get((scenario, server))) is None:
                continue
            left, height = start + place * BAR, speed * scale
            shapes.append(
                f'<rect x="{left}" y="{TOP + HEIGHT - height:.1f}" width="{BAR - 4}" height="{height:.1f}" '
                f'fill="{COLOURS[place % len(COLOURS)]}"/>'
            )
            shapes.append(label(left + BAR / 2 - 2, TOP + HEIGHT - height - 4, f"{speed:.0f}"))
        shapes.append(label(start + (group - GAP) / 2, TOP + HEIGHT + 18, scenario))
    legend_top = TOP + HEIGHT + 44
    for place, server in enumerate(servers):
        top = legend_top + 20 * place
        shapes.append(
            f'<rect x="{LEFT}" y="{top - 10}" width="12" height="12" fill="{COLOURS[place % len(COLOURS)]}"/>'
        )
        shapes.append(label(LEFT + 18, top, server, anchor="start"))
    title = label(LEFT, 20, "Output tokens per second (more is better)", anchor="start", size=14)
    height = legend_top + 20 * len(servers)
    return picture([title, *shapes], width, height)


def memory(found: Cycles) -> str:
    """An SVG picture of resident memory, cycle by cycle: with the model, and after its unload."""
    cycles = found.cycles
    series = {
        "server and worker, with the model": [cycle.loaded_bytes for cycle in cycles],
        "server and workers, after the unload": [c.server_bytes + c.left_bytes for c in cycles],
    }
    top = max(max(values) for values in series.values())
    step, width = 560 / len(cycles), LEFT + 600
    shapes = [label(LEFT, 20, "Resident memory in MB, cycle by cycle", anchor="start", size=14)]
    for place, (name, values) in enumerate(series.items()):
        points = " ".join(
            f"{LEFT + step * (number + 0.5):.1f},{TOP + HEIGHT * (1 - value / top):.1f}"
            for number, value in enumerate(values)
        )
        colour = COLOURS[2 * place]
        shapes.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        line = TOP + HEIGHT + 44 + 20 * place
        shapes.append(f'<rect x="{LEFT}" y="{line - 10}" width="12" height="12" fill="{colour}"/>')
        shapes.append(label(LEFT + 18, line, name, anchor="start"))
        end = TOP + HEIGHT * (1 - values[-1] / top)
        shapes.append(label(LEFT + 580, end - 6, f"{values[-1] / 10**6:.0f}"))
    shapes.append(label(LEFT, TOP + HEIGHT + 18, "1"))
    shapes.append(label(LEFT + 560, TOP + HEIGHT + 18, str(len(cycles))))
    shapes.append(
        f'<line x1="{LEFT}" y1="{TOP + HEIGHT}" x2="{LEFT + 560}" y2="{TOP + HEIGHT}" stroke="#888"/>'
    )
    return picture(shapes, width, TOP + HEIGHT + 84)


def waits(found: Fairness) -> str:
    """An SVG picture of how long each answer took, a row of dots for each way; the scale is logarithmic."""
    width, row = LEFT + 600, 56
    rows = {name: latency.answer for name, latency in found.latencies.items()}
    shortest = min(min(times) for times in rows.values()) / 1.2
    longest = max(max(times) for times in rows.values()) * 1.2

    def across(seconds: float) -> float:
        return LEFT + 560 * math.log(seconds / shortest) / math.log(longest / shortest)

    title = f"Seconds until a whole answer of {found.answer_tokens} tokens, one dot for each question"
    shapes = [label(LEFT, 20, title, anchor="start", size=14)]
    bottom = TOP + row * len(rows)
    for seconds in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100):
        if shortest <= seconds <= longest:
            x = across(seconds)
            shapes.append(f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{bottom}" stroke="#ddd"/>')
            shapes.append(label(x, bottom + 16, f"{seconds:g}"))
    for place, (name, times) in enumerate(rows.items()):
        y = TOP + row * place + 36
        shapes.append(label(LEFT, y - 16, name, anchor="start"))
        shapes += [
            f'<circle cx="{across(seconds):.1f}" cy="{y}" r="4" fill="{COLOURS[2 * place]}" '
            'fill-opacity="0.6"/>'
            for seconds in times
        ]
    return picture(shapes, width, bottom + 30)


def picture(shapes: Sequence[str], width: float, height: float) -> str:
    """The shapes on white, as a file."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif">',
            f'<rect width="{width}" height="{height}" fill="white"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def label(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}">{escape(text)}</text>'
