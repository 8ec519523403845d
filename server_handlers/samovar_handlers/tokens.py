"""`POST /v1/tokenize` and `/v1/detokenize`."""

from __future__ import annotations

from tornado import web

from samovar_handlers.generation import GenerationHandler
from samovar_server.protocol.fields import parse
from samovar_server.protocol.tokens import DetokenizeRequest, TokenizeRequest


class TokenizeHandler(GenerationHandler):
    """A text or a conversation as tokens."""

    @web.authenticated
    async def post(self) -> None:
        """{tokens, token_strings, count, context_length}."""
        body = self.json_body()
        await self.ask("/v1/tokenize", body, parse(TokenizeRequest, body))


class DetokenizeHandler(GenerationHandler):
    """Tokens as text."""

    @web.authenticated
    async def post(self) -> None:
        """{prompt}."""
        body = self.json_body()
        await self.ask("/v1/detokenize", body, parse(DetokenizeRequest, body))
