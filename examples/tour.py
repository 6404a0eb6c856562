"""A tour of a running gateway: authentication, completions, streams, rate limits, errors and metrics.

Start `make demo` in another terminal, then run this. It needs Python alone. Each step says what was expected and
what came; the first surprise ends it with exit code 1.

Usage: tour.py [--url http://127.0.0.1:8000] [--credentials var/demo/credentials.json]
"""

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

HELLO = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 16, "temperature": 0}
CREDENTIALS = Path(__file__).resolve().parent.parent / "var" / "demo" / "credentials.json"


class Reply(NamedTuple):
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Tour:
    """The gateway at a base URL, and how many steps went as expected."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.steps = 0

    def call(self, path: str, body: Any = None, token: str = "") -> Reply:
        headers = {"Content-Type": "application/json"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, headers)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                return Reply(response.status, response.headers, response.read().decode())
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.headers, error.read().decode())
        except OSError as error:
            sys.exit(f"Nothing answers at {self.base} ({error}). Is `make demo` running in another terminal?")

    def chat(self, token: str, **fields: Any) -> Reply:
        return self.call("/v1/chat/completions", {**HELLO, **fields}, token)

    def sign_in(self, name: str, password: str) -> str:
        return str(self.call("/auth/token", {"username": name, "password": password}).json["access_token"])

    def expect(self, what: str, expected: Any, came: Any) -> None:
        """Say a step's outcome, and end the tour where it is a surprise."""
        self.steps += 1
        if expected != came:
            print(f"  {self.steps:2}  SURPRISE  {what}: expected {expected!r}, came {came!r}")
            sys.exit(1)
        print(f"  {self.steps:2}  ok  {what}: expected {expected!r}, came {came!r}")

    def count(self, series: str) -> float:
        """The value of one of the gateway's own series."""
        lines = self.call("/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(series))


def code_of(reply: Reply) -> tuple[int, str]:
    return reply.status, reply.json["error"]["code"]


def authentication(tour: Tour, passwords: dict[str, str]) -> None:
    print("Authentication")
    tour.expect("a call without a token", (401, "invalid_api_key"), code_of(tour.chat("")))
    tour.expect("a call with a bad token", (401, "invalid_api_key"), code_of(tour.chat("nonsense")))
    wrong = tour.call("/auth/token", {"username": "premium", "password": "wrong"})
    tour.expect("a wrong password", (401, "invalid_api_key"), code_of(wrong))
    asked = {"username": "premium", "password": passwords["premium"], "tier": "enterprise"}
    pair = tour.call("/auth/token", asked)
    tour.expect("the right password", (200, "bearer"), (pair.status, pair.json["token_type"]))
    me = tour.call("/auth/me", token=pair.json["access_token"]).json
    tour.expect("the tier, whatever the request asked for", "premium", me["tier"])


def completions(tour: Tour, token: str) -> None:
    print("Completions")
    whole = tour.chat(token)
    said = whole.json["choices"][0]["message"]["content"]
    print(f"      the model says: {said!r}")
    tour.expect("a completion", (200, True), (whole.status, bool(said)))
    events = tour.chat(token, stream=True).text.split("\n\n")
    chunks = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
    streamed = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    tour.expect("the same as a stream", (said, "data: [DONE]"), (streamed, events[-2]))
    again = tour.chat(token)
    told = again.headers["x-cache"], again.json["choices"][0]["message"]["content"]
    tour.expect("the same once more, from the cache", ("hit", said), told)
    fresh = tour.chat(token, seed=int(time.time()))
    tour.expect("another call, computed", "miss", fresh.headers["x-cache"])
    models = [model["id"] for model in tour.call("/v1/models", token=token).json["data"]]
    tour.expect("the list of models", ["smollm2-135m"], models)


def endpoints(tour: Tour, token: str) -> None:
    print("Other endpoints")
    asked = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
    message = tour.call("/v1/messages", asked, token).json
    tour.expect("Anthropic's messages", "message", message["type"])
    counted = tour.call("/v1/messages/count_tokens", {"messages": asked["messages"]}, token).json
    tour.expect("and their tokens, counted before", message["usage"]["input_tokens"], counted["input_tokens"])
    response = tour.call("/v1/responses", {"input": "Say hello.", "max_output_tokens": 2}, token).json
    tour.expect("a response, cut at its limit", ("response", "incomplete"), (response["object"], response["status"]))
    tokens = tour.call("/v1/tokenize", {"content": "Hello world"}, token).json["tokens"]
    text = tour.call("/v1/detokenize", {"tokens": tokens}, token).json["content"]
    tour.expect("text to tokens and back", "Hello world", text)
    kept = tour.call("/v1/responses", {"input": "Hi", "previous_response_id": "x"}, token)
    tour.expect("a conversation that nobody keeps", (400, "unsupported_parameter"), code_of(kept))


def limits(tour: Tour, token: str) -> None:
    print("Rate limit of the free tier, 10 requests a minute")
    replies = [tour.chat(token, max_tokens=1) for _ in range(12)]
    served = [reply.status for reply in replies].count(200)
    refused = replies[-1]
    tour.expect("no more than 10 of 12 calls served", True, served <= 10)
    tour.expect("the last of 12 calls", (429, "rate_limit_exceeded"), code_of(refused))
    tour.expect("it says when to come back", True, 0 < int(refused.headers["Retry-After"]) <= 61)
    tour.expect("what remains", "0", refused.headers["x-ratelimit-remaining-requests"])
    tour.expect("in the standard's words, too", '"requests-minute";r=0', refused.headers["RateLimit"].split(";t=")[0])


def errors(tour: Tour, token: str) -> None:
    print("Errors")
    nothing = tour.call("/v1/chat/completions", {}, token)
    tour.expect("a call without messages", (400, "missing_required_parameter"), code_of(nothing))
    tour.expect("an unknown model", (404, "model_not_found"), code_of(tour.chat(token, model="gpt-99")))
    tour.expect("an unknown URL", (404, "unknown_url"), code_of(tour.call("/v1/nothing")))
    tour.expect("a wrong method", (405, "method_not_allowed"), code_of(tour.call("/v1/chat/completions")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--credentials", type=Path, default=CREDENTIALS)
    options = parser.parse_args()
    if not options.credentials.exists():
        sys.exit(f"There is no {options.credentials}. `make demo` writes it; run that in another terminal first.")
    passwords = json.loads(options.credentials.read_text())
    tour = Tour(options.url.rstrip("/"))
    tour.expect("health", {"status": "healthy"}, tour.call("/health").json)
    served = 'api_requests_total{endpoint="chat-completions",status="200"'
    refused = 'api_requests_total{endpoint="chat-completions",status="429"'
    before = tour.count(served), tour.count(refused)
    authentication(tour, passwords)
    token = tour.sign_in("enterprise", passwords["enterprise"])
    completions(tour, token)
    endpoints(tour, token)
    limits(tour, tour.sign_in("free", passwords["free"]))
    errors(tour, token)
    print("Metrics")
    tour.expect("completions were counted", True, tour.count(served) >= before[0] + 2)
    tour.expect("and refusals", True, tour.count(refused) >= before[1] + 2)
    tour.expect("and tokens", True, tour.count('api_tokens_total{kind="completion"') > 0)
    tour.expect("and answers from the cache", True, tour.count('api_cache_requests_total{result="hit"') > 0)
    tour.expect("and timed", True, tour.count("api_request_duration_seconds_count") > 0)
    print(f"All {tour.steps} steps went as expected.")


if __name__ == "__main__":
    main()
