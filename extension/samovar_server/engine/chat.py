"""`POST /v1/chat/completions`, in the worker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from samovar_server.engine.constraint import Constraint, constrain
from samovar_server.engine.generation import Generation, room_for
from samovar_server.engine.handlers import GeneratingHandler
from samovar_server.engine.sequence import Output
from samovar_server.engine.tool_parser import CallBegins, Content, Piece, ToolParser
from samovar_server.engine.tool_prompt import render
from samovar_server.protocol.chat import ChatRequest, parse_chat_request
from samovar_server.protocol.generation import ChatAnswer, FinishReason
from samovar_server.protocol.sampling import TokenScore
from samovar_server.protocol.tools import tool_call, tool_call_begins, tool_call_goes_on


class ChatHandler(GeneratingHandler):
    """Continues a conversation."""

    async def answer(self) -> None:
        """Whole, or with `stream` as events."""
        request = parse_chat_request(self.request.body)
        self.service.check(request, self.adapter)
        constraint = Constraint()
        if request.is_constrained:
            constraint = await self.service.with_grammars(lambda grammars: constrain(request, grammars))
        generation = await self._generation(request, constraint)
        self.begin(generation)
        envelope = ChatAnswer(
            request.model or self.service.model_name, self.service.vocabulary, request.include_usage
        )
        choices = [Choice(constraint.parser()) for _ in range(request.n)]
        if request.stream:
            await self._stream(request, envelope, generation, choices)
        else:
            await self._whole(request, envelope, generation, choices)

    async def _generation(self, request: ChatRequest, constraint: Constraint) -> Generation:
        service = self.service
        messages = [message.for_template() for message in request.messages]
        tools = [tool.for_template() for tool in request.tools if request.tool_choice.type != "none"]
        prompt = await service.with_tokenizer(lambda tokenizer: render(tokenizer, messages, tools))
        generation = Generation(service.engine, request.n)
        generation.add(
            request,
            prompt,
            max_tokens=room_for(prompt, request.output_limit(), service.context_length, "messages"),
            stop_tokens=service.stop_tokens,
            decoder=service.decoder,
            logprobs=request.top_logprobs if request.logprobs else None,
            place=self.place,
            adapter=self.adapter,
            grammars=constraint.matchers,
            show_special=constraint.show_special,
        )
        return generation

    async def _whole(
        self, request: ChatRequest, answer: ChatAnswer, generation: Generation, choices: Sequence[Choice]
    ) -> None:
        pieces: list[list[Piece]] = [[] for _ in choices]
        scores: list[list[TokenScore]] = [[] for _ in choices]
        async for news in generation.outputs():
            for index, output in news:
                pieces[index] += choices[index].add(output)
                scores[index] += [output.score] if output.score is not None else []
        whole = []
        for index, choice in enumerate(choices):
            assert choice.finish_reason is not None
            text = "".join(piece.text for piece in pieces[index] if isinstance(piece, Content))
            scored = scores[index] if request.logprobs else None
            calls = _calls(pieces[index])
            whole.append(answer.choice(index, text, scored, choice.finish_reason, calls))
        self.finish(answer.whole(whole, generation.usage()))

    async def _stream(
        self, request: ChatRequest, answer: ChatAnswer, generation: Generation, choices: Sequence[Choice]
    ) -> None:
        self.open_stream()
        for index in range(request.n):
            self.event(answer.first(index))
        async for news in generation.outputs():
            for index, output in news:
                choice = choices[index]
                deltas = [_delta(piece) for piece in choice.add(output)]
                scores = [output.score] if request.logprobs and output.score is not None else None
                if scores and not deltas:
                    deltas = [{"content": ""}]  # a token that shows no text yet
                for delta in deltas:
                    self.event(answer.delta(index, delta, scores))
                    scores = None  # with the first delta of the step
                if choice.finish_reason is not None:
                    self.event(answer.delta(index, {}, None, choice.finish_reason))
            await self.flush()
        if request.include_usage or self.place.counted:
            self.event(answer.usage_chunk(generation.usage()))
        self.close_stream()


class Choice:
    """One choice of an answer, from outputs to content and calls."""

    def __init__(self, parser: ToolParser | None) -> None:
        self._parser = parser
        self.finish_reason: FinishReason | None = None

    def add(self, output: Output) -> list[Piece]:
        """What `output` adds; `finish_reason` is set with the last one."""
        self.finish_reason = output.finish_reason
        if self._parser is None:
            return [Content(output.text)] if output.text else []
        pieces = self._parser.add(output.text)
        if output.finish_reason is not None:
            pieces += self._parser.flush()
        if output.finish_reason == "stop" and self._parser.called:
            self.finish_reason = "tool_calls"
        return pieces


def _delta(piece: Piece) -> dict[str, Any]:
    if isinstance(piece, Content):
        return {"content": piece.text}
    if isinstance(piece, CallBegins):
        return {"tool_calls": [tool_call_begins(piece.index, piece.id, piece.name)]}
    return {"tool_calls": [tool_call_goes_on(piece.index, piece.text)]}


def _calls(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    begun = [piece for piece in pieces if isinstance(piece, CallBegins)]
    arguments = [""] * len(begun)
    for piece in pieces:
        if not isinstance(piece, Content | CallBegins):
            arguments[piece.index] += piece.text
    return [tool_call(call.id, call.name, arguments[call.index]) for call in begun]
