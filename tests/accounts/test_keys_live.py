"""Keys that users make, at the gateway that serves."""

from tests.servers import wait_until


def test_a_key_works_at_once_and_ends_when_it_is_revoked(http, bob):
    headers = bob.headers
    made = http.post("/auth/keys", headers=headers, json={"name": "laptop"}).json()
    key = {"Authorization": f"Bearer {made['key']}"}
    assert http.get("/v1/models", headers=key).status_code == 200
    http.delete(f"/auth/keys/{made['id']}", headers=headers)
    ended = lambda: http.get("/v1/models", headers=key).status_code == 401  # noqa: E731
    wait_until(ended, "the key has ended")


def test_two_at_once_do_not_make_one_key_too_many(http, bob, together, settings):
    headers = bob.headers
    settings.MAX_KEYS_PER_USER = 1
    make = lambda: http.post("/auth/keys", headers=headers, json={"name": "laptop"}).status_code  # noqa: E731
    with together(*[make] * 4) as calls:
        assert sorted(call.result() for call in calls) == [201, 400, 400, 400]
