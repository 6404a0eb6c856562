"""Numbers that a call may hold: what no sampler can make sense of is refused, and what people use is taken."""

import orjson
import pytest

from proxy.calls import Call
from proxy.schemas import CHAT

pytestmark = pytest.mark.once

HI = [{"role": "user", "content": "Hi"}]
ASKS = {
    "chat/completions": {"messages": HI, "max_tokens": 1},
    "completions": {"prompt": "Hi", "max_tokens": 1},
    "responses": {"input": "Hi", "max_output_tokens": 1},
    "messages": {"messages": HI, "max_tokens": 1},
}
TOO_MUCH = [
    ("chat/completions", "top_logprobs", 21, "from 0 to 20"),
    ("chat/completions", "top_logprobs", -1, "from 0 to 20"),
    ("completions", "logprobs", 49152, "from 0 to 20"),
    ("chat/completions", "dry_penalty_last_n", 2_000_000_000, "from -1 to 131072"),
    ("chat/completions", "repeat_last_n", 2_000_000_000, "from -1 to 131072"),
    ("completions", "dry_allowed_length", -1, "from 0 to 131072"),
    ("chat/completions", "temperature", -0.1, "from 0 to 100"),
    ("chat/completions", "temperature", 1e300, "from 0 to 100"),
    ("responses", "top_p", 1.5, "from 0 to 1"),
    ("messages", "temperature", -1, "from 0 to 100"),
    ("messages", "top_k", -2, "from -1 to 2147483647"),
    ("messages", "thinking", {"type": "enabled", "budget_tokens": -1}, "from 0 to 2147483647"),
    ("chat/completions", "repeat_penalty", 0, "from 0.01 to 100"),
    ("chat/completions", "reasoning_effort", "x" * 65, "up to 64 characters"),
    ("responses", "reasoning", {"effort": "x" * 65}, "up to 64 characters"),
    ("chat/completions", "mirostat", 3, "from 0 to 2"),
    ("chat/completions", "n", 9, "from 1 to 8"),
    ("chat/completions", "seed", 2**64, "from -9223372036854775808 to 18446744073709551615"),
    ("chat/completions", "max_tokens", 1.5, "an integer from 1"),
    ("chat/completions", "logit_bias", {"5": 1e9}, "from -1000 to 1000"),
    ("chat/completions", "logit_bias", {str(n): 1 for n in range(5000)}, "up to 4096"),
    ("chat/completions", "logit_bias", {"5": "x"}, "from -1000 to 1000"),
    ("chat/completions", "xtc_probability", True, "a number"),
]
USED = [
    ("chat/completions", {"temperature": 5, "top_k": -1, "min_p": 0.05, "typical_p": 1, "top_n_sigma": -1}),
    ("chat/completions", {"seed": -1, "repeat_last_n": -1, "repeat_penalty": 1.1, "presence_penalty": 2}),
    ("chat/completions", {"dry_multiplier": 0.8, "dry_base": 1.75, "dry_penalty_last_n": -1, "dry_allowed_length": 2}),
    ("chat/completions", {"xtc_probability": 0.5, "xtc_threshold": 0.1, "mirostat": 2, "mirostat_tau": 5.0}),
    ("chat/completions", {"logprobs": True, "top_logprobs": 20, "logit_bias": {"15043": -100, "5": False}}),
    ("chat/completions", {"dry_multiplier": 1, "dry_penalty_last_n": 131_072, "seed": 2**63}),
    ("completions", {"logprobs": 20, "temperature": 2.0, "seed": 1.0, "top_k": 40.0}),
    ("responses", {"temperature": 2, "top_p": 0}),
    ("messages", {"temperature": 1, "top_k": 0, "thinking": {"type": "enabled", "budget_tokens": 31_999}}),
]


@pytest.mark.parametrize(("url", "name", "value", "range_told"), TOO_MUCH)
def test_a_number_out_of_its_range_is_refused(bob, post, url, name, value, range_told):
    response = post(url, bob, **{**ASKS[url], name: value})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_value")
    assert error["param"].split(".")[0] == name
    assert range_told in error["message"]


@pytest.mark.parametrize(("url", "fields"), USED)
def test_what_people_use_is_taken(bob, post, url, fields):
    response = post(url, bob, **ASKS[url], **fields)
    assert response.status_code == 200, response.text


def test_an_integer_that_is_written_as_a_float_is_one():
    call = Call.parse(orjson.dumps({"messages": HI, "max_tokens": 8.0, "n": 2.0, "seed": 1.0}), CHAT)
    assert [type(each) for each in (call.max_tokens, call.n, call.sent["seed"])] == [int, int, int]
