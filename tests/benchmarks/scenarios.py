"""The loads: how many clients, what they send, how much they ask for. Prompts are made, not downloaded."""

from __future__ import annotations

import random
from dataclasses import dataclass

WORDS = (
    "river mountain city garden winter summer letter window music teacher doctor station market "
    "island forest bridge kitchen morning evening story question answer journey captain painter "
    "engine signal harbour village castle teapot lantern orchard meadow cloud storm copper silver "
    "quiet bright narrow gentle ancient hidden distant sudden careful golden empty broken open slow"
).split()
TOKENS_A_WORD = 1.15
"""Of these words, in sentences as below, for the demo model's tokenizer."""


@dataclass(frozen=True)
class Scenario:
    """`clients` send one request each, all at once; lengths are in tokens, those of prompts about right.

    The first `shared` tokens of the prompts are the same in all of them. Each server gets the load so many
    `rounds`.
    """

    name: str
    clients: int
    prompt_tokens: int
    max_tokens: int
    shared: int = 0
    rounds: int = 1

    def prompts(self, salt: str) -> list[str]:
        """A prompt for each client. No two with different salt begin alike."""
        common = text_of_length(f"{salt} {self.name}", self.shared) if self.shared else ""
        own = self.prompt_tokens - self.shared
        return [
            common + text_of_length(f"{salt} {self.name} {number}", own) for number in range(self.clients)
        ]


def text_of_length(seed: str, tokens: int) -> str:
    """About `tokens` tokens of prose without meaning, the same for the same seed."""
    source = random.Random(seed)
    words = max(8, round(tokens / TOKENS_A_WORD))
    chosen = [source.choice(WORDS) for _ in range(words)]
    for end in range(9, words, 10):
        chosen[end] += "."
    return " ".join(chosen).capitalize() + " Then"


def scenarios(quick: bool) -> list[Scenario]:
    """What every server is measured with; `quick` is for trying the benchmark out."""
    if quick:
        return [
            Scenario("short, 1 client", 1, 40, 8, rounds=2),
            Scenario("short, 4 clients", 4, 40, 8),
            Scenario("long prompt", 1, 200, 4),
            Scenario("shared prefix", 2, 200, 4, shared=160),
        ]
    return [
        Scenario("short, 1 client", 1, 40, 64, rounds=3),
        Scenario("short, 4 clients", 4, 40, 64, rounds=3),
        Scenario("short, 16 clients", 16, 40, 64, rounds=3),
        Scenario("short, 64 clients", 64, 40, 32),
        Scenario("long prompt, 4 clients", 4, 1000, 32),
        Scenario("shared prefix, 16 clients", 16, 500, 32, shared=460),
    ]


def gateway_loads(quick: bool) -> list[Scenario]:
    """What the gateway is measured with: short, since they are run many times by turns."""
    if quick:
        return [Scenario("2 clients", 2, 40, 4)]
    return [Scenario("4 clients", 4, 40, 32), Scenario("16 clients", 16, 40, 24)]
