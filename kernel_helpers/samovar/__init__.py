"""samovar in a notebook: magics, client and command line. Imports neither torch nor the server.

`%load_ext samovar` brings `%%generate` and `%samovar`. In Python:

    samovar.generate("Why is the sky blue?", max_tokens=60).text
    samovar.client()          # an openai.OpenAI that is already connected
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from samovar.errors import BadOption, BadPrompt, ConnectionLost, NoServer, SamovarError, ServerError

if TYPE_CHECKING:
    import openai
    from IPython.core.interactiveshell import InteractiveShell

    from samovar.result import Generation

__all__ = [
    "BadOption",
    "BadPrompt",
    "ConnectionLost",
    "NoServer",
    "SamovarError",
    "ServerError",
    "client",
    "generate",
]


def client() -> openai.OpenAI:
    """OpenAI's own client, connected to the samovar server that belongs to this kernel.

    NoServer says what to do when there is none.
    """
    import openai

    from samovar.connect import find_server, is_loopback

    server = find_server()
    # Requests for this machine must not go to the proxy that HTTP_PROXY names.
    http = openai.DefaultHttpxClient(trust_env=False) if is_loopback(server.url) else None
    return openai.OpenAI(base_url=server.url, api_key=server.token or "none", http_client=http)


def generate(
    prompt: str,
    *,
    model: str | None = None,
    system: str | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    top_k: int | None = None,
    min_p: float | None = None,
    presence_penalty: float | None = None,
    frequency_penalty: float | None = None,
    repetition_penalty: float | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    stop: str | Sequence[str] = (),
    ttl: float | None = None,
) -> Generation:
    """Generate an answer to `prompt` and return it when it is complete.

    The model is loaded first where it is not in memory; what is None is the server's choice. `stop` is
    one text or up to four that end the answer; `ttl` is for how many seconds the unused model then stays
    in memory, 0 for ever.

    Raises NoServer, ServerError when the server refuses, and ConnectionLost, whose `partial` holds what
    had arrived.
    """
    from samovar.generation import Request, Run, as_messages
    from samovar.session import current_session

    request = Request(
        messages=as_messages(prompt, system),
        model=model,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        repetition_penalty=repetition_penalty,
        seed=seed,
        max_tokens=max_tokens,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        ttl=ttl,
    )
    run = Run(current_session(), request)
    for _ in run.pieces():
        pass
    return run.result()


def load_ipython_extension(shell: InteractiveShell) -> None:
    """`%load_ext samovar`."""
    from samovar.magics import register

    register(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """`%unload_ext samovar`."""
    from samovar.magics import unregister

    unregister(shell)
