"""`POST /v1/completions`: the request, checked, and the answer.

https://platform.openai.com/docs/api-reference/completions
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from samovar_server.protocol.fields import MAX_SAMPLES, UNION_TAG, GenerationRequest, parse, refusal
from samovar_server.protocol.generation import Answer, FinishReason
from samovar_server.protocol.sampling import TokenScore

MAX_PROMPTS = 256

Texts = list[Annotated[str, Field(min_length=1)]]
TokenLists = list[Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]]


def _kind(value: Any) -> str:
    return f"text{UNION_TAG}" if isinstance(value, list) and isinstance(value[0], str) else f"ids{UNION_TAG}"


Prompts = Annotated[
    Annotated[Texts, Tag(f"text{UNION_TAG}")] | Annotated[TokenLists, Tag(f"ids{UNION_TAG}")],
    Discriminator(_kind),
    Field(max_length=MAX_PROMPTS),
]


def _as_list(value: Any) -> Any:
    if isinstance(value, str):
        if not value:
            raise ValueError("it is empty. Send some text")
        return [value]
    if isinstance(value, list) and value and all(type(item) is int for item in value):
        return [value]
    if not isinstance(value, list) or not value:
        raise ValueError("a string, a list of token ids, or a list of either is needed")
    if not all(type(item) is type(value[0]) for item in value):
        raise ValueError("strings and token ids cannot be mixed in one request")
    return value


as_list_of_prompts = BeforeValidator(_as_list)
"""One prompt or several become a list of prompts."""


class CompletionRequest(GenerationRequest):
    """A checked completion request.

    `max_tokens` 0 with `echo` scores the prompt. `prompt_logprobs`, as in vLLM, gives the scores of the
    prompt's tokens with that many alternatives without putting the prompt into the text.
    """

    prompt: Annotated[Prompts, as_list_of_prompts]
    best_of: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @model_validator(mode="after")
    def _best_of_fits(self) -> Self:
        if self.best_of is not None and self.best_of < self.n:
            raise refusal("best_of", "it must be at least n")
        if self.stream and self.samples > self.n:
            raise refusal("best_of", "larger than n it cannot be streamed")
        if self.stream and self.prompt_logprobs is not None:
            raise refusal("prompt_logprobs", "it cannot be streamed; with echo, logprobs can")
        if self.max_tokens == 0 and not (self.echo or self.prompt_logprobs is not None):
            raise refusal("max_tokens", "0 only makes sense with echo or prompt_logprobs")
        return self

    @property
    def samples(self) -> int:
        """Completions to generate of each prompt; the best `n` are returned."""
        return self.best_of if self.best_of is not None else self.n

    @property
    def sequences(self) -> int:
        """See LoadFields."""
        return self.samples * len(self.prompt)

    def prompt_scores(self) -> int | None:
        """How many alternatives the scores of the prompt's tokens need; None for no scores."""
        wanted = [self.prompt_logprobs, self.logprobs if self.echo else None]
        return max((count for count in wanted if count is not None), default=None)


def parse_completion_request(body: bytes) -> CompletionRequest:
    """The request in `body`; InvalidRequest names the field at fault."""
    return parse(CompletionRequest, body)


@dataclass(frozen=True, slots=True)
class CompletionAnswer(Answer):
    """A text completion, whole or in chunks."""

    whole_object = "text_completion"
    chunk_object = "text_completion"
    id_prefix = "cmpl-"

    def choice(
        self, index: int, text: str, logprobs: dict[str, Any] | None, finish_reason: FinishReason | None
    ) -> dict[str, Any]:
        """One whole choice, or what one step added to it."""
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def logprobs(
        self, tokens: Sequence[tuple[int, TokenScore | None]], top: int, offsets: Sequence[int]
    ) -> dict[str, Any]:
        """The `logprobs` object: parallel lists over `tokens`, the first of a prompt having no score.

        `offsets` are where in the choice's text the tokens begin, in characters.
        """
        return {
            "tokens": [self._name(token) for token, _ in tokens],
            "token_logprobs": [None if score is None else score.logprob for _, score in tokens],
            "top_logprobs": [None if score is None else self._top(score, top) for _, score in tokens],
            "text_offset": list(offsets),
        }

    def prompt_logprobs(self, scores: Sequence[TokenScore], top: int) -> list[Any]:
        """vLLM's `prompt_logprobs`: for each token but the first, its and the `top` ones' scores by id."""
        return [None, *(self._by_id(score, top) for score in scores)]

    def _top(self, score: TokenScore, top: int) -> dict[str, float]:
        best = {self._name(token): logprob for token, logprob in score.top[:top]}
        # As OpenAI does, the token itself is always there, so there may be top + 1 entries.
        return best | {self._name(score.token): score.logprob}

    def _name(self, token: int) -> str:
        """The token's text, or as OpenAI has it the bytes of a part of a character, which has no text."""
        raw = self.texts.raw(token)
        try:
            bytes(raw).decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
        return self.texts.text(token)

    def _by_id(self, score: TokenScore, top: int) -> dict[str, Any]:
        ranked = {token: (logprob, rank) for rank, (token, logprob) in enumerate(score.top[:top], start=1)}
        ranked[score.token] = (score.logprob, score.rank)
        return {
            str(token): {"logprob": logprob, "rank": rank, "decoded_token": self.texts.text(token)}
            for token, (logprob, rank) in ranked.items()
        }
