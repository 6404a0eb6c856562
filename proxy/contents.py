"""Conversations, checked and spelled for llama-server: a chat's messages, Anthropic's, the items of a response. Pure.

Each is rebuilt from the fields that it has a use for. `parts.py` knows what contents hold, `tools.py` what may be
called. An error's `param` grows on its way out: "content[1]", "messages[0].content[1]".
"""

from collections.abc import Callable, Iterator
from typing import Any

import orjson

from accounts.errors import InvalidRequest

from .errors import InvalidValue, MissingParameter, UnsupportedParameter
from .fields import (
    INT32,
    LABEL,
    MAX_CHOICES,
    MAX_INPUTS,
    MAX_LOOKBACK,
    inputs_of,
    is_integer,
    is_list_of_objects,
)
from .parts import (
    ANTHROPIC_PARTS,
    CHAT_PARTS,
    INPUT_PARTS,
    KIND_SHOWN,
    LAST_ANTHROPIC_PARTS,
    LAST_CHAT_PARTS,
    LAST_INPUT_PARTS,
    OUTPUT_PARTS,
    PICTURES,
    SYSTEM_PARTS,
    Kinds,
    Omissions,
    Part,
    named,
    noted,
    spell_content,
    words,
)
from .tools import anthropic_tool, chat_tool, response_tool, spell_tools

Body = dict[str, Any]
Spell = Callable[[Part, Kinds, Omissions], Part | list[Part] | None]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ITEM_ROLES = ROLES[:4]
OWN_ITEMS = frozenset({"message", "function_call", "function_call_output", "reasoning"})
ANTHROPIC_ROLES = ("user", "assistant", "system")
INSTRUCTING = ("system", "developer")  # roles of messages that need no answer
OMITTED_SHOWN = 300  # characters


def spell_each(name: str, items: list[Part], spell: Spell, users: Kinds, last: Kinds, omitted: Omissions) -> list[Part]:
    """Spell messages or items; `spell` gives None for one that is left out, and may give several.

    A user's parts are those of `users`, in the messages to be answered those of `last`. Raises InvalidValue where there
    are no items, or nothing is left of those that could be answered.
    """
    if not items:
        raise InvalidValue(f"'{name}' must hold at least one.", param=name)
    spelled: list[tuple[int, Part]] = []  # each with the place of what it was made of
    place = 0
    try:
        for place, item in enumerate(items):
            made = spell(item, users, omitted)
            if isinstance(made, dict):
                spelled.append((place, made))
            elif made:
                spelled.extend([(place, each) for each in made])
        if omitted.paths:
            for place in asking(spelled):
                spell(items[place], last, Omissions())
    except InvalidRequest as exc:
        exc.param = f"{name}[{place}].{exc.param}" if exc.param else f"{name}[{place}]"
        raise
    messages = [made for _, made in spelled]
    if omitted.paths:
        answerable = sum(each.get("role") not in INSTRUCTING for each in messages)
        if not messages or (omitted.emptied and omitted.emptied == answerable):
            kinds = ", ".join(omitted.told())[:OMITTED_SHOWN]
            raise InvalidValue(f"Nothing in '{name}' can be answered here: {kinds}.", param=name)
    return messages


def asking(spelled: list[tuple[int, Part]]) -> Iterator[int]:
    """Places of the messages to be answered: a user's after the last answer, call or output of a tool.

    An assistant's at the very end is the beginning of the answer. Instructions and thoughts may stand anywhere.
    """
    is_end = True
    for place, each in reversed(spelled):
        role = each.get("role")
        if role == "user":
            is_end = False
            yield place
        elif not (role in INSTRUCTING or each.get("type") == "reasoning" or (is_end and role == "assistant")):
            return


def role_of(message: Part, roles: tuple[str, ...]) -> Any:
    role = message.get("role")
    if role not in roles:
        raise InvalidValue(f"Every message needs a 'role', one of {', '.join(roles)}.", param="role")
    return role


def message_content(message: Part, text: str, kinds: Kinds, path: str, omitted: Omissions) -> str | list[Part]:
    """The content of a message. A user's or a tool's that has lost all its parts says so."""
    content, role = message.get("content"), message["role"]
    if content is None:
        if role == "assistant":
            return ""
        raise InvalidValue("Every message needs a 'content'.", param="content")
    spelled = spell_content(message, "content", text, kinds, path, omitted)
    if spelled or not content:
        return spelled
    if role in INSTRUCTING:
        return ""
    omitted.emptied += 1
    return "" if role == "assistant" else noted(content)


# -- a chat --------------------------------------------------------------------------------------------------------


def spell_chat(body: Body, omitted: Omissions) -> Body:
    given = body["messages"]
    messages = spell_each("messages", given, chat_message, CHAT_PARTS, LAST_CHAT_PARTS, omitted)
    return spell_lookback(spell_tools({**body, "messages": messages}, chat_tool, omitted), omitted)


def chat_message(message: Part, users: Kinds, omitted: Omissions) -> Part:
    role, content = role_of(message, ROLES), message.get("content")
    if len(message) == 2 and isinstance(content, str):  # most are no more than this
        return {"role": role, "content": content}
    spelled: Part = {"role": role}
    calls, refusal = calls_of(message), message.get("refusal")
    if content is None and role == "assistant" and (isinstance(refusal, str) or not calls):
        spelled["content"] = refusal if isinstance(refusal, str) else ""
    elif content is not None:
        kinds = users if role == "user" else CHAT_PARTS
        spelled["content"] = message_content(message, "text", kinds, "messages[].", omitted)
    elif "content" in message:
        spelled["content"] = None
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := message.get(name)) is not None:
            if not isinstance(value, str):
                raise InvalidValue(f"'{name}' must be a string.", param=name)
            spelled[name] = value
    if calls is not None:
        spelled["tool_calls"] = tool_calls(calls)
    return spelled


def calls_of(message: Part) -> Any:
    """The calls in a message; one in the older spelling has no id, so it gets one."""
    calls, function = message.get("tool_calls"), message.get("function_call")
    if calls is None and isinstance(function, dict):
        return [{"id": f"call_{function.get('name')}", "function": function}]
    return calls


def tool_calls(calls: Any) -> list[Part]:
    """The calls of an assistant. The call of a tool that takes free text is one of a function with an `input`."""
    if not is_list_of_objects(calls):
        raise InvalidValue("'tool_calls' must be an array of objects.", param="tool_calls")
    spelled = []
    for call in calls:
        function, custom = call.get("function"), call.get("custom")
        if isinstance(custom, dict) and not isinstance(function, dict):
            function = {"name": custom.get("name"), "arguments": arguments({"input": custom.get("input")})}
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise InvalidValue("Every tool call needs a 'function' with a 'name'.", param="tool_calls")
        if not function.get("arguments"):
            function = {**function, "arguments": "{}"}
        spelled.append({**named(call, "id"), "type": "function", "function": function})
    return spelled


def arguments(given: Part) -> str:
    try:
        return orjson.dumps(given).decode()
    except orjson.JSONEncodeError as exc:
        raise InvalidValue("The arguments of a call are nested too deeply.") from exc


# -- messages of Anthropic's ---------------------------------------------------------------------------------------


def spell_message(body: Body, omitted: Omissions) -> Body:
    """`tool_choice: none` is unknown to llama-server, which would offer the tools all the same."""
    given = body["messages"]
    messages = spell_each("messages", given, anthropic_message, ANTHROPIC_PARTS, LAST_ANTHROPIC_PARTS, omitted)
    body = {**body, "messages": messages}
    if "system" in body:
        body["system"] = spell_content(body, "system", "text", SYSTEM_PARTS, "", omitted)
    if body.get("tool_choice", {}).get("type") == "none":
        return {name: value for name, value in body.items() if name not in ("tools", "tool_choice")}
    return spell_tools(body, anthropic_tool, omitted)


def anthropic_message(message: Part, users: Kinds, omitted: Omissions) -> Part | None:
    """A message; None for instructions of which nothing is left."""
    role = role_of(message, ANTHROPIC_ROLES)
    kinds = users if role == "user" else ANTHROPIC_PARTS
    content = message_content(message, "text", kinds, "messages[].", omitted)
    return {"role": role, "content": content} if content or role not in INSTRUCTING else None


# -- a response ----------------------------------------------------------------------------------------------------


def spell_response(body: Body, omitted: Omissions) -> Body:
    """OpenAI's spelling, where llama-server reads only the chat's, or only one of several."""
    sent = {name: value for name, value in body.items() if name not in ("text", "reasoning")}
    if isinstance(sent["input"], list):
        sent["input"] = spell_items(sent["input"], omitted)
    form = body.get("text", {}).get("format") or {}
    if not isinstance(form, dict) or not isinstance(form.get("schema", {}), dict):
        raise InvalidValue("'text.format' must be an object with a 'type'.", param="text.format")
    if form.get("type") == "json_schema":
        schema = {name: form[name] for name in ("name", "schema", "strict") if name in form}
        sent["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif form.get("type") == "json_object":
        sent["response_format"] = {"type": "json_object"}
    effort = body.get("reasoning", {}).get("effort")
    if effort is not None and not LABEL.check(effort):
        raise InvalidValue(f"'reasoning.effort' must be {LABEL.expected}.", param="reasoning.effort")
    if effort:
        sent["reasoning_effort"] = effort
    sent = spell_tools(sent, response_tool, omitted)
    choice = sent.get("tool_choice")
    if isinstance(choice, dict) and choice.get("name"):
        sent["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    return sent


def spell_items(items: list[Part], omitted: Omissions) -> list[Part]:
    """Spell the items of an input, each of no more than its kind has: llama-server goes by what it finds in one.

    The call of a tool that is not a function becomes the call of a function with its name where its output is there,
    too, and is left out where not: many templates want both or neither. An output that stands in the call itself
    becomes an item of its own. Any other item becomes a message that holds its text, the assistant's where it has no
    role: a model made it.
    """
    kinds = [kind_of(item) for item in items]
    called: set[str] = set()
    answered: set[str] = set()
    if not OWN_ITEMS.issuperset(kinds):
        for item, kind in zip(items, kinds, strict=True):
            if kind.endswith("_call"):
                called.update(ids_of(item))
            elif kind.endswith("_output"):
                answered.update(ids_of(item)[:1])

    def spell(item: Part, users: Kinds, omitted: Omissions) -> Part | list[Part] | None:
        made: Part | list[Part] | None = None
        match kind := item.get("type") or "message":
            case "message":
                return message_item(item, users, omitted)
            case "function_call":
                return function_call(item)
            case "function_call_output":
                return function_output(item, omitted)
            case "reasoning":
                made = reasoning(item)
            case "item_reference":
                raise UnsupportedParameter(
                    "Items of type 'item_reference' are not supported: nothing is stored here. "
                    "Send the items themselves; SDKs do so with `store: false`."
                )
            case _ if kind.endswith("_call"):
                made = next((foreign_call(item, each) for each in ids_of(item) if each in answered), None)
                made = made or answered_call(item, omitted)
            case _ if kind.endswith("_output"):
                made = next((foreign_output(item, each, omitted) for each in ids_of(item)[:1] if each in called), None)
            case _:
                made = told_item(item)
        if not isinstance(made, dict) or made["type"] != kind:
            omitted.add("input[]", kind)
        return made

    return spell_each("input", items, spell, INPUT_PARTS, LAST_INPUT_PARTS, omitted)


def kind_of(item: Part) -> str:
    kind = item.get("type") or "message"
    if not isinstance(kind, str):
        raise UnsupportedParameter(f"Items of type '{str(kind)[:KIND_SHOWN]}' are not supported.", param="input")
    return kind


def ids_of(item: Part) -> list[str]:
    """The ids of an item, that of its call first."""
    return [item[name] for name in ("call_id", "id") if isinstance(item.get(name), str)]


def message_item(item: Part, users: Kinds, omitted: Omissions) -> Part:
    """A message. llama-server wants an assistant's with its type said, and the text as a part of output."""
    role = role_of(item, ITEM_ROLES)
    if role != "assistant":
        kinds = users if role == "user" else INPUT_PARTS
        content = message_content(item, "input_text", kinds, "input[].", omitted)
        return {"type": "message", "role": role, "content": content}
    content = message_content(item, "output_text", OUTPUT_PARTS, "input[].", omitted)
    parts = [{"type": "output_text", "text": content}] if isinstance(content, str) else content
    return {"type": "message", "role": role, "content": parts}


def function_call(item: Part) -> Part:
    given = item.get("arguments") or "{}"
    if not isinstance(given, str) or not all(isinstance(item.get(name), str) for name in ("call_id", "name")):
        raise InvalidValue("A function call needs a 'call_id', a 'name' and 'arguments', as strings.")
    return {"type": "function_call", "call_id": item["call_id"], "name": item["name"], "arguments": given}


def function_output(item: Part, omitted: Omissions) -> Part:
    if not isinstance(item.get("call_id"), str) or item.get("output") is None:
        raise InvalidValue("The output of a function call needs its 'call_id' and an 'output'.")
    output = spell_content(item, "output", "input_text", INPUT_PARTS, "input[].", omitted) or noted(item["output"])
    return {"type": "function_call_output", "call_id": item["call_id"], "output": output}


def foreign_call(item: Part, call_id: str) -> Part:
    """The call of a tool that is not a function, as one: of a shell, of a tool that takes free text."""
    name, given = item.get("name"), item.get("arguments")
    if not isinstance(given, str):
        aside = ("type", "id", "call_id", "name", "status", "output", "error")
        given = arguments({field: value for field, value in item.items() if field not in aside})
    name = name if isinstance(name, str) else item["type"].removesuffix("_call")
    return {"type": "function_call", "call_id": call_id, "name": name or "tool", "arguments": given or "{}"}


def answered_call(item: Part, omitted: Omissions) -> list[Part] | None:
    """The call of a tool that was run elsewhere, an MCP server's, with the output or the error that it holds."""
    output, ids = item.get("output") or item.get("error"), ids_of(item)
    if not output or not ids:
        return None
    return [foreign_call(item, ids[0]), foreign_output({**item, "output": output}, ids[0], omitted)]


def foreign_output(item: Part, call_id: str, omitted: Omissions) -> Part:
    """Its output, as that of a function: text, pictures that come as data, and how the tool ended."""
    output, status = item.get("output"), item.get("status")
    if isinstance(output, dict) and output.get("type") in PICTURES:
        output = [output]
    is_content = is_list_of_objects(output) and all(isinstance(part.get("type"), str) for part in output or ())
    if not output or not (is_content or isinstance(output, str)):
        output = "\n".join([*(words(output) or words(item)), *endings(output)])
    if isinstance(status, str) and (not output or status != "completed") and not isinstance(output, list):
        output = "\n".join(filter(None, [output, f"status: {status[:KIND_SHOWN]}"]))
    output = output or f"[{item['type'][:KIND_SHOWN]}: cannot be shown here]"
    return function_output({"call_id": call_id, "output": output}, omitted)


def endings(output: Any) -> Iterator[str]:
    """Exit codes of the commands of a shell."""
    for each in output if isinstance(output, list) else ():
        outcome = each.get("outcome") if isinstance(each, dict) else None
        if isinstance(outcome, dict) and is_integer(outcome.get("exit_code")):
            yield f"exit code: {outcome['exit_code']}"
        elif isinstance(outcome, dict) and outcome.get("type") == "timeout":
            yield "timeout"


def told_item(item: Part) -> Part | None:
    """An item of a kind that nobody here knows, as a message that holds its text; None where it has none."""
    text, role = "\n".join(words(item)), item.get("role")
    if not text:
        return None
    if role in ITEM_ROLES and role != "assistant":
        return {"type": "message", "role": role, "content": text}
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def reasoning(item: Part) -> Part | None:
    """Thoughts of an earlier turn, where they can be read: a llama-server refuses those without content."""
    content = item.get("content")
    thoughts = [part.get("text") for part in content or ()] if is_list_of_objects(content) else []
    text = "".join(thought for thought in thoughts if isinstance(thought, str))
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]} if text else None


# -- other fields --------------------------------------------------------------------------------------------------


def spell_lookback(body: Body, omitted: Omissions) -> Body:  # noqa: ARG001  # as all that spell a body
    """A body whose penalties look back over so many tokens: of the -1 that stands for all, newer builds know none."""
    for name in ("repeat_last_n", "dry_penalty_last_n"):
        if body.get(name) == -1:
            body = {**body, name: MAX_LOOKBACK}
    return body


def check_choices(body: Body) -> None:
    """Each choice takes a slot of a llama-server."""
    count = (body.get("n") or 1) * len(inputs_of(body.get("prompt")))
    if count > MAX_CHOICES:
        raise InvalidValue(f"This asks for {count} answers, and {MAX_CHOICES} are the most for one call.", param="n")


def check_thinking(body: Body) -> None:
    name, budget = "thinking.budget_tokens", body.get("thinking", {}).get("budget_tokens")
    if budget is not None and not (is_integer(budget) and 0 <= budget <= INT32):
        raise InvalidValue(f"'{name}' must be an integer from 0 to {INT32}.", param=name)


def limit_inputs(name: str) -> Callable[[Body], None]:
    def check(body: Body) -> None:
        if len(inputs_of(body[name])) > MAX_INPUTS:
            raise InvalidValue(f"'{name}' holds more than {MAX_INPUTS} texts.", param=name)

    return check


def require(name: str) -> Callable[[Body], None]:
    def check(body: Body) -> None:
        if body.get(name) is None:
            raise MissingParameter(f"'{name}' is required.", param=name)

    return check
