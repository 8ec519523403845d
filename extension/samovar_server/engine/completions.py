"""`POST /v1/completions`, in the worker."""

from __future__ import annotations

from typing import Any

from samovar_server.engine.generation import Generation, refuse_unknown, room_for
from samovar_server.engine.handlers import GeneratingHandler
from samovar_server.engine.sequence import Output, Sequence
from samovar_server.errors import InvalidRequest
from samovar_server.protocol.completions import (
    CompletionAnswer,
    CompletionRequest,
    parse_completion_request,
)
from samovar_server.protocol.sampling import TokenScore

Scored = list[tuple[int, TokenScore | None]]


class CompletionsHandler(GeneratingHandler):
    """Continues texts or token lists, or scores them."""

    async def answer(self) -> None:
        """Whole, or with `stream` as events."""
        request = parse_completion_request(self.request.body)
        generation = await self._generation(request)
        self.begin(generation)
        envelope = CompletionAnswer(request.model or self.service.model_name, self.service.vocabulary)
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
        async for index, output in generation.outputs():
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
        sequence = generation.sequences[index]
        first = generation.sequences[index - index % request.samples]  # holds the prompt's scores
        text = "".join(step.text for step in steps)
        scored = _scored(steps)
        if request.echo:
            text = self._prompt_text(request, index) + text
            scored = [*_prompt_scored(first), *scored]
        logprobs = None if request.logprobs is None else answer.logprobs(scored, request.logprobs, 0)
        choice = answer.choice(position, text, logprobs, steps[-1].finish_reason)
        if request.prompt_logprobs is not None:
            choice["prompt_logprobs"] = answer.prompt_logprobs(sequence.prompt, first.prompt_scores)
        return choice

    async def _stream(
        self, request: CompletionRequest, answer: CompletionAnswer, generation: Generation
    ) -> None:
        self.open_stream()
        offsets = [0] * len(generation.sequences)
        begun = [False] * len(generation.sequences)
        async for index, output in generation.outputs():
            text, scored = output.text, _scored([output])
            if request.echo and not begun[index]:
                first = generation.sequences[index - index % request.samples]
                text = self._prompt_text(request, index) + text
                scored = [*_prompt_scored(first), *scored]
            begun[index] = True
            logprobs = None
            if request.logprobs is not None:
                logprobs = answer.logprobs(scored, request.logprobs, offsets[index])
                offsets[index] += sum(len(piece) for piece in logprobs["tokens"])
            if text or scored or output.finish_reason is not None:
                self.event(answer.chunk(answer.choice(index, text, logprobs, output.finish_reason)))
                await self.flush()
        if request.include_usage or self.place.counted:
            self.event(answer.usage_chunk(generation.usage()))
        self.close_stream()

    def _prompt_text(self, request: CompletionRequest, index: int) -> str:
        prompt = request.prompt[index // request.samples]
        if isinstance(prompt, str):
            return prompt
        text: str = self.service.decoder.decode(prompt, skip_special_tokens=False)
        return text


def _scored(steps: list[Output]) -> Scored:
    return [(step.score.token, step.score) for step in steps if step.score is not None]


def _prompt_scored(sequence: Sequence) -> Scored:
    """The prompt's tokens with their scores; the first has none, as nothing stands before it."""
    return list(zip(sequence.prompt, [None, *sequence.prompt_scores], strict=False))


def _mean_logprob(steps: list[Output]) -> float:
    scores = [step.score.logprob for step in steps if step.score is not None]
    return sum(scores) / len(scores) if scores else 0.0
