"""The dashboard of a gateway that serves."""

import httpx
from django.urls import reverse

from proxy.gateway import gateway
from tests.servers import PATIENCE


def shown(live, root):
    return " ".join(httpx.get(f"{live.url}{reverse('admin-live')}", cookies=root, timeout=PATIENCE).text.split())


def test_upstreams_and_queue_are_told_where_a_gateway_runs(live, root):
    text = shown(live, root)
    assert "smollm2-135m" in text
    assert "0 of 4" in text
    assert "Configured by LLAMA_SERVERS" in text
    assert "offers to take over these" in text


def test_an_upstream_that_is_down_stands_out(live, root, served_by):
    served_by("http://127.0.0.1:9")
    gateway().pool.members[0].circuit.refused(0, "nobody is there")
    text = shown(live, root)
    assert "1 of 1 down" in text
    assert "nobody is there" in text


def test_what_a_server_says_is_text_and_short(live, root, served_by):
    served_by("http://127.0.0.1:9")
    gateway().pool.members[0].circuit.refused(0, "<b>bad</b> " + "very " * 100)
    text = shown(live, root)
    assert "&lt;b&gt;bad&lt;/b&gt;" in text
    assert "<b>bad</b>" not in text
    assert text.count("very ") < 30


def test_without_any_the_page_says_what_that_means(live, root, served_by):
    served_by()
    assert "every call is answered 503" in shown(live, root)
