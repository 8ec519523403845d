"""`POST /v1/completions`, in the worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from samovar_server.engine.generation import Generation, refuse_unknown, room_for
from samovar_server.engine.handlers import GeneratingHandler
from samovar_server.engine.offsets import TextOffsets, prompt_offsets
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.errors import InvalidRequest
from samovar_server.protocol.completions import (
    CompletionAnswer,
    CompletionRequest,
    parse_completion_request,
)
from samovar_server.protocol.sampling import TokenScore


class CompletionsHandler(GeneratingHandler):
    """Continues texts or token lists, or scores them."""

    async def answer(self) -> None:
        """Whole, or with `stream` as events."""
        request = parse_completion_request(self.request.body)
        generation = await self._generation(request)
        self.begin(generation)
        envelope = CompletionAnswer(
            request.model or self.service.model_name, self.service.vocabulary, request.include_usage
        )
        if request.stream:
            await self._stream(request, envelope, generation)
        else:
            await self._whole(request, envelope, generation)

    async def _generation(self, request: CompletionRequest) -> Generation:
        service = self.service
        service.check(request, self.adapter)
        ranks = request.samples > request.n
        generation = Generation(service.engine, request.samples)
        for prompt in request.prompt:
            ids = await self._ids(prompt)
            generation.add(
                request,
                ids,
                max_tokens=room_for(ids, request.max_tokens, service.context_length, "prompt"),
                stop_tokens=service.stop_tokens,
                decoder=service.decoder,
                logprobs=0 if request.logprobs is None and ranks else request.logprobs,
                prompt_logprobs=request.prompt_scores(),
                place=self.place,
                adapter=self.adapter,
            )
        return generation

    async def _ids(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            refuse_unknown(prompt, self.service.vocabulary.size, "prompt")
            return prompt
        ids: list[int] = await self.service.with_tokenizer(lambda tokenizer: tokenizer(prompt)["input_ids"])
        if not ids:
            raise InvalidRequest("prompt: it has no tokens. Send some text.", param="prompt")
        return ids

    async def _whole(
        self, request: CompletionRequest, answer: CompletionAnswer, generation: Generation
    ) -> None:
        outputs: list[list[Output]] = [[] for _ in generation.sequences]
        async for news in generation.outputs():
            for index, output in news:
                outputs[index].append(output)
        choices: list[dict[str, Any]] = []
        for first in range(0, len(outputs), request.samples):
            samples = range(first, first + request.samples)
            # `best_of`: by mean log-probability per token; the order of equal ones stays.
            best = sorted(samples, key=lambda index: -_mean_logprob(outputs[index]))[: request.n]
            chosen = best if request.samples > request.n else samples
            choices += [
                self._choice(request, answer, len(choices) + offset, generation, index, outputs[index])
                for offset, index in enumerate(chosen)
            ]
        self.finish(answer.whole(choices, generation.usage()))

    def _choice(
        self,
        request: CompletionRequest,
        answer: CompletionAnswer,
        position: int,
        generation: Generation,
        index: int,
        steps: list[Output],
    ) -> dict[str, Any]:
        choice = self._begin(request, generation, index)
        for step in steps:
            choice.add(step)
        whole = answer.choice(position, choice.text, choice.logprobs(answer), steps[-1].finish_reason)
        if request.prompt_logprobs is not None:
            scores = _first_sample(request, generation, index).prompt_scores
            whole["prompt_logprobs"] = answer.prompt_logprobs(scores, request.prompt_logprobs)
        return whole

    async def _stream(
        self, request: CompletionRequest, answer: CompletionAnswer, generation: Generation
    ) -> None:
        self.open_stream()
        begun: dict[int, Choice] = {}
        async for news in generation.outputs():
            for index, output in news:
                if index not in begun:
                    begun[index] = self._begin(request, generation, index)
                choice = begun[index]
                choice.add(output)
                if choice.text or choice.scored or output.finish_reason is not None:
                    logprobs = choice.logprobs(answer)
                    added = answer.choice(index, choice.text, logprobs, output.finish_reason)
                    self.event(answer.chunk(added))
                choice.told()
            await self.flush()
        if request.include_usage or self.place.counted:
            self.event(answer.usage_chunk(generation.usage()))
        self.close_stream()

    def _begin(self, request: CompletionRequest, generation: Generation, index: int) -> Choice:
        """The choice before its first output: empty, or with `echo` the prompt."""
        prompt = self._prompt_text(request, index) if request.echo else ""
        choice = Choice(prompt, request.logprobs, TextOffsets(self.service.decoder, len(prompt)))
        if request.echo and request.logprobs is not None:
            sequence = _first_sample(request, generation, index)
            # The first token has no score, as nothing stands before it.
            choice.scored += zip(sequence.prompt, [None, *sequence.prompt_scores], strict=True)
            choice.offsets += prompt_offsets(self.service.decoder, sequence.prompt, prompt)
        return choice

    def _prompt_text(self, request: CompletionRequest, index: int) -> str:
        prompt = request.prompt[index // request.samples]
        if isinstance(prompt, str):
            return prompt
        text: str = self.service.decoder.decode(prompt, skip_special_tokens=False)
        return text


@dataclass(slots=True)
class Choice:
    """What of one choice was not told yet: its text, and its tokens with their scores and places in it.

    `top` is how many alternatives were asked for; with None there are no scores.
    """

    text: str
    top: int | None
    places: TextOffsets
    scored: list[tuple[int, TokenScore | None]] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)

    def add(self, output: Output) -> None:
        """What a step added."""
        self.text += output.text
        if self.top is not None and output.score is not None:
            self.scored.append((output.score.token, output.score))
            self.offsets.append(self.places.add(output.score.token))

    def logprobs(self, answer: CompletionAnswer) -> dict[str, Any] | None:
        """The `logprobs` object; None when it was not asked for."""
        return None if self.top is None else answer.logprobs(self.scored, self.top, self.offsets)

    def told(self) -> None:
        """Forget what has been told."""
        self.text, self.scored, self.offsets = "", [], []


def _first_sample(request: CompletionRequest, generation: Generation, index: int) -> Sequence:
    """The sequence that holds the scores of the prompt of choice `index`."""
    return generation.sequences[index - index % request.samples]


def _mean_logprob(steps: list[Output]) -> float:
    scores = [step.score.logprob for step in steps if step.score is not None]
    return sum(scores) / len(scores) if scores else 0.0
