"""What a field's kind does not say: the roles, parts and tools inside of it. Pure.

llama-server answers some of these mistakes with a 500, takes others in silence, and fetches what a URL names.
So parts of a kind that is not listed here are refused, and pictures come as data only.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from .errors import InvalidValue, MissingParameter, UnsupportedParameter
from .fields import MAX_CHOICES, MAX_INPUTS, inputs_of, is_list_of_objects

Body = dict[str, Any]
Part = dict[str, Any]
PartCheck = Callable[[Part, str], None]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ANTHROPIC_ROLES = ("user", "assistant", "system")
DATA_URL = "data:"


# -- parts ---------------------------------------------------------------------------------------------------------


def needs_text(name: str) -> PartCheck:
    """A part that holds a text under this name."""

    def check(part: Part, param: str) -> None:
        if not isinstance(part.get(name), str):
            raise InvalidValue(f"A part of type '{part['type']}' needs a '{name}'.", param=param)

    return check


def check_picture(part: Part, param: str) -> None:
    """`image_url` is a URL, or an object that holds one as `url`."""
    image = part.get("image_url")
    url = image.get("url") if isinstance(image, dict) else image
    if not isinstance(url, str) or not url.startswith(DATA_URL):
        raise InvalidValue("Images are taken as data: URLs only; the gateway fetches nothing.", param=param)


def check_sound(part: Part, param: str) -> None:
    sound = part.get("input_audio")
    if not isinstance(sound, dict) or not isinstance(sound.get("data"), str):
        raise InvalidValue("A part of type 'input_audio' needs its 'data', in base64.", param=param)


def check_source(part: Part, param: str) -> None:
    source = part.get("source")
    if not isinstance(source, dict) or source.get("type") != "base64" or not isinstance(source.get("data"), str):
        raise InvalidValue("Images are taken as base64 only; the gateway fetches nothing.", param=param)


def check_tool_use(part: Part, param: str) -> None:
    if not isinstance(part.get("name"), str) or not isinstance(part.get("input"), dict):
        raise InvalidValue("A part of type 'tool_use' needs a 'name' and an 'input' object.", param=param)


def check_tool_result(part: Part, param: str) -> None:
    check_parts(part.get("content"), f"{param}.content", {"text": needs_text("text"), "image": check_source})


def accept(part: Part, param: str) -> None:
    """Nothing in it to be checked."""


MEDIA = ("image_url", "input_image", "image", "input_audio")
CHAT_PARTS = {"text": needs_text("text"), "image_url": check_picture, "input_audio": check_sound}
RESPONSES_PARTS = {
    "input_text": needs_text("text"),
    "output_text": needs_text("text"),
    "input_image": check_picture,
}
ANTHROPIC_PARTS = {
    "text": needs_text("text"),
    "image": check_source,
    "tool_use": check_tool_use,
    "tool_result": check_tool_result,
    "thinking": needs_text("thinking"),
    "redacted_thinking": accept,
}


def check_parts(content: Any, param: str, kinds: Mapping[str, PartCheck]) -> None:
    if content is None or isinstance(content, str):
        return
    if not is_list_of_objects(content):
        raise InvalidValue("'content' must be a string or an array of parts.", param=param)
    for part in content:
        kind = part.get("type")
        if not isinstance(kind, str):
            raise InvalidValue("Every part of 'content' needs a 'type'.", param=param)
        if kind not in kinds:
            raise InvalidValue(f"Parts of type '{kind[:40]}' are not taken, only {', '.join(kinds)}.", param=param)
        kinds[kind](part, param)


def check_role(message: Part, param: str, roles: tuple[str, ...]) -> None:
    if message.get("role") not in roles:
        raise InvalidValue(f"Every message needs a 'role', one of {', '.join(roles)}.", param=f"{param}.role")


def text_size(value: Any) -> int:
    """Bytes of text anywhere in a value, pictures and sounds aside."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, dict):
        return 0 if value.get("type") in MEDIA else sum(map(text_size, value.values()))
    return sum(map(text_size, value)) if isinstance(value, list) else 0


# -- whole fields --------------------------------------------------------------------------------------------------


def check_messages(body: Body) -> None:
    for param, message in numbered("messages", body["messages"]):
        check_role(message, param, ROLES)
        check_parts(message.get("content"), f"{param}.content", CHAT_PARTS)
        calls = message.get("tool_calls")
        if calls is not None and not (is_list_of_objects(calls) and all(has_function(call) for call in calls)):
            raise InvalidValue("Every tool call needs a 'function' with a 'name'.", param=f"{param}.tool_calls")


def check_anthropic_messages(body: Body) -> None:
    for param, message in numbered("messages", body["messages"]):
        check_role(message, param, ANTHROPIC_ROLES)
        if message.get("content") is None:
            raise InvalidValue("Every message needs a 'content'.", param=f"{param}.content")
        check_parts(message["content"], f"{param}.content", ANTHROPIC_PARTS)
    check_parts(body.get("system"), "system", {"text": needs_text("text")})


def check_items(body: Body) -> None:
    """The input of a response: a text, or items."""
    if isinstance(body["input"], str):
        return
    for param, item in numbered("input", body["input"]):
        kind = item.get("type") or "message"
        check = ITEMS.get(kind, refuse_item) if isinstance(kind, str) else refuse_item
        check(item, param)


def check_message_item(item: Part, param: str) -> None:
    check_role(item, param, ROLES[:4])
    if item.get("content") is None:
        raise InvalidValue("Every message needs a 'content'.", param=f"{param}.content")
    check_parts(item["content"], f"{param}.content", RESPONSES_PARTS)


def check_function_call(item: Part, param: str) -> None:
    if not all(isinstance(item.get(name), str) for name in ("call_id", "name", "arguments")):
        raise InvalidValue("A function call needs a 'call_id', a 'name' and 'arguments', as strings.", param=param)


def check_function_output(item: Part, param: str) -> None:
    if not isinstance(item.get("call_id"), str) or item.get("output") is None:
        raise InvalidValue("The output of a function call needs its 'call_id' and an 'output'.", param=param)
    check_parts(item["output"], f"{param}.output", {"input_text": needs_text("text")})


def refuse_item(item: Part, param: str) -> None:
    kind = str(item.get("type"))[:40]
    raise UnsupportedParameter(f"Items of type '{kind}' are not supported, only {', '.join(ITEMS)}.", param=param)


ITEMS: Mapping[str, PartCheck] = MappingProxyType(
    {
        "message": check_message_item,
        "function_call": check_function_call,
        "function_call_output": check_function_output,
        "reasoning": accept,
    }
)


def has_function(tool: Part) -> bool:
    function = tool.get("function")
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def check_tools(body: Body) -> None:
    for param, tool in numbered("tools", body.get("tools") or (), may_be_empty=True):
        if not has_function(tool):
            raise InvalidValue("Every tool needs a 'function' with a 'name'.", param=f"{param}.function")


def check_named_tools(body: Body) -> None:
    """The tools of a response or an Anthropic message: functions of the caller's, named at their top."""
    for param, tool in numbered("tools", body.get("tools") or (), may_be_empty=True):
        if tool.get("type", "function") not in ("function", "custom"):
            kind = str(tool["type"])[:40]
            raise UnsupportedParameter(f"Tools of type '{kind}' are not supported, only functions.", param=param)
        if not isinstance(tool.get("name"), str):
            raise InvalidValue("Every tool needs a 'name'.", param=f"{param}.name")


def check_choices(body: Body) -> None:
    """Each choice takes a slot of a llama-server."""
    count = (body.get("n") or 1) * len(inputs_of(body.get("prompt")))
    if count > MAX_CHOICES:
        raise InvalidValue(f"This asks for {count} answers, and {MAX_CHOICES} are the most for one call.", param="n")


def check_response_options(body: Body) -> None:
    form = body.get("text", {}).get("format")
    if form is not None and not (isinstance(form, dict) and isinstance(form.get("schema", {}), dict)):
        raise InvalidValue("'text.format' must be an object with a 'type'.", param="text.format")
    effort = body.get("reasoning", {}).get("effort")
    if effort is not None and not isinstance(effort, str):
        raise InvalidValue("'reasoning.effort' must be a string.", param="reasoning.effort")


def limit_inputs(name: str) -> Callable[[Body], None]:
    def check(body: Body) -> None:
        if len(inputs_of(body[name])) > MAX_INPUTS:
            raise InvalidValue(f"'{name}' holds more than {MAX_INPUTS} texts.", param=name)

    return check


def numbered(name: str, items: Any, *, may_be_empty: bool = False) -> list[tuple[str, Part]]:
    """Each object of a list, with the `param` that an error names it by."""
    if not items and not may_be_empty:
        raise InvalidValue(f"'{name}' must hold at least one.", param=name)
    return [(f"{name}[{place}]", item) for place, item in enumerate(items)]


def require(name: str) -> Callable[[Body], None]:
    def check(body: Body) -> None:
        if body.get(name) is None:
            raise MissingParameter(f"'{name}' is required.", param=name)

    return check
