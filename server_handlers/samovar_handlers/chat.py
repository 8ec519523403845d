"""`POST /v1/chat/completions`."""

from __future__ import annotations

from tornado import web

from samovar_handlers.generation import GenerationHandler
from samovar_server.protocol.chat import parse_chat_request


class ChatCompletionsHandler(GenerationHandler):
    """Conversations."""

    @web.authenticated
    async def post(self) -> None:
        """Continue a conversation; with `stream`, as server-sent events."""
        body = self.json_body()
        await self.generate("/v1/chat/completions", body, parse_chat_request(body))
