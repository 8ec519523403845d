"""`POST /v1/chat/completions`, in the worker."""

from __future__ import annotations

from samovar_server.engine.generation import Generation, room_for
from samovar_server.engine.handlers import GeneratingHandler
from samovar_server.engine.sequence import Output
from samovar_server.engine.text import render_chat
from samovar_server.protocol.chat import ChatRequest, parse_chat_request
from samovar_server.protocol.generation import ChatAnswer
from samovar_server.protocol.sampling import TokenScore


class ChatHandler(GeneratingHandler):
    """Continues a conversation."""

    async def answer(self) -> None:
        """Whole, or with `stream` as events."""
        request = parse_chat_request(self.request.body)
        generation = await self._generation(request)
        self.begin(generation)
        envelope = ChatAnswer(request.model or self.service.model_name, self.service.vocabulary)
        if request.stream:
            await self._stream(request, envelope, generation)
        else:
            await self._whole(request, envelope, generation)

    async def _generation(self, request: ChatRequest) -> Generation:
        service = self.service
        service.check(request)
        messages = [message.for_template() for message in request.messages]
        prompt = await service.with_tokenizer(lambda tokenizer: render_chat(tokenizer, messages))
        generation = Generation(service.engine, request.n)
        generation.add(
            request,
            prompt,
            max_tokens=room_for(prompt, request.output_limit(), service.context_length, "messages"),
            stop_tokens=service.stop_tokens,
            decoder=service.decoder,
            logprobs=request.top_logprobs if request.logprobs else None,
        )
        return generation

    async def _whole(self, request: ChatRequest, answer: ChatAnswer, generation: Generation) -> None:
        outputs: list[list[Output]] = [[] for _ in range(request.n)]
        async for index, output in generation.outputs():
            outputs[index].append(output)
        choices = []
        for index, steps in enumerate(outputs):
            reason = steps[-1].finish_reason
            assert reason is not None
            scores = [step.score for step in steps if step.score is not None] if request.logprobs else None
            choices.append(answer.choice(index, "".join(step.text for step in steps), scores, reason))
        self.finish(answer.whole(choices, generation.usage()))

    async def _stream(self, request: ChatRequest, answer: ChatAnswer, generation: Generation) -> None:
        self.open_stream()
        for index in range(request.n):
            self.event(answer.first(index))
        async for index, output in generation.outputs():
            scores: list[TokenScore] | None = None
            if request.logprobs and output.score is not None:
                scores = [output.score]
            if output.text or scores:
                self.event(answer.delta(index, {"content": output.text}, scores))
            if output.finish_reason is not None:
                self.event(answer.delta(index, {}, None, output.finish_reason))
            await self.flush()
        if request.include_usage:
            self.event(answer.usage_chunk(generation.usage()))
        self.close_stream()
