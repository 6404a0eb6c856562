"""What a caller gets when the llama-server is dead, slow, loading, cut off or broken."""

import json
import threading

import httpx
import pytest

from proxy.gateway import gateway
from proxy.models import UsageRecord
from proxy.schemas import STREAMED
from tests import fake_llama as llama
from tests.cast import member, new_tier, person
from tests.conftest import CHAT, MODEL
from tests.servers import PATIENCE, free_port, wait_until

pytestmark = pytest.mark.once


def error_of(response: httpx.Response) -> tuple[int, str]:
    assert response.headers["x-request-id"].startswith("req_")
    return response.status_code, response.json()["error"]["code"]


def last_event(response: httpx.Response) -> dict:
    return json.loads(response.text.strip().split("\n\n")[-1].removeprefix("data: "))


@pytest.fixture
def impatient(live):
    """The gateway waits a second for an answer's next byte."""
    client = gateway().client
    patience = client.idle_timeout, client._extensions
    client.idle_timeout, client._extensions = 1, {"timeout": {"connect": PATIENCE, "read": 1}}
    yield
    client.idle_timeout, client._extensions = patience


def dead(pool):
    gone = member(f"http://127.0.0.1:{free_port()}", MODEL)
    pool.members = (gone, *pool.members)
    return gone


@pytest.mark.parametrize("stream", [False, True])
def test_a_dead_llama_server_is_503_and_tells_when_to_try_again(fake, bob, chat, stream):
    fake(llama.sends()).close()
    response = chat(bob, stream=stream)
    assert error_of(response) == (503, "upstream_unavailable")
    assert response.headers["retry-after"] == "2"


def test_a_call_that_did_not_reach_one_llama_server_is_served_by_another(live, bob, chat, llama):
    pool = gateway().pool
    real = pool.members
    try:
        gone = dead(pool)
        assert chat(bob).status_code == 200
        assert not gone.is_up
        assert (gone.in_flight, real[0].in_flight) == (0, 0)
    finally:
        pool.members = real


@pytest.mark.parametrize("stream", [False, True])
def test_a_loading_llama_server_is_waited_for(live, fake, bob, chat, stream, together):
    server = fake(llama.plays(llama.sends_and_cuts(llama.whole("503 Unavailable", llama.LOADING)), llama.sends(*WELL)))
    own = gateway().pool.members[0]
    with together(lambda: chat(bob, stream=stream)) as (call,):
        wait_until(lambda: own.is_loading, "it is known to load")
        live.run(gateway().pool.look_at(own))
        assert "Well" in call.result().text
    assert len(server.seen) == 2


def test_one_that_loads_for_longer_than_a_call_may_wait_is_503_and_costs_nothing(fake, chat):
    fake(llama.sends_and_cuts(llama.whole("503 Unavailable", llama.LOADING)))
    hasty = person("hasty", new_tier(5, max_queue_seconds=0))
    responses = [chat(hasty) for _ in range(6)]
    assert {error_of(each) for each in responses} == {(503, "upstream_unavailable")}


@pytest.mark.parametrize("stream", [False, True])
def test_a_llama_server_that_never_answers_is_504(fake, impatient, bob, chat, stream):
    fakes = []
    fakes.append(fake(llama.sends_and_hangs(fakes)))
    assert error_of(chat(bob, stream=stream)) == (504, "upstream_timeout")
    wait_until(fakes[0].gone.is_set, "the llama-server was left")


BROKEN = b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":"\x01"}}],"timings":{}}\n\n'
WELL = [llama.STREAM_HEAD, llama.token("Well"), llama.FINISH, llama.USAGE, llama.DONE]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("parts", [[], [llama.STREAM_HEAD], [llama.STREAM_HEAD, llama.chunk(b":\n\n")]])
def test_a_call_that_one_llama_server_breaks_off_unbegun_is_served_by_another(fake, bob, chat, parts, stream):
    broken, well = fake(llama.sends_and_cuts(*parts)), fake(llama.sends(*WELL))
    response = chat(bob, stream=stream)
    assert response.status_code == 200
    assert "Well" in response.text
    assert (len(broken.seen), len(well.seen)) == (1, 1)
    assert broken.seen == well.seen


def test_a_call_that_breaks_two_llama_servers_does_not_break_a_third(fake, bob, chat):
    servers = [fake(llama.sends_and_cuts()) for _ in range(3)]
    assert error_of(chat(bob)) == (502, "upstream_error")
    assert sum(len(server.seen) for server in servers) == 2


def test_a_stream_that_has_begun_goes_to_no_other(fake, bob, chat):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, llama.token("Hi")))
    other = fake(llama.sends(*WELL))
    assert last_event(chat(bob, stream=True))["error"]["code"] == "upstream_error"
    assert not other.seen


@pytest.mark.parametrize(
    ("status", "message"), [("500 Internal Server Error", "Failed to parse messages"), ("400 Bad Request", "no")]
)
def test_a_call_that_is_wrong_goes_to_no_other(fake, bob, chat, status, message):
    fake(llama.sends_and_cuts(llama.whole(status, {"error": {"message": message}})))
    other = fake(llama.sends(*WELL))
    assert chat(bob).status_code == 400
    assert not other.seen


@pytest.mark.parametrize("stream", [False, True])
def test_a_connection_cut_without_an_answer_is_502(fake, bob, chat, stream):
    fake(llama.sends_and_cuts())
    assert error_of(chat(bob, stream=stream)) == (502, "upstream_error")


@pytest.mark.parametrize("parts", [[], [llama.token("Hi")], [llama.FINISH, b"0\r\n\r\n"], [llama.ERROR]])
def test_an_answer_that_breaks_off_is_502_for_those_who_want_it_whole(fake, bob, chat, parts):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, *parts))
    assert error_of(chat(bob)) == (502, "upstream_error")


@pytest.mark.parametrize("parts", [[], [b"0\r\n\r\n"], [llama.ERROR], [llama.chunk(b"data: nonsense\n\n")]])
def test_a_stream_that_breaks_before_its_first_event_is_502(fake, bob, chat, parts):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, *parts))
    assert error_of(chat(bob, stream=True)) == (502, "upstream_error")


@pytest.mark.parametrize("parts", [[], [b"0\r\n\r\n"], [llama.FINISH, llama.USAGE, b"0\r\n\r\n"], [llama.ERROR]])
def test_a_stream_that_breaks_later_ends_with_an_error_event(fake, bob, http, parts):
    go = threading.Event()
    fake(llama.sends_then_cuts(go, llama.STREAM_HEAD + llama.token("Hi"), *parts))
    with http.stream("POST", "/v1/chat/completions", headers=bob.headers, json={**CHAT, "stream": True}) as response:
        text = response.iter_text()
        assert '"content":"Hi"' in next(text)
        go.set()
        rest = "".join(text)
    assert json.loads(rest.strip().split("\n\n")[-1][6:])["error"]["code"] == "upstream_error"
    assert "[DONE]" not in rest


def test_a_stream_that_stalls_ends_with_an_error_event(fake, impatient, bob, chat):
    fakes = []
    fakes.append(fake(llama.sends_and_hangs(fakes, llama.STREAM_HEAD, llama.token("Hi"))))
    assert last_event(chat(bob, stream=True))["error"]["code"] == "upstream_timeout"


def test_tokens_that_come_with_a_fault_in_one_portion_are_not_lost(fake, bob, chat):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD + llama.token("Hel") + llama.token("lo") + llama.ERROR))
    response = chat(bob, stream=True)
    assert [text in response.text for text in ('"Hel"', '"lo"')] == [True, True]
    assert last_event(response)["error"]["code"] == "upstream_error"


def anthropic(http, caller, **fields):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, **fields}
    return http.post("/v1/messages", headers=caller.headers, json=body)


@pytest.mark.parametrize("stream", [False, True])
def test_a_message_whose_start_is_lost_behind_a_comment_is_given_one(fake, bob, http, stream):
    """The stand-in answers the count of the prompt with what is asked of it for: both are POSTs."""
    lost = [llama.STREAM_HEAD, llama.chunk(b":\n\n"), *llama.ANTHROPIC_TOOL_USE[1:]]
    fake(llama.plays(llama.sends(*lost), llama.sends(llama.whole("200 OK", {"input_tokens": 5}))))
    response = anthropic(http, bob, stream=stream)
    assert '"input_tokens":5' in response.text
    assert "get_weather" in response.text


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("count", [{"tokens": 3}, []])
def test_a_count_that_is_none_is_an_error_of_the_upstream(fake, bob, http, count, stream):
    lost = [llama.STREAM_HEAD, *llama.ANTHROPIC_TOOL_USE[1:]]
    fake(llama.plays(llama.sends(*lost), llama.sends(llama.whole("200 OK", count))))
    response = anthropic(http, bob, stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "upstream_error")


def test_an_event_that_was_passed_on_unread_costs_no_row(fake, bob, chat):
    parts = [llama.token("Hel", 1), llama.token("lo", 2), llama.chunk(BROKEN), b"0\r\n\r\n"]
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, *parts))
    assert last_event(chat(bob, stream=True))["error"]["code"] == "upstream_error"
    wait_until(lambda: UsageRecord.objects.filter(user=bob.user).count() == 1, "the row is written")


def test_tokens_of_a_broken_attempt_are_kept_where_the_next_one_fails_early(fake, bob, chat):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, llama.token("Hel", 1), llama.token("lo", 2)))
    fake(llama.sends(llama.whole("500 Oh", {})))
    assert chat(bob).status_code == 502
    wait_until(lambda: UsageRecord.objects.filter(user=bob.user).exists(), "the row is written")
    row = UsageRecord.objects.get(user=bob.user)
    assert (row.prompt_tokens, row.completion_tokens, row.is_estimated) == (5, 2, True)


def test_a_context_that_fills_up_on_the_way_is_said_so(fake, bob, chat):
    full = b'data: {"error":{"code":500,"message":"Context size has been exceeded.","type":"server_error"}}\n\n'
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, llama.token("Hi"), llama.chunk(full), b"0\r\n\r\n"))
    assert last_event(chat(bob, stream=True))["error"]["code"] == "context_length_exceeded"


def test_a_key_that_the_llama_server_refuses_is_not_the_callers_fault(fake, bob, chat):
    fake(llama.sends_and_cuts(llama.whole("401 Unauthorized", {"error": {"message": "Invalid API Key"}})))
    response = chat(bob)
    assert error_of(response) == (502, "upstream_error")
    assert "LLAMA_API_KEY" in response.json()["error"]["message"]


@pytest.mark.parametrize("body", ["no object", {}, {"error": None}, {"error": {"message": "boom"}}])
def test_whatever_a_500_holds_it_is_502(fake, bob, chat, body):
    fake(llama.sends_and_cuts(llama.whole("500 Internal Server Error", body)))
    response = chat(bob)
    assert error_of(response) == (502, "upstream_error")
    assert "boom" not in response.text


@pytest.mark.parametrize("message", ["Failed to parse messages: no role", "image input is not supported - hint: ..."])
def test_a_500_that_is_the_callers_mistake_is_a_400(fake, bob, chat, message):
    body = {"error": {"code": 500, "message": message, "type": "server_error"}}
    fake(llama.sends_and_cuts(llama.whole("500 Internal Server Error", body)))
    response = chat(bob)
    assert error_of(response) == (400, "invalid_request_error")
    assert message in response.json()["error"]["message"]


def test_what_a_llama_server_says_cannot_forge_a_line_of_the_log(fake, bob, chat, caplog):
    fake(llama.sends_and_cuts(llama.whole("500 Oh", {"error": {"message": "a\nforged line" + "x" * 9999}})))
    chat(bob)
    told = [record.getMessage() for record in caplog.records if record.name == "proxy.pool"]
    assert len(told) == 1
    assert "\n" not in told[0]
    assert len(told[0]) < 500


def test_a_fault_gives_the_place_at_the_llama_server_back(fake, bob, chat):
    fake(llama.sends_and_cuts(llama.STREAM_HEAD, llama.token("Hi")))
    chat(bob)
    chat(bob, stream=True)
    wait_until(lambda: not gateway().pool.members[0].in_flight, "the place is free")


def test_the_stand_in_streams_as_the_real_one_does(live, llama):
    """The shapes of the stand-in's events are those of a real llama-server."""
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, **STREAMED, "return_progress": False}
    real = httpx.post(f"{llama}/v1/chat/completions", json=body, timeout=PATIENCE).text
    real_events = [json.loads(line[6:]) for line in real.split("\n\n") if line.startswith("data: {")]
    ours = [json.loads(part.split(b"data: ")[1]) for part in (TOKEN, USAGE)]
    assert ours[0].keys() <= real_events[1].keys()
    assert ours[1].keys() <= real_events[-1].keys()
    assert ours[0]["timings"].keys() <= real_events[1]["timings"].keys()
    assert real.rstrip().endswith("[DONE]")
    assert real.split("\n\n")[1].index('"timings"') > real.split("\n\n")[1].index('"object"')


def test_the_stand_in_speaks_anthropics_language_as_the_real_one_does(live, llama):
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}
    real = httpx.post(f"{llama}/v1/messages", json=body, timeout=PATIENCE).text
    theirs = {kind_of(event): json.loads(event.split("data: ")[1]).keys() for event in real.split("\n\n") if event}
    for part in ANTHROPIC:
        event = part.split(b"\r\n")[1].decode()
        assert json.loads(event.split("data: ")[1]).keys() == theirs[kind_of(event)]


def kind_of(event: str) -> str:
    return event.split("\n")[0]


TOKEN, USAGE, ANTHROPIC = llama.token("Hi")[:-2], llama.USAGE[:-2], llama.ANTHROPIC_TOOL_USE[:-1]
