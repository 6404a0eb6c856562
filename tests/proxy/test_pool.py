"""Which llama-server takes a call."""

import asyncio

import httpx
import pytest

from proxy.circuit import State
from proxy.errors import BrokenOff, MissingParameter, ModelNotFound, StillLoading, UpstreamUnavailable
from proxy.gateway import gateway
from proxy.members import Member, Spec, Told
from proxy.pool import Pool
from proxy.upstream import UpstreamClient
from tests.cast import member
from tests.servers import llama_server, wait_until


def pool(*members, answer=None):
    transport = httpx.MockTransport(answer or (lambda request: httpx.Response(503)))
    made = Pool(UpstreamClient(1, 1, transport=transport), interval=60)
    made.members = members
    return made


def new(url="http://a", **fields):
    """One that was not looked at yet."""
    return Member(Spec("a", url, **fields))


def look_at(of_one):
    asyncio.run(of_one.look_at(of_one.members[0]))


@pytest.mark.parametrize(
    ("name", "aliases", "model"),
    [
        ("gpt", {"gpt": "m"}, "m"),
        ("m", {"m": "n"}, "n"),
        ("never heard of", {"*": "m"}, "m"),
        ("n", {"*": "m"}, "n"),
        ("gpt", {"gpt": "gone", "*": "m"}, "m"),
        ("", {"*": "n"}, "n"),
    ],
)
def test_an_alias_names_a_model(name, aliases, model):
    assert pool(member("http://a", "m", "n")).resolve(name, "", aliases) == model


@pytest.mark.parametrize("aliases", [{"gpt": "gone"}, {"*": "gone"}, {}])
def test_an_alias_of_nothing_is_no_model(aliases):
    with pytest.raises(ModelNotFound):
        pool(member("http://a", "m")).resolve("gpt", "", aliases)


def test_one_that_was_tried_or_is_down_or_serves_other_models_does_not_fit():
    a, b, c, d = (
        member("http://a", "m"),
        member("http://b", "m", up=False),
        member("http://c", "other"),
        member("http://d", "m"),
    )
    assert pool(a, b, c, d).fit("m", [a]) == [d]


def test_a_model_that_nobody_names_is_the_default_or_the_only_one():
    assert pool(member("http://a", "m")).resolve("", "", {}) == "m"
    assert pool(member("http://a", "m", "n")).resolve("", "n", {}) == "n"
    with pytest.raises(MissingParameter, match="m, n"):
        pool(member("http://a", "m", "n")).resolve("", "", {})


def test_an_alias_is_resolved_to_the_models_own_name():
    of_one = pool(member("http://a"))
    of_one.members[0].told = Told({"m": "m", "nick": "m"})
    assert of_one.resolve("nick", "", {}) == "m"
    assert of_one.models == ["m"]


def test_an_unknown_model_is_not_found_while_a_known_one_that_is_down_is_unavailable():
    down = pool(member("http://a", "m", up=False))
    with pytest.raises(ModelNotFound):
        down.resolve("x", "", {})
    assert down.resolve("m", "", {}) == "m"
    assert not down.may_serve("m")


def test_before_any_model_is_known_nothing_is_said_of_them():
    with pytest.raises(UpstreamUnavailable):
        pool(member("http://a")).resolve("x", "", {})


@pytest.mark.parametrize(
    ("status", "body", "is_up"),
    [
        (200, {"data": [{"id": "m", "aliases": ["nick"]}]}, True),
        (200, {"data": [{"name": "no id"}]}, False),
        (200, ["no object"], False),
        (200, "no json", False),
        (503, {"error": {"message": "Loading model"}}, False),
    ],
)
def test_a_look_says_whether_it_is_up(status, body, is_up):
    content = {"text": body} if isinstance(body, str) else {"json": body}
    of_one = pool(new(), answer=lambda request: httpx.Response(status, **content))
    look_at(of_one)
    assert of_one.is_up is is_up
    assert of_one.models == (["m"] if is_up else [])


@pytest.mark.parametrize(
    ("happened", "health"),
    [
        (lambda pool, own: None, "up"),
        (lambda pool, own: pool.refused(own, "refused the connection"), "down: it refused the connection"),
        (lambda pool, own: pool.turned_away(own, StillLoading()), "loading its model"),
        (lambda pool, own: [pool.failed(own, BrokenOff()) for _ in range(3)], "down: it broke the connection"),
        (lambda pool, own: [pool.convicted(own, "answered 500") for _ in range(3)], "out of turn: it answered 500"),
        (lambda pool, own: (own.circuit.refused(0, "x"), own.circuit.found_well(1)), "on trial, one call at a time"),
    ],
)
def test_health_is_told_in_words(happened, health):
    own = member("http://a", "m")
    of_two = pool(own, member("http://b", "m"))
    happened(of_two, own)
    assert own.health == health


def test_one_that_was_never_up_tells_why():
    of_one = pool(new(), answer=lambda request: httpx.Response(500))
    assert of_one.members[0].health == "not looked at yet"
    look_at(of_one)
    assert of_one.members[0].health == "not up yet: it answered 500"


@pytest.mark.parametrize(("others", "is_ejected"), [([], False), (["n"], False), (["m"], False), (["m", "n"], True)])
def test_one_whose_models_nobody_else_serves_is_never_out_of_turn(others, is_ejected):
    own = member("http://a", "m", "n")
    of_some = pool(own, member("http://b", *others))
    for _ in range(9):
        of_some.convicted(own, "answered 500")
    assert own.circuit.is_ejected is is_ejected


def test_of_two_that_fail_one_stays():
    both = member("http://a", "m"), member("http://b", "m")
    of_two = pool(*both)
    for _ in range(9):
        for each in both:
            of_two.convicted(each, "answered 500")
    assert [each.is_up for each in both] == [False, True]


def test_the_key_of_the_llama_server_is_sent_and_nothing_else_of_note():
    seen = []
    answer = lambda request: seen.append(request) or httpx.Response(200, json={"data": []})  # noqa: E731
    look_at(pool(new(api_key="k3y"), answer=answer))
    assert seen[0].headers["authorization"] == "Bearer k3y"
    assert seen[0].url == "http://a/v1/models"
    assert "cookie" not in seen[0].headers


def test_a_real_llama_server_that_dies_and_returns_is_seen_to():
    async def lives() -> None:
        client = UpstreamClient(1, 1)
        with llama_server() as url:
            port = int(url.rsplit(":", 1)[1])
            of_one = Pool(client, 60)
            of_one.members = (own,) = (new(url),)
            await of_one.look_at(own)
            assert (own.is_up, own.slots, own.told.context) == (True, 4, 2048)
        await of_one.look_at(own)
        assert not own.is_up
        with llama_server(port):
            await of_one.look_at(own)
            assert own.circuit.state is State.HALF_OPEN
            of_one.answered(own)
            assert own.circuit.state is State.CLOSED
        await client.aclose()

    asyncio.run(lives())


def test_the_gateway_looks_again_by_itself(live, llama):
    own = gateway().pool.members[0]
    own.circuit.refused(0, "it was not there")
    wait_until(lambda: own.is_up, "it was looked at")
    live.run(in_loop(lambda: gateway().pool.answered(own)))


async def in_loop(function):
    function()


# -- what answers --------------------------------------------------------------------------------------------------

TOLD = {
    "/v1/models": {"data": [{"id": "m", "meta": {"size": 1, "n_ctx": 2048}}]},
    "/props": {
        "model_path": "m.gguf",
        "build_info": "b1",
        "chat_template": "t",
        "default_generation_settings": {"params": {"top_k": 40}},
        "media_marker": "first start",
        "is_sleeping": False,
    },
    "/lora-adapters": [],
}


def looked_at(*turns, asked=None):
    """The identity after each look, when the llama-server says so at each."""
    told = iter(turns)
    now: dict = {}

    def answer(request):
        if asked is not None:
            asked.append(request.url.path)
        found = now[request.url.path]
        return httpx.Response(404) if found is None else httpx.Response(200, json=found)

    of_one = pool(new(), answer=answer)

    async def look():
        for changes in told:
            now.update({**TOLD, **changes})
            await of_one.look_at(of_one.members[0])
            yield of_one.identity("m")

    async def all_looks():
        return [identity async for identity in look()]

    return asyncio.run(all_looks())


def props(**changes):
    return {"/props": {**TOLD["/props"], **changes}}


def test_what_stays_the_same_has_the_same_identity():
    first, second = looked_at({}, {"/v1/models": {**TOLD["/v1/models"], "object": "list"}})
    assert first == second is not None


@pytest.mark.parametrize(
    "change",
    [
        props(model_path="n.gguf"),
        props(build_info="b2"),
        props(chat_template="u"),
        props(default_generation_settings={"params": {"top_k": 1}}),
        props(media_marker="second start"),
        {"/lora-adapters": [{"id": 0, "path": "a.gguf", "scale": 1.0}]} | props(media_marker="second start"),
        {"/v1/models": {"data": [{"id": "m", "meta": {"size": 2, "n_ctx": 2048}}]}},
    ],
    ids=str,
)
def test_whatever_changes_the_answers_changes_the_identity(change):
    first, second, back = looked_at({}, change, {})
    assert first != second
    assert first == back


def test_an_adapter_that_is_turned_down_is_seen():
    adapters = [{"/lora-adapters": [{"id": 0, "path": "a.gguf", "scale": scale}]} for scale in (1.0, 0.5)]
    first, second = looked_at(*adapters)
    assert first != second


@pytest.mark.parametrize(
    "change",
    [
        {"/props": None},
        {"/props": {}},
        {"/props": []},
        {"/lora-adapters": None},
        props(media_marker=None),
        props(default_generation_settings={"params": {"xtc_probability": 0.1}}),
        props(default_generation_settings={"params": {"dynatemp_range": 0.5}}),
        props(default_generation_settings={"params": {"samplers": ["top_k"]}}),
    ],
    ids=str,
)
def test_one_that_keeps_itself_to_itself_or_plays_dice_has_no_identity(change):
    assert looked_at(change) == [None]


def test_a_sleeping_one_is_not_woken_and_is_known_when_it_wakes():
    asked = []
    assert looked_at(props(is_sleeping=True), asked=asked) == [None]
    assert "/lora-adapters" not in asked
    assert looked_at(props(is_sleeping=True), {})[1] is not None


def test_adapters_are_asked_for_once_where_there_are_none():
    asked = []
    looked_at({}, {}, {}, asked=asked)
    assert asked.count("/lora-adapters") == 1


def test_several_that_serve_a_model_are_one_identity_together():
    def together(*identities, up=(True, True)):
        members = [member("http://a", "m", up=each, identity=one) for one, each in zip(identities, up, strict=True)]
        return pool(*members, member("http://c", "other")).identity("m")

    both, same = together("x", "y"), together("x", "x")
    assert len({both, same, None}) == 3
    assert together("x", None) is None
    assert together("x", None, up=(True, False)) == same
    assert together("x", None, up=(False, False)) is None


def test_a_real_llama_server_has_another_identity_after_a_restart():
    found = []
    for _ in range(2):
        with llama_server() as url:
            found.append(asyncio.run(identity_at(url)))
    assert None not in found
    assert found[0] != found[1]


async def identity_at(url):
    client = UpstreamClient(1, 5)
    of_one = Pool(client, interval=60)
    of_one.members = (new(url),)
    await of_one.look_at(of_one.members[0])
    await client.aclose()
    return of_one.identity("smollm2-135m")


@pytest.mark.parametrize("adapters", [[{"id": 0, "scale": 1.0}], None, []])
def test_one_that_is_late_with_its_adapters_only_is_well(monkeypatch, adapters):
    monkeypatch.setattr("proxy.probes.ADAPTERS_TIMEOUT", 0.05)
    own = member("http://a", "m", adapters=adapters, props={"media_marker": "x"})
    left = []
    own.unbegun.add(lambda: left.append(own))

    async def answer(request):
        if request.url.path == "/lora-adapters":
            await asyncio.Event().wait()
        told = {"data": [{"id": "m"}]} if request.url.path == "/v1/models" else {"media_marker": "x"}
        return httpx.Response(200, json=told)

    async def look():
        pool = Pool(UpstreamClient(1, 1, transport=httpx.MockTransport(answer)), interval=60)
        pool.members = (own,)
        await pool.look_at(own)

    asyncio.run(look())
    assert own.circuit.state is State.CLOSED
    assert left == []
    assert own.told.adapters == ([] if adapters == [] else None)
