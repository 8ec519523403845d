"""`POST /v1/tokenize` and `/v1/detokenize`, in the worker."""

from __future__ import annotations

from typing import Any

from samovar_server.engine.generation import refuse_unknown
from samovar_server.engine.handlers import WorkerHandler
from samovar_server.engine.tool_prompt import render
from samovar_server.protocol.fields import parse
from samovar_server.protocol.tokens import DetokenizeRequest, TokenizeRequest


class TokenizeHandler(WorkerHandler):
    """Text or a conversation to tokens."""

    async def post(self) -> None:
        """{tokens, token_strings, count, context_length}."""
        request = parse(TokenizeRequest, self.request.body)

        def encode(tokenizer: Any) -> list[int]:
            if request.messages is not None:
                return render(tokenizer, [message.for_template() for message in request.messages])
            ids: list[int] = tokenizer(request.prompt, add_special_tokens=request.add_special_tokens)[
                "input_ids"
            ]
            return ids

        tokens = await self.service.with_tokenizer(encode)
        self.finish(
            {
                "tokens": tokens,
                "token_strings": [self.service.vocabulary.text(token) for token in tokens],
                "count": len(tokens),
                "context_length": self.service.context_length,
            }
        )


class DetokenizeHandler(WorkerHandler):
    """Tokens to text."""

    async def post(self) -> None:
        """{prompt}."""
        request = parse(DetokenizeRequest, self.request.body)
        refuse_unknown(request.tokens, self.service.vocabulary.size, "tokens")
        self.finish({"prompt": self.service.decoder.decode(request.tokens, skip_special_tokens=False)})
