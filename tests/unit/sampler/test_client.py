"""The completion client against a server that refuses, breaks, restarts and lies."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.support.scripted_server import Fault, ScriptedServer

from selfrewarding.api.algorithm import EndpointSpec
from selfrewarding.contract.config import ServedModel
from selfrewarding.contract.program import BadConfiguration, Retry, ServerKeyRefused
from srr_sampler.chat_endpoint import ChatEndpoint, EndpointRefused
from srr_sampler.client import CompletionClient, error_text, retry_seconds
from srr_sampler.sampling import CompletionRequest, Sampling

MODEL = "m1-aaaa"
SAMPLING = Sampling(temperature=0.7, top_p=0.9, max_tokens=32)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(MODEL) as scripted:
        yield scripted


def client_of(*servers: ScriptedServer, max_num_seqs: int = 8, key: str | None = None) -> CompletionClient:
    served = ServedModel(name=MODEL, max_model_len=2048, max_num_seqs=max_num_seqs, replicas=len(servers))
    return CompletionClient("policy", served, ",".join(server.url for server in servers), key=key)


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[CompletionClient]:
    async with client_of(server) as made:
        yield made


def request(number: int = 0, n: int = 1) -> CompletionRequest:
    return CompletionRequest(
        prompt=[256, *f"question {number}".encode()], sampling=SAMPLING, seed=number * n, n=n
    )


async def test_samples_come_in_order_with_their_tokens(
    client: CompletionClient, server: ScriptedServer
) -> None:
    answer = await client.complete(request(3, n=4))
    assert len(answer.samples) == 4
    assert len({sample.text for sample in answer.samples}) == 4
    assert answer.prompt_tokens == len(server.requests[0].body["prompt"])
    alone = await client.complete(CompletionRequest(request(3).prompt, SAMPLING, seed=3 * 4 + 2))
    assert alone.samples[0] == answer.samples[2], "the i-th sample has the seed + i"


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(disconnect=True), id="connection broken"),
        pytest.param(Fault(status=500), id="500"),
        pytest.param(Fault(status=502, body=b"<html>bad gateway</html>"), id="502 of a proxy"),
        pytest.param(Fault(status=503, headers={"retry-after": "0.1"}), id="503"),
        pytest.param(Fault(status=429, headers={"retry-after": "0.1"}), id="429"),
        pytest.param(Fault(status=404), id="404"),
        pytest.param(Fault(body=b'{"choices": [{"index": 0, "te'), id="half a document"),
        pytest.param(Fault(body=b"[]"), id="another document"),
        pytest.param(
            Fault(body=b'{"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 0}}'), id="none"
        ),
        pytest.param(
            Fault(
                body=b'{"choices": [{"index": 0, "text": "half", "finish_reason": "abort"}], '
                b'"usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
            ),
            id="aborted generation",
        ),
        pytest.param(
            Fault(
                body=b'{"choices": [{"index": 0, "text": null, "finish_reason": "stop"}], '
                b'"usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
            ),
            id="no text",
        ),
    ],
)
async def test_a_request_that_went_wrong_is_sent_again_as_it_was(
    client: CompletionClient, server: ScriptedServer, fault: Fault
) -> None:
    server.fail_next(fault)
    answer = await client.complete(request())
    assert answer.samples[0].text.startswith("answer ")
    assert [asked.body for asked in server.requests] == [server.requests[0].body] * 2
    assert client.repeated == 1


async def test_retry_after_is_heeded(client: CompletionClient, server: ScriptedServer) -> None:
    server.fail_next(Fault(status=503, headers={"retry-after": "0.4"}))
    begun = time.monotonic()
    await client.complete(request())
    assert time.monotonic() - begun >= 0.4


@pytest.mark.parametrize(
    ("header", "least", "most"), [(None, 1, 1.25), ("x", 1, 1.25), ("7", 7, 8.75), ("1e9", 60, 75)]
)
def test_what_a_server_may_ask_for(header: str | None, least: float, most: float) -> None:
    assert least <= retry_seconds(header) <= most


async def test_overload_is_waited_out_however_long(client: CompletionClient, server: ScriptedServer) -> None:
    server.fail_next(*[Fault(status=503, headers={"retry-after": "0"})] * 12)
    await client.complete(request())
    assert len(server.requests) == 13


async def test_a_request_that_always_fails_ends_the_attempt(
    client: CompletionClient, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srr_sampler.client.random.uniform", lambda low, high: 0.01)
    server.fail_next(*[Fault(status=500, body=b'{"error":{"message":"engine trouble"}}')] * 20)
    with pytest.raises(Retry, match="failed 8 times on one request: HTTP 500: engine trouble"):
        async with asyncio.timeout(60):
            await client.complete(request())


@pytest.mark.parametrize("status", [400, 403, 413, 422])
async def test_a_refusal_is_final_and_says_the_servers_words(
    client: CompletionClient, server: ScriptedServer, status: int
) -> None:
    server.fail_next(Fault(status=status, body=b'{"error":{"message":"prompt too long"}}'))
    with pytest.raises(BadConfiguration, match=f"HTTP {status}: prompt too long"):
        await client.complete(request())
    assert len(server.requests) == 1


async def test_a_server_that_still_serves_another_model_is_waited_for(server: ScriptedServer) -> None:
    server.model = "m0-ffff"
    async with client_of(server) as client:
        task = asyncio.create_task(client.complete(request()))
        await asyncio.sleep(0.3)
        assert client.problem is not None
        assert "it serves m0-ffff, not m1-aaaa" in client.problem
        assert server.requests == [], "it is not asked for anything"
        server.model = MODEL
        async with asyncio.timeout(10):
            await task
        assert client.problem is None


async def test_a_restart_in_the_middle_loses_nothing(server: ScriptedServer) -> None:
    server.delay = 0.2
    async with client_of(server) as client:
        tasks = [asyncio.create_task(client.complete(request(number))) for number in range(60)]
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(0.3)
        assert client.problem is not None
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(20):
            answers = await asyncio.gather(*tasks)
    expected = [text_of(server, number) for number in range(60)]
    assert [answer.samples[0].text for answer in answers] == expected


def text_of(server: ScriptedServer, number: int) -> str:
    asked = next(one for one in server.requests if one.body["seed"] == number)
    return server.reply(asked, number)[0]


async def test_the_queue_is_kept_full_and_not_flooded(server: ScriptedServer) -> None:
    server.delay = 0.03
    async with client_of(server, max_num_seqs=4) as client:
        await asyncio.gather(*(client.complete(request(number, n=2)) for number in range(40)))
    assert server.max_sequences == 8


async def test_replicas_share_the_load(server: ScriptedServer) -> None:
    server.delay = 0.02
    with ScriptedServer(MODEL, delay=0.02) as other:
        async with client_of(server, other, max_num_seqs=4) as client:
            await client.complete(request())
            await asyncio.sleep(0.1)
            await asyncio.gather(*(client.complete(request(number)) for number in range(1, 81)))
        assert abs(len(server.requests) - len(other.requests)) <= 16
        assert max(server.max_sequences, other.max_sequences) <= 8


async def test_while_one_replica_is_away_the_other_goes_on(server: ScriptedServer) -> None:
    with ScriptedServer(MODEL, delay=0.05) as other:
        async with client_of(server, other) as client:
            await client.complete(request())
            await asyncio.sleep(0.1)
            tasks = [asyncio.create_task(client.complete(request(number))) for number in range(1, 30)]
            await asyncio.sleep(0.02)
            await asyncio.to_thread(other.stop)
            async with asyncio.timeout(10):
                await asyncio.gather(*tasks)


async def test_huge_documents_pass(client: CompletionClient, server: ScriptedServer) -> None:
    text = "안녕 \u2028 😀 " * 300_000
    server.reply = lambda asked, seed: (text, "length")
    answer = await client.complete(CompletionRequest(list(range(250)) * 400, SAMPLING, seed=1))
    assert answer.samples[0].text == text
    assert answer.prompt_tokens == 100_000


async def test_counters_are_summed_over_the_replicas(server: ScriptedServer) -> None:
    with ScriptedServer(MODEL) as other:
        async with client_of(server, other) as client:
            await client.complete(request())
            await asyncio.sleep(0.1)
            counters = await client.counters()
    assert counters["vllm:prefix_cache_queries_total"] == len(request().prompt)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error":{"message":"no"}}', "no"),
        (b'{"error":"no"}', "no"),
        (b'{"message":"no"}', "no"),
        (b"plain\n text", "plain text"),
        (b"\xff", "\ufffd"),
        (b"", "no text"),
        (b"x" * 9000, "x" * 500),
        (b"[1]", "[1]"),
    ],
)
def test_what_a_server_said(content: bytes, text: str) -> None:
    assert error_text(content) == text


def test_no_address_is_a_configuration_error() -> None:
    served = ServedModel(name=MODEL, max_model_len=1, max_num_seqs=1, replicas=1)
    with pytest.raises(BadConfiguration, match="no address for the policy server"):
        CompletionClient("policy", served, " , ")


def endpoint_of(server: ScriptedServer, concurrency: int = 4) -> EndpointSpec:
    return EndpointSpec(url=f"{server.url}/v1/", model=MODEL, max_concurrency=concurrency)


async def test_an_endpoint_is_asked_with_the_key_and_standard_fields_only(server: ScriptedServer) -> None:
    async with ChatEndpoint(endpoint_of(server), "secret-key") as endpoint:
        answer = await endpoint.complete("Write more.", Sampling(0.6, 0.9, 64, stop=("\n17.",)), 5)
    asked = server.requests[0]
    assert answer.samples[0].text
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == "Bearer secret-key"
    assert asked.body["messages"] == [{"role": "user", "content": "Write more."}]
    assert set(asked.body) == {
        "model",
        "messages",
        "temperature",
        "top_p",
        "max_tokens",
        "seed",
        "n",
        "stop",
        "stream",
    }


async def test_an_endpoint_without_a_key_gets_no_authorization(server: ScriptedServer) -> None:
    async with ChatEndpoint(endpoint_of(server), "") as endpoint:
        await endpoint.complete("Write more.", SAMPLING, 5)
    assert "authorization" not in server.requests[0].headers


async def test_an_endpoints_faults_are_waited_out_within_its_concurrency(server: ScriptedServer) -> None:
    server.delay = 0.02
    server.fail_next(
        Fault(status=429, headers={"retry-after": "0.1"}),
        Fault(status=500),
        Fault(body=b"{"),
        Fault(disconnect=True),
    )
    async with ChatEndpoint(endpoint_of(server, concurrency=3), "") as endpoint:
        await asyncio.gather(*(endpoint.complete("More.", SAMPLING, number) for number in range(12)))
    assert server.max_in_flight <= 3
    assert len(server.requests) == 16


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "apiKeySecretName"), (404, r"endpoint\.url and \.model"), (400, "limits")]
)
async def test_an_endpoints_refusal_says_what_to_check_and_never_the_key(
    server: ScriptedServer, status: int, advice: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.fail_next(Fault(status=status, body=json.dumps({"error": {"message": "refused"}}).encode()))
    async with ChatEndpoint(endpoint_of(server), "secret-key") as endpoint:
        with pytest.raises(BadConfiguration, match=advice) as caught:
            await endpoint.complete("More.", SAMPLING, 1)
    assert "secret-key" not in str(caught.value)
    assert "secret-key" not in caplog.text


LIMIT = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."


async def test_an_endpoint_is_asked_in_the_fields_that_it_takes(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.refused = {
        "max_tokens": LIMIT,
        "seed": "Extra inputs are not permitted: seed",
        "top_p": "Unsupported parameter: 'top_p' is not supported with this model.",
    }
    async with ChatEndpoint(endpoint_of(server, concurrency=1), "") as endpoint:
        for number in range(3):
            assert (await endpoint.complete("More.", Sampling(0.6, 1.0, 64), number)).samples[0].text
    assert len(server.requests) == 3 + 3, "it is told once of each field"
    for asked in server.requests[3:]:
        assert set(asked.body) == {"model", "messages", "temperature", "max_completion_tokens", "n", "stream"}
        assert asked.body["max_completion_tokens"] == 64
    assert caplog.text.count("from now on") == 3
    assert "takes no max_tokens" in caplog.text
    assert "with max_completion_tokens from now on" in caplog.text


async def test_requests_that_were_under_way_when_a_field_was_refused_are_sent_again(
    server: ScriptedServer,
) -> None:
    server.refused = {"max_tokens": LIMIT}
    server.delay = 0.01
    async with ChatEndpoint(endpoint_of(server, concurrency=4), "") as endpoint:
        await asyncio.gather(*(endpoint.complete("More.", SAMPLING, number) for number in range(8)))
    assert sum("max_completion_tokens" in asked.body for asked in server.requests) == 8


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (
            "temperature",
            "Unsupported value: 'temperature' does not support 0.7 with this model. Only the default (1)",
        ),
        ("top_p", "Unsupported parameter: 'top_p' is not supported with this model."),
        ("max_tokens", "max_tokens is too large: 32. This model supports at most 16."),
    ],
)
async def test_what_was_asked_for_is_never_changed_in_silence(
    server: ScriptedServer, field: str, said: str
) -> None:
    server.refused = {field: said}
    async with ChatEndpoint(endpoint_of(server), "") as endpoint:
        with pytest.raises(EndpointRefused, match=said[:30]):
            await endpoint.complete("More.", SAMPLING, 1)
    assert len(server.requests) == 1


async def test_an_endpoint_that_always_fails_ends_the_attempt(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("srr_sampler.chat_endpoint.random.uniform", lambda low, high: 0.001)
    server.fail_next(*[Fault(status=500)] * 10)
    async with ChatEndpoint(endpoint_of(server), "") as endpoint:
        with pytest.raises(Retry, match="failed 8 times"):
            await endpoint.complete("More.", SAMPLING, 1)


KEY = "0123456789abcdef" * 4


async def test_the_key_goes_with_every_request_and_nothing_shows_it() -> None:
    with ScriptedServer(MODEL, key=KEY) as server:
        async with client_of(server, key=KEY) as client:
            assert (await client.complete(request())).samples
            assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
            assert KEY not in str(client.problem)


async def test_servers_that_refuse_the_key_for_good_end_the_stage_so_that_they_are_started_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The user's Secret was changed after the servers had started."""
    monkeypatch.setattr("srr_sampler.client.REFUSED_SECONDS", 0.5)
    with ScriptedServer(MODEL, key="the old one") as server:
        async with client_of(server, key=KEY) as client:
            with pytest.raises(ServerKeyRefused, match="the Secret was changed") as failed:
                await client.complete(request())
            assert not server.requests
            with pytest.raises(ServerKeyRefused):
                await client.ready()
    assert KEY not in caplog.text + str(failed.value)


async def test_a_key_that_is_refused_for_a_moment_is_no_failure(
    client: CompletionClient, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the last attempt answers at the same address while it ends."""
    monkeypatch.setattr("srr_sampler.client.REFUSED_SECONDS", 5.0)
    await client.complete(request())
    server.key = "the old one"
    asking = asyncio.create_task(client.complete(request(1)))
    await asyncio.sleep(0.3)
    assert not asking.done()
    server.key = None
    assert (await asking).samples
