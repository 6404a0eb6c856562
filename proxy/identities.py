"""What it is that answers at a llama-server: its model, how that is run, and which start of it this is. Pure."""

import hashlib
from typing import Any

import orjson

SERVING = (
    "model_path",
    "build_info",
    "chat_template",
    "chat_template_tool_use",
    "bos_token",
    "eos_token",
    "default_generation_settings",  # its command line's temperature, samplers, ...
    "modalities",
    "media_marker",  # made anew at each start: a file may be another one under its old name
)


def identity_of(models: list[dict[str, Any]], props: dict[str, Any], adapters: Any) -> str | None:
    """A digest of what /v1/models, /props and /lora-adapters say; None where that is not enough to go by.

    Two that are equal stand for servers that answer the same to the same question.
    """
    if not props.get("model_path") or not props.get("media_marker") or is_random(props):
        return None
    served = [{name: model.get(name) for name in ("id", "meta")} for model in models]
    running = {name: props.get(name) for name in SERVING}
    told = orjson.dumps([served, running, adapters], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(told).hexdigest()[:32]


def is_random(props: dict[str, Any]) -> bool:
    """Whether temperature 0 leaves something to chance there, by its command line."""
    params = props.get("default_generation_settings", {}).get("params", {})
    dice = params.get("xtc_probability", 0) > 0 or params.get("dynatemp_range", 0) > 0
    return dice or "temperature" not in params.get("samplers", ["temperature"])
