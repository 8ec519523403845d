"""Models as tables of plain text, the same in a notebook and on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from samovar.progress import duration, share, size
from samovar.records import Download, Leftover, LoadedModel, Model


def models_table(models: Sequence[Model]) -> str:
    """The models that can be named."""
    if not models:
        return "No model is on this machine yet. Bring one: samovar pull demo"
    return table(["MODEL", "IN MEMORY"], [[model.id, "yes" if model.loaded else ""] for model in models])


def loaded_table(models: Sequence[LoadedModel]) -> str:
    """The models in memory."""
    if not models:
        return "No model is in memory. The first request loads one."
    rows = [
        [
            model.model,
            model.state,
            model.device,
            model.dtype if model.quantization == "none" else model.quantization,
            "" if model.state == "failed" else size(model.memory_bytes),
            f"{model.in_flight} running, {model.queued} waiting",
            leaves(model),
        ]
        for model in models
    ]
    text = table(["MODEL", "STATE", "DEVICE", "TYPE", "MEMORY", "REQUESTS", "LEAVES MEMORY"], rows)
    failures = [f"{model.model}: {model.error}" for model in models if model.error]
    return "\n".join([text, *failures])


def leaves(model: LoadedModel) -> str:
    """When `model` leaves memory by itself."""
    if model.state != "ready":
        return ""
    if model.pinned:
        return "never (pinned)"
    if model.ttl == 0:
        return "never"
    if model.in_flight or model.queued or model.ttl_remaining is None:
        return "" if model.ttl is None else f"{model.ttl:.0f} s after its last use"
    return f"in {model.ttl_remaining:.0f} s"


def loaded_line(model: LoadedModel) -> str:
    """One line on a model that has come into memory, with what its load took, stage by stage."""
    stages = [f"{name} {seconds:.1f} s" for name, seconds in (model.load_seconds or {}).items()]
    took = f"; its load took: {', '.join(stages)}" if stages else ""
    return f"{model.model} is in memory: {size(model.memory_bytes)} on {model.device} ({model.dtype}){took}"


def unloaded_line(models: Sequence[LoadedModel]) -> str:
    """One line on the models whose memory is free again."""
    return f"Unloaded {', '.join(model.model for model in models)}" if models else "Nothing was in memory."


def downloads_table(jobs: Sequence[Download]) -> str:
    """Downloads, and why those failed that have."""
    if not jobs:
        return "There were no downloads. Begin one: samovar pull demo"
    rows = [
        [
            job.job_id[:8],
            job.url,
            job.status,
            f"{job.bytes_done / job.bytes_total:.0%}" if job.bytes_total else "",
            share(job.bytes_done, job.bytes_total),
            f"{size(job.bytes_per_second)}/s" if job.bytes_per_second else "",
            duration(job.eta_seconds) if job.eta_seconds is not None else "",
        ]
        for job in jobs
    ]
    text = table(["JOB", "MODEL", "STATUS", "DONE", "BYTES", "RATE", "LEFT"], rows)
    failures = [f"{job.job_id[:8]}: {job.error}" for job in jobs if job.error]
    return "\n".join([text, *failures])


def leftovers_table(leftovers: Sequence[Leftover]) -> str:
    """What takes disk space and is no model."""
    rows = [[KINDS.get(left.kind, left.kind), left.model, size(left.size_bytes)] for left in leftovers]
    return table(["WHAT", "OF", "SIZE"], rows)


KINDS = {
    "partial": "part of a download",
    "orphan": "blob without a model",
    "conversion": "conversion of a model that is gone",
}


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns, each as wide as its longest cell."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
