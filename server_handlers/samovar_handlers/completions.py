"""`POST /v1/completions`."""

from __future__ import annotations

from tornado import web

from samovar_handlers.generation import GenerationHandler
from samovar_server.protocol.completions import parse_completion_request


class CompletionsHandler(GenerationHandler):
    """Texts and token lists."""

    @web.authenticated
    async def post(self) -> None:
        """Continue or score a prompt; with `stream`, as server-sent events."""
        body = self.json_body()
        await self.generate("/v1/completions", body, parse_completion_request(body))
