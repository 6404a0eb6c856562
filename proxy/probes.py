"""What a llama-server tells of itself when it is asked: its models, slots, context, and what it is that answers.

It is asked for `/v1/models` and `/props` now and then. Both are answered beside the work: they tell whether it lives.
`/lora-adapters`, which is asked for after a start, waits behind a prompt that is being read: no answer says nothing.
Reading `/slots` or `/metrics` keeps a llama-server from noticing that a client has left.
"""

from typing import Any

from accounts.errors import GatewayError

from .errors import ConnectTimeout, OutOfFiles, UpstreamError, UpstreamTimeout
from .identities import identity_of
from .members import Member, Told
from .upstream import UpstreamClient

TIMEOUT = 5.0  # seconds that it has for an answer: it takes milliseconds, whatever it computes
NOT_TOLD = (UpstreamTimeout, ConnectTimeout, OutOfFiles)  # these say nothing of what it keeps to itself
ADAPTERS_TIMEOUT = 1.0  # seconds; without an answer nothing of it is cached until it is asked again
MARKER = "media_marker"  # of /props: made anew at each start


async def probe(client: UpstreamClient, member: Member) -> Told:
    """Ask it. Raises as UpstreamClient.get does: NeverSent, StillLoading, ..."""
    try:
        models = (await get(client, member, "/v1/models"))["data"]
        names = {name: model["id"] for model in models for name in (model["id"], *model.get("aliases", ()))}
        contexts = [meta_of(model).get("n_ctx") or 0 for model in models]
    except (KeyError, TypeError, AttributeError) as exc:
        raise UpstreamError(reason="answered /v1/models with something that is no list of models") from exc
    props, adapters = await asked_further(client, member)
    return Told(
        models=names,
        context=max(contexts, default=0) or None,
        slots=slots_in(props),
        identity=None if adapters is None else identity_of(models, props, adapters),
        props=props,
        adapters=adapters,
    )


async def asked_further(client: UpstreamClient, member: Member) -> tuple[dict[str, Any], Any]:
    """Its properties, empty where it keeps them to itself, and its adapters, None where it does.

    Adapters are asked for after a start, or where it has some: asking wakes a sleeping one.
    """
    before = member.told
    try:
        props = dict(await get(client, member, "/props"))
        if before.adapters == [] and before.props.get(MARKER) == props.get(MARKER) is not None:
            return props, []
    except NOT_TOLD:
        raise
    except (GatewayError, TypeError, ValueError):
        return {}, None
    if props.get("is_sleeping"):
        return props, None
    try:
        return props, await get(client, member, "/lora-adapters", ADAPTERS_TIMEOUT)
    except OutOfFiles:
        raise
    except GatewayError:
        return props, None


async def get(client: UpstreamClient, member: Member, path: str, within: float | None = None) -> Any:
    return await client.get(member.url + path, member.spec.api_key, TIMEOUT if within is None else within)


def slots_in(props: dict[str, Any]) -> int | None:
    slots = props.get("total_slots")
    return slots if isinstance(slots, int) and slots > 0 else None


def meta_of(model: dict[str, Any]) -> dict[str, Any]:
    meta = model.get("meta")
    return meta if isinstance(meta, dict) else {}
