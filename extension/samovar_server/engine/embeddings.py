"""`POST /v1/embeddings`, in the worker of a model that makes them, and in that of one that does not."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tornado import web

from samovar_server.engine.compute import ComputeThread
from samovar_server.engine.embedding import Embedder
from samovar_server.engine.generation import refuse_unknown
from samovar_server.engine.handlers import RefusingHandler, UnknownHandler, WorkerHandler
from samovar_server.errors import ContextLengthExceeded, InvalidRequest
from samovar_server.protocol.embeddings import EmbeddingRequest, embedding_answer
from samovar_server.protocol.fields import parse

ONLY_EMBEDDINGS = (
    "This model makes embeddings only. Send texts to /v1/embeddings, or use another model to generate."
)
NO_EMBEDDINGS = (
    "This model was made to generate text and does not say how its states would be pooled into embeddings. "
    "Use an embedding model: one with a sentence-transformers card."
)


@dataclass(slots=True)
class EmbeddingService:
    """What the handlers share. The compute thread tokenises and computes, one input after the other."""

    embedder: Embedder
    model_name: str
    secret: str
    compute: ComputeThread

    def application(self) -> web.Application:
        """The Tornado application of an embedding model's worker."""
        shared = {"service": self}
        return web.Application(
            [
                (r"/v1/embeddings", EmbeddingsHandler, shared),
                (r"/v1/.*", RefusingHandler, shared | {"message": ONLY_EMBEDDINGS}),
            ],
            default_handler_class=UnknownHandler,
            default_handler_args=shared,
            log_function=lambda handler: None,  # the gateway logs requests, with their callers
        )


class EmbeddingsHandler(WorkerHandler):
    """Texts or token lists to vectors."""

    gone = False

    async def post(self) -> None:
        """Vectors in the order of the inputs; a client that goes away stops after the running one."""
        service: EmbeddingService = self.service
        request = parse(EmbeddingRequest, self.request.body)
        if request.dimensions is not None and request.dimensions > service.embedder.width:
            raise InvalidRequest(
                f"dimensions: this model's vectors have {service.embedder.width} components.",
                param="dimensions",
            )
        call = service.compute.call
        inputs = [await asyncio.wrap_future(call(self._ids, item)) for item in request.input]
        vectors: list[list[float]] = []
        for ids in inputs:
            if self.gone:
                return
            vectors.append(await asyncio.wrap_future(call(service.embedder.embed, ids, request.dimensions)))
        tokens = sum(map(len, inputs))
        name = request.model or service.model_name
        self.finish(embedding_answer(name, vectors, tokens, request.encoding_format))

    def on_connection_close(self) -> None:
        """The client has gone."""
        self.gone = True

    def _ids(self, item: str | list[int]) -> list[int]:
        embedder = self.service.embedder
        ids = item if isinstance(item, list) else embedder.tokenize(item)
        refuse_unknown(ids, embedder.model.config.get_text_config().vocab_size, "input")
        if len(ids) > embedder.context_length:
            raise ContextLengthExceeded(
                f"An input has {len(ids)} tokens, but this model takes {embedder.context_length}. "
                "Split the text.",
                param="input",
            )
        return ids
