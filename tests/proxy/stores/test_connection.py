"""The connection to Redis: many commands at once, no hang, no reply for the wrong one."""

import asyncio
from contextlib import asynccontextmanager

import hiredis
import pytest
from redis.asyncio.connection import parse_url

from proxy.stores.connection import StoreDown, connect, encryption, greeting
from proxy.stores.redis import RedisStore
from tests.servers import OwnRedis

pytestmark = pytest.mark.once


@pytest.fixture
def redis():
    with OwnRedis() as server:
        yield server


@asynccontextmanager
async def opened(url):
    connection = await connect(url)
    yield connection
    connection.close()


def run(coroutine_function):
    return asyncio.run(coroutine_function())


def test_replies_come_to_whoever_asked(redis):
    async def main():
        async with opened(redis.url) as connection:
            return await asyncio.gather(*(connection.send("ECHO", n) for n in range(1000)))

    assert run(main) == [str(n).encode() for n in range(1000)]


def test_a_command_that_is_refused_leaves_the_others_alone(redis):
    async def main():
        async with opened(redis.url) as connection:
            return await asyncio.gather(
                connection.send("ECHO", 1),
                connection.send("NO-SUCH"),
                connection.send("ECHO", 2),
                return_exceptions=True,
            )

    first, refused, second = run(main)
    assert (first, second) == (b"1", b"2")
    assert isinstance(refused, hiredis.ReplyError)


def test_who_leaves_takes_nobody_elses_reply(redis):
    async def main():
        async with opened(redis.url) as connection:
            leaving, staying = connection.send("ECHO", "a"), connection.send("ECHO", "b")
            leaving.cancel()
            return await staying

    assert run(main) == b"b"


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_when_redis_is_gone_all_who_wait_are_told(redis, fault):
    async def main():
        async with opened(redis.url) as connection:
            getattr(redis, fault)()
            replies = await asyncio.gather(*(connection.send("PING") for _ in range(10)), return_exceptions=True)
            with pytest.raises(StoreDown):
                connection.send("PING")
            return {type(reply) for reply in replies}, connection.is_open

    assert run(main) == ({StoreDown}, False)


def test_a_slow_process_does_not_take_redis_for_slow(redis, monkeypatch):
    """The reply came while this process was busy with other things for longer than Redis may take."""
    monkeypatch.setattr("proxy.stores.connection.TIMEOUT", 0.05)

    async def main():
        async with opened(redis.url) as connection:
            reply = connection.send("PING")
            await asyncio.sleep(0)  # it is written
            busy_until = asyncio.get_running_loop().time() + 0.2
            while asyncio.get_running_loop().time() < busy_until:
                pass
            return await reply

    assert run(main) == b"PONG"


def test_a_password_and_a_database_are_given(redis):
    async def main():
        async with opened(redis.url) as connection:
            await connection.send("CONFIG", "SET", "requirepass", "secret")
            with pytest.raises(StoreDown, match="NOAUTH"):
                await connect(redis.url)
            async with opened(redis.url.replace("redis://", "redis://:secret@").replace("/0", "/3")) as other:
                return await other.send("CLIENT", "INFO")

    assert b"db=3" in run(main)


def test_a_wrong_password_is_told_as_what_it_is(redis):
    with pytest.raises(StoreDown, match=r"(?i)password"):
        asyncio.run(connect(redis.url.replace("redis://", "redis://:wrong@")))


def test_nothing_there_is_told_as_that():
    with pytest.raises(StoreDown, match="ConnectionRefusedError"):
        asyncio.run(connect("redis://127.0.0.1:1/0"))


def test_a_store_that_is_not_connected_is_down():
    with pytest.raises(StoreDown):
        asyncio.run(RedisStore("redis://127.0.0.1:1/0").beat())


def test_a_full_redis_is_down_and_not_a_500(redis):
    async def main():
        store = RedisStore(redis.url)
        await store.start()
        await store._command("CONFIG", "SET", "maxmemory", "1mb")
        with pytest.raises(StoreDown, match="OOM"):
            await store.beat()
        await store.stop()

    run(main)


@pytest.mark.parametrize(
    ("options", "commands"),
    [
        ({}, []),
        ({"db": 2}, [("SELECT", 2)]),
        ({"password": "p"}, [("AUTH", "p")]),
        ({"username": "u", "password": "p", "db": 1}, [("AUTH", "u", "p"), ("SELECT", 1)]),
    ],
)
def test_how_a_connection_begins(options, commands):
    assert greeting(options) == [*commands, ("CLIENT", "SETNAME", "llmgateway")]


def test_tls_is_checked_unless_that_is_switched_off():
    assert encryption(dict(parse_url("redis://x"))) is None
    assert encryption(dict(parse_url("rediss://x"))).check_hostname
    assert not encryption(dict(parse_url("rediss://x?ssl_cert_reqs=none"))).check_hostname
