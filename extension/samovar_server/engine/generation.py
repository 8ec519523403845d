"""One HTTP request inside the engine: its sequences, and their outputs as one stream."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from collections.abc import Sequence as Seq
from functools import partial
from typing import Any

from samovar_server.engine.adapters import Adapter
from samovar_server.engine.core import Engine
from samovar_server.engine.sampler import Matcher, nth_seed
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.engine.text import TextStream
from samovar_server.errors import ContextLengthExceeded, InvalidRequest, SamovarError
from samovar_server.protocol.fields import GenerationRequest
from samovar_server.protocol.generation import Usage
from samovar_server.protocol.place import Place


class Aborted(Exception):
    """The generation was dropped; there is nobody left to answer."""


class Generation:
    """The sequences of a request: `samples` of each prompt, choice i being sample i % samples."""

    def __init__(self, engine: Engine, samples: int) -> None:
        self.sequences: list[Sequence] = []
        self.samples = samples
        self._engine = engine
        self._outputs: asyncio.Queue[tuple[int, Output] | None] = asyncio.Queue()
        self._aborted = False

    def add(
        self,
        request: GenerationRequest,
        prompt: list[int],
        *,
        max_tokens: int,
        stop_tokens: frozenset[int],
        decoder: Any,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        place: Place,
        adapter: Adapter | None = None,
        grammars: Seq[Matcher] = (),
        show_special: bool = False,
    ) -> None:
        """Add the samples of one prompt. Without a seed in the request, each has one of its own.

        `grammars` are one matcher per sample, or none. `show_special` keeps special tokens in the text.
        """
        seed = request.seed if request.seed is not None else int.from_bytes(os.urandom(8), "little")
        for sample in range(self.samples):
            self.sequences.append(
                Sequence(
                    prompt=prompt,
                    sampling=request.sampling(stop_tokens, nth_seed(seed, sample)),
                    max_tokens=max_tokens,
                    text=TextStream(
                        decoder, request.stop, show_special=show_special, min_tokens=request.min_tokens
                    ),
                    emit=partial(self._took, len(self.sequences)),
                    logprobs=logprobs,
                    prompt_logprobs=prompt_logprobs if sample == 0 else None,
                    place=place,
                    adapter=adapter,
                    grammar=grammars[sample] if grammars else None,
                )
            )

    def start(self) -> None:
        """Submit all. QueueFull when they do not all find a place; then none runs."""
        try:
            for sequence in self.sequences:
                self._engine.submit(sequence)
        except SamovarError:
            self.abort()
            raise
        if self._aborted:  # the client left before there was anything to abort
            self.abort()

    def abort(self) -> None:
        """Drop all sequences before the engine's next step."""
        self._aborted = True
        for sequence in self.sequences:
            self._engine.abort(sequence)
        self._outputs.put_nowait(None)

    async def outputs(self) -> AsyncIterator[list[tuple[int, Output]]]:
        """(choice, output) as they come, until every sequence has finished; Aborted after `abort`.

        Those that have come by now are yielded together: right drafts give a sequence several in one step,
        and what is sent together wakes whoever waits for it once. An error that ends one sequence ends them
        all, and is raised.
        """
        left = len(self.sequences)
        while left:
            first = await self._outputs.get()
            news: list[tuple[int, Output]] = []
            for item in (first, *self._come()):
                if item is None:
                    raise Aborted
                error = item[1].error
                if error is not None:
                    if news:
                        yield news
                    self.abort()
                    raise error
                news.append(item)
            left -= sum(output.is_last for _, output in news)
            yield news

    def usage(self) -> Usage:
        """Tokens so far; a prompt with several samples counts once."""
        firsts = self.sequences[:: self.samples]
        return Usage(
            prompt_tokens=sum(len(sequence.prompt) for sequence in firsts),
            completion_tokens=sum(len(sequence.output) for sequence in self.sequences),
            cached_tokens=sum(sequence.cached_tokens for sequence in firsts),
        )

    def _come(self) -> Iterator[tuple[int, Output] | None]:
        """What has come by now, without waiting."""
        while not self._outputs.empty():
            yield self._outputs.get_nowait()

    def _took(self, index: int, output: Output) -> None:
        self._outputs.put_nowait((index, output))


def room_for(prompt: Seq[int], asked: int | None, context_length: int, param: str) -> int:
    """Tokens to generate: what was asked for, or all that the window leaves.

    ContextLengthExceeded when prompt and output do not fit.
    """
    room = context_length - len(prompt)
    if room < (1 if asked is None else asked):
        output = "no room is left for an answer" if asked is None else f"max_tokens is {asked}"
        raise ContextLengthExceeded(
            f"The prompt has {len(prompt)} tokens and {output}, but the context window holds "
            f"{context_length} tokens. Shorten the prompt or lower max_tokens.",
            param=param,
        )
    return room if asked is None else asked


def check_token_ids(request: GenerationRequest, vocabulary: int) -> None:
    """Refuse ids that the model does not have, in the fields that hold ids."""
    ids = {"logit_bias": map(int, request.logit_bias), "stop_token_ids": request.stop_token_ids}
    for param, tokens in ids.items():
        refuse_unknown(tokens, vocabulary, param)


def refuse_unknown(tokens: Any, vocabulary: int, param: str) -> None:
    """InvalidRequest when one of `tokens` is outside the vocabulary."""
    bad = next((token for token in tokens if token >= vocabulary), None)
    if bad is not None:
        raise InvalidRequest(
            f"{param}: token {bad} is outside this model's vocabulary of {vocabulary} tokens.", param=param
        )
