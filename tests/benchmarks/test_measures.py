"""The benchmarks' arithmetic; what they measure is not tested here, and no clock is looked at."""

from __future__ import annotations

import asyncio
import json
import math

import httpx
import pytest

from tests.benchmarks.client import Endpoint, Run, Stream, run
from tests.benchmarks.measures import Row, middle, percentile, summarise
from tests.benchmarks.own import Gateway, Paired, Spread, gateway
from tests.benchmarks.plot import throughput
from tests.benchmarks.report import cell_section, serving_sections
from tests.benchmarks.results import CellOverhead, Serving
from tests.benchmarks.scenarios import Scenario, scenarios
from tests.benchmarks.servers import SLOTS
from tests.benchmarks.targets import verdicts

LOAD = Scenario("short, 1 client", 2, 40, 3)
ENDPOINT = Endpoint("http://server/v1", "demo")


def answer(*events: object) -> httpx.MockTransport:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
    return httpx.MockTransport(lambda request: httpx.Response(200, text=body))


def ask(transport: httpx.MockTransport) -> Run:
    async def go() -> Run:
        async with httpx.AsyncClient(transport=transport) as client:
            return await run(client, ENDPOINT, ["one", "two"], 3, limit=30)

    return asyncio.run(go())


def test_tokens_are_counted_as_the_server_counts_them() -> None:
    usage = {"completion_tokens": 7, "prompt_tokens": 2}
    measured = ask(answer({"choices": [{"text": "a"}]}, {"choices": [{"text": ""}], "usage": usage}))
    assert [len(stream.arrivals) for stream in measured.streams] == [1, 1]
    assert measured.tokens == 14
    assert all(stream.finished for stream in measured.streams)


def test_an_error_in_a_stream_is_not_measured_as_an_answer() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        ask(answer({"choices": [{"text": "a"}]}, {"error": {"message": "out of order"}}))
    assert caught.group_contains(RuntimeError, match="out of order")


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.95)) == (50.0, 95.0)
    assert percentile([3.0], 0.95) == 3.0
    assert math.isnan(percentile([], 0.5))


def test_rounds_become_their_medians_and_none_hides_that_a_load_was_cut_off() -> None:
    rounds = [
        Row("samovar", "short", 2, finished, 6, 1.0, speed, 0.1, 0.2, 0.3, gap)
        for finished, speed, gap in [(2, 10.0, 3.0), (1, 30.0, 1.0), (2, 20.0, 2.0)]
    ]
    assert middle(rounds) == Row("samovar", "short", 2, 1, 6, 1.0, 20.0, 0.1, 0.2, 0.3, 2.0)


def test_a_request_without_a_token_counts_with_the_time_limit() -> None:
    cut_off = Run([Stream(0.0, [1.0, 1.5, 2.5], finished=True), Stream(0.0)], seconds=20.0)
    row = summarise("slow", LOAD, cut_off)
    assert (row.finished, row.output_tokens, row.ttft_p50, row.ttft_p95) == (1, 3, 1.0, 20.0)
    assert (row.gap_p50, row.gap_p95) == (0.5, 1.0)
    report = "\n".join(serving_sections(Serving("a machine", {"torch": "1"}, [row])))
    assert "| slow | 0.1 | 1000 / ≥ 20000 | 500 / 1000 | 2 |" in report


def test_targets_are_told_where_both_sides_were_measured() -> None:
    rows = [
        summarise(server, LOAD, Run([Stream(0.0, [float(place) for place in range(tokens)])], 1.0))
        for server, tokens in (("samovar int4", 50), ("llama.cpp Q4_1", 100))
    ]
    serving = Serving("a machine", {}, rows)
    assert list(verdicts(serving)) == [
        ["short, 1 client: samovar int4 at least 0.6 times llama.cpp Q4_1", "0.50 times", "**missed**"]
    ]
    assert throughput(serving, [LOAD.name]).count("<rect") == 1 + 2 + 2  # the paper, the bars, the legend


@pytest.mark.parametrize("load", scenarios(quick=False), ids=lambda load: load.name)
def test_prompts_differ_from_their_first_words_unless_they_share_them(load: Scenario) -> None:
    prompts = load.prompts("measured")
    assert len(set(prompts)) == load.clients == len(prompts)
    beginnings = {prompt[:40] for prompt in prompts}
    assert len(beginnings) == (1 if load.shared else load.clients)
    assert not beginnings & {prompt[:40] for prompt in load.prompts("another time")}


def test_the_gateway_is_judged_by_rounds_and_not_by_how_fast_the_machine_was_in_them() -> None:
    speeds = Paired(direct=[100.0, 50.0, 200.0, 80.0], through=[96.0, 49.0, 198.0, 76.0])
    assert speeds.loss == Spread(
        median=pytest.approx(0.03), low=pytest.approx(0.01), high=pytest.approx(0.04)
    )
    ttft = Paired(direct=[0.040, 0.050], through=[0.046, 0.060])
    serving = Serving("a machine", {}, gateway={"samovar int4": Gateway({"4 clients": speeds}, ttft)})
    assert [row[1:] for row in verdicts(serving)] == [["3.0%", "reached"], ["8.0 ms", "**missed**"]]
    report = "\n".join(serving_sections(serving))
    assert "| samovar int4 | tok/s, 4 clients | 90.0 | 86.0 | 3.0% (1.0% to 4.0%) |" in report
    assert "| samovar int4 | TTFT ms | 45.0 | 53.0 | 8.0 ms (6.0 to 10.0) |" in report


def test_gateway_and_worker_are_asked_the_same_by_turns_and_find_nothing_in_the_cache() -> None:
    asked: list[tuple[str, str]] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.host, json.loads(request.content)["prompt"]))
        event = {"choices": [{"text": "a"}], "usage": {"completion_tokens": 1, "prompt_tokens": 9}}
        return httpx.Response(200, text=f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")

    async def go() -> Gateway:
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as client:
            through, direct = Endpoint("http://through/v1", "demo"), Endpoint("http://direct/v1", "demo")
            loads = [Scenario("2 clients", 2, 40, 1)]
            return await gateway(client, through, direct, loads=loads, rounds=2)

    found = asyncio.run(go())
    loads, firsts = asked[: 4 * (SLOTS + 2)], asked[4 * (SLOTS + 2) :]
    turns = [loads[first : first + SLOTS + 2] for first in range(0, len(loads), SLOTS + 2)]
    forgotten = [turn[:SLOTS] for turn in turns]
    assert {host for turn in forgotten for host, _ in turn} == {"direct"}
    assert len({prompt for turn in forgotten for _, prompt in turn}) == 4 * SLOTS
    measured = [turn[SLOTS:] for turn in turns]
    assert [{host for host, _ in turn} for turn in measured] == [
        {"through"},
        {"direct"},
        {"direct"},
        {"through"},
    ]
    rounds = [sorted(prompt for _, prompt in turn) for turn in measured]
    assert rounds[0] == rounds[1] != rounds[2] == rounds[3]
    assert [host for host, _ in firsts] == ["through", "direct", "direct", "through"] * 3
    assert len({prompt.split()[0] for host, prompt in firsts if host == "direct"}) == 1
    pairs = (found.speeds["2 clients"], found.ttft)
    assert [(len(pair.direct), len(pair.through)) for pair in pairs] == [(2, 2), (6, 6)]


def test_what_a_cell_adds_is_told_beside_the_aim() -> None:
    found = CellOverhead("a machine", {}, server=[0.1, 0.2, 0.3], cell=[0.15, 0.22, 0.5])
    assert found.added_p50 == pytest.approx(0.02)
    text = "\n".join(cell_section(found))
    assert "| server | 200 |" in text
    assert "A cell adds 20 ms (p50); the aim is at most 60 ms: reached." in text
