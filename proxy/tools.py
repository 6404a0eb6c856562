"""The tools that a model may call: functions of the caller's, in any dialect. Others are skipped. Pure."""

from collections.abc import Callable
from typing import Any

from accounts.errors import InvalidRequest

from .errors import InvalidValue, UnsupportedParameter
from .parts import Omissions, Part

Body = dict[str, Any]
FunctionOf = Callable[[Part], Part | None]  # the tool, or None for one that is not a function


def spell_tools(body: Body, function_of: FunctionOf, omitted: Omissions) -> Body:
    """A body with those of its tools that are functions of the caller's.

    Raises UnsupportedParameter where its `tool_choice` forces another.
    """
    given = body.get("tools") or ()
    kept = []
    for place, tool in enumerate(given):
        if tool is None:
            continue
        try:
            function = function_of(tool)
        except InvalidRequest as exc:
            exc.param = f"tools[{place}].{exc.param}"
            raise
        if function is None:
            omitted.add("tools[]", tool["type"])
        else:
            kept.append(function)
    if "tool_choice" in body:
        check_choice(body["tool_choice"], list(map(name_of, kept)), has_skipped=len(kept) < len(given))
    return {**body, "tools": kept} if given else body


def tool_kind(tool: Part, default: str) -> str:
    kind = tool.get("type") or default
    if not isinstance(kind, str):
        raise InvalidValue("The 'type' of a tool must be a string.", param="type")
    return kind


def present(tool: Part) -> Part:
    """A tool without its nulls, which a llama-server does not take for absent."""
    return {name: value for name, value in tool.items() if value is not None}


def chat_tool(tool: Part) -> Part | None:
    if tool_kind(tool, "function") != "function":
        return None
    function = tool.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise InvalidValue("Every tool needs a 'function' with a 'name'.", param="function")
    return {**present(tool), "type": "function", "function": present(function)}


def response_tool(tool: Part) -> Part | None:
    """A tool of a response, which is named at its top."""
    if tool_kind(tool, "function") != "function":
        return None
    if not isinstance(tool.get("name"), str):
        raise InvalidValue("Every tool needs a 'name'.", param="name")
    return {**present(tool), "type": "function"}


def anthropic_tool(tool: Part) -> Part | None:
    if tool_kind(tool, "custom") not in ("custom", "function"):
        return None
    if not isinstance(tool.get("name"), str):
        raise InvalidValue("Every tool needs a 'name'.", param="name")
    return present(tool)


def name_of(tool: Part) -> Any:
    """The name of a tool, which stands at its top or inside of its function."""
    function = tool.get("function")
    return function.get("name") if tool.get("name") is None and isinstance(function, dict) else tool.get("name")


def check_choice(choice: str | Part, names: list[Any], *, has_skipped: bool) -> None:
    """Raise UnsupportedParameter for a choice that forces a tool which was skipped, or that nobody here has."""
    told: Part = {"type": choice} if isinstance(choice, str) else choice
    kind = told.get("type")
    match kind:
        case "function" | "tool":
            is_lost = has_skipped and name_of(told) not in names
        case "required" | "any":
            is_lost = has_skipped and not names
        case "allowed_tools":
            allowed = told["allowed_tools"] if isinstance(told.get("allowed_tools"), dict) else told
            listed = allowed.get("tools")
            listed = [name_of(tool) for tool in listed if isinstance(tool, dict)] if isinstance(listed, list) else []
            is_lost = has_skipped and not (any(name in names for name in listed) if listed else names)
            is_lost = is_lost and (bool(listed) or allowed.get("mode") == "required")
        case _:
            is_lost = isinstance(kind, str) and kind not in ("auto", "none")
    if is_lost:
        raise UnsupportedParameter(
            "'tool_choice' asks for a tool that is not a function; only functions are taken.", param="tool_choice"
        )
