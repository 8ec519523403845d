"""What the server and a worker process say to each other over the worker's pipes.

The server writes one line, a `WorkerSpec` or that of another engine, to the worker's stdin, and then keeps
stdin open: its end tells the worker that the server is gone. The worker writes one JSON line per event to
its stdout. Everything after `Ready` goes over HTTP, guarded by `WorkerSpec.secret`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

NonNegative = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """All that a worker needs to load one model and serve it.

    `model_path` is the model's folder; `model_name` is what answers call it. `slots` is how many
    requests are decoded together, `reserve` of them in slots that the server fills with newcomers, and
    `max_queue` how many more may wait. A `context_length` of None means the model's own window. `kv_tokens`
    are the tokens whose keys and values the server counts with; None: every slot at full length.
    `speculative` allows to compute tokens ahead of their time where that changes no bit.
    """

    model_path: str
    model_name: str
    device: str
    dtype: str
    quantization: str
    context_length: int | None
    slots: int
    max_queue: int
    secret: str = field(repr=False)
    kv_tokens: int | None = None
    reserve: int = 0
    speculative: bool = True


@dataclass(frozen=True, slots=True)
class LlamaCppSpec:
    """The same for llama.cpp. `model_path` is a GGUF file, the first one of several parts.

    `context_length` is each request's own. `n_gpu_layers` -1 puts all layers on the GPU. `memory_bytes` is
    the estimate, which stands where the process cannot see what it takes: on a GPU.
    """

    model_path: str
    model_name: str
    device: str
    context_length: int
    slots: int
    n_gpu_layers: int
    memory_bytes: int
    secret: str = field(repr=False)
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """The same for a server that a command starts, in an environment of its own.

    `arguments` is the command line, in which "{port}" stands for the port that it is to listen on, and
    `environment` is added to the worker's; in the variable `key_variable` the command looks for the key that
    its clients have to show.
    """

    model_name: str
    arguments: list[str]
    environment: dict[str, str]
    key_variable: str
    device: str
    dtype: str
    context_length: int | None
    memory_bytes: int
    secret: str = field(repr=False)


Spec = WorkerSpec | LlamaCppSpec | CommandSpec
SpecT = TypeVar("SpecT", WorkerSpec, LlamaCppSpec, CommandSpec)


@dataclass(frozen=True, slots=True)
class Imported:
    """The libraries are imported; the worker waits for its spec or begins to load."""

    seconds: Seconds
    event: Literal["imported"] = "imported"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the whole load is: `fraction` from 0 to 1."""

    phase: Literal["weights", "warmup"]
    fraction: Fraction
    bytes_done: NonNegative = 0
    bytes_total: NonNegative = 0
    event: Literal["progress"] = "progress"


@dataclass(frozen=True, slots=True)
class Ready:
    """The worker answers on 127.0.0.1:`port`. `memory_bytes` is what it really takes.

    `slots` is how many sequences it computes together, not counting the `reserve`; None: it does not know.
    """

    port: Annotated[int, Field(gt=0, le=65535)]
    device: str
    dtype: str
    context_length: Annotated[int, Field(gt=0)]
    memory_bytes: NonNegative
    load_seconds: dict[str, Seconds]
    slots: Annotated[int, Field(gt=0)] | None = None
    reserve: NonNegative = 0
    event: Literal["ready"] = "ready"


@dataclass(frozen=True, slots=True)
class Failed:
    """The load failed for good; `code` is one of samovar's error codes, and the process ends."""

    code: str
    message: str
    event: Literal["failed"] = "failed"


WorkerEvent = Imported | Progress | Ready | Failed

_EVENT: TypeAdapter[WorkerEvent] = TypeAdapter(Annotated[WorkerEvent, Field(discriminator="event")])


class ProtocolError(ValueError):
    """A line that is not what the protocol allows; the text says what is wrong with it."""


def spec_line(spec: Spec) -> bytes:
    """`spec` as the line to write to a worker's stdin."""
    return TypeAdapter(type(spec)).dump_json(spec) + b"\n"


def parse_spec(line: bytes, kind: type[SpecT]) -> SpecT:
    """The spec, of this `kind`, in a line that came in on stdin; ProtocolError when there is none."""
    try:
        return TypeAdapter(kind).validate_json(line)
    except ValidationError as error:
        raise ProtocolError(_reason(error)) from None


def event_line(event: WorkerEvent) -> bytes:
    """`event` as the line to write to stdout."""
    return _EVENT.dump_json(event) + b"\n"


def parse_event(line: bytes) -> WorkerEvent:
    """The event in a line that a worker wrote; ProtocolError when it is something else."""
    try:
        return _EVENT.validate_json(line)
    except ValidationError as error:
        raise ProtocolError(_reason(error)) from None


def _reason(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
