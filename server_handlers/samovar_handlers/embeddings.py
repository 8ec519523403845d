"""`POST /v1/embeddings`."""

from __future__ import annotations

from tornado import web

from samovar_handlers.generation import GenerationHandler
from samovar_server.protocol.embeddings import EmbeddingRequest
from samovar_server.protocol.fields import parse


class EmbeddingsHandler(GenerationHandler):
    """Texts as vectors."""

    @web.authenticated
    async def post(self) -> None:
        """One vector per input."""
        body = self.json_body()
        await self.ask("/v1/embeddings", body, parse(EmbeddingRequest, body))
