"""The parts of messages: which kinds each dialect has, and how each is spelled for llama-server. Pure.

A llama-server answers an unknown kind with an error, or ignores it, and an agent sends its whole history with every
turn. So a kind that is in no table becomes the text that it holds, or is left out, and the caller is told (Omissions).
Refused is only what would change the answer unseen. Pictures come as data: a llama-server would fetch what a URL names.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from accounts.errors import InvalidRequest

from .errors import InvalidValue

Part = dict[str, Any]
Spelling = Callable[[Part], Part | str | None]  # the part to send, or the text that stands for it, or nothing
Kinds = dict[str, "Spelling | Kinds"]  # a table of its own is for the parts inside of a part

DATA_URL = "data:"
TEXT_FILE = re.compile(r"data:(?:text/[\w.+-]+|application/json)(?:;[\w=-]+)*;base64,", re.ASCII)
ODD = re.compile(r"[^\w.\[\]-]", re.ASCII)  # what the header that tells of kinds does not hold
NAME_SHOWN = 200  # characters of a title or URL that stand for what cannot be shown
KIND_SHOWN = 40
PATH_SHOWN = 64
MAX_OMISSIONS = 64  # kinds that are remembered for one body
MAX_DEPTH = 6  # of parts inside of a part that are looked into for text


class Omissions:
    """Kinds that were left out of a body, or of which only the text was kept: `messages[].content[].document`."""

    def __init__(self) -> None:
        self.paths: dict[str, None] = {}  # in the order in which they were met
        self.emptied = 0  # messages that could be answered, and of which nothing is left

    def told(self) -> list[str]:
        """The kinds, their odd characters as `_`."""
        return list(dict.fromkeys([ODD.sub("_", path) for path in self.paths])) if self.paths else []

    def add(self, path: str, kind: str) -> None:
        if len(self.paths) < MAX_OMISSIONS:
            self.paths[f"{path}.{kind}"[:PATH_SHOWN]] = None


# -- parts that are kept, each rebuilt of no more than a llama-server reads of it -----------------------------------


def texts(name: str, to: str = "") -> Spelling:
    """A part that holds a text under this name. `to` is what its kind is called where it stands."""

    def keep(part: Part) -> Part:
        if not isinstance(part.get(name), str):
            raise InvalidValue(f"A part of type '{part['type']}' needs a '{name}'.")
        return {"type": to or part["type"], name: part[name]}

    return keep


def picture_url(part: Part) -> str:
    """The URL of a picture in any dialect; blank where there is none."""
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") == "base64":
        return f"{DATA_URL}{media_type(source)};base64,{source['data']}" if isinstance(source.get("data"), str) else ""
    for holder in (part.get("image_url"), source):
        url = holder.get("url") if isinstance(holder, dict) else holder
        if isinstance(url, str):
            return url
    return ""


def media_type(source: Part) -> str:
    given = source.get("media_type")
    return given if isinstance(given, str) else "image/jpeg"


def chat_picture(part: Part) -> Part | str:
    url = picture_url(part)
    return {"type": "image_url", "image_url": {"url": url}} if url.startswith(DATA_URL) else note("A picture", url)


def response_picture(part: Part) -> Part | str:
    url = picture_url(part)
    return {"type": "input_image", "image_url": url} if url.startswith(DATA_URL) else note("A picture", url)


def anthropic_picture(part: Part) -> Part | str:
    source = part.get("source")
    if isinstance(source, dict) and source.get("type") == "base64" and isinstance(source.get("data"), str):
        rebuilt = {"type": "base64", "media_type": media_type(source), "data": source["data"]}
        return {"type": "image", "source": rebuilt}
    return note("A picture", picture_url(part))


def sound(part: Part) -> Part | str:
    given = part.get("input_audio")
    if not isinstance(given, dict) or not isinstance(given.get("data"), str):
        return note("A sound")
    form = given.get("format")
    told = {"format": form} if isinstance(form, str) else {}
    return {"type": "input_audio", "input_audio": {"data": given["data"], **told}}


def or_refuse(spelling: Spelling, sentence: str) -> Spelling:
    """The same in the message that is to be answered: without it, the answer would be another one."""

    def check(part: Part) -> Part:
        made = spelling(part)
        if not isinstance(made, dict):
            raise InvalidValue(sentence)
        return made

    return check


def tool_use(part: Part) -> Part:
    given = part.get("input")
    if not isinstance(part.get("name"), str) or not (given is None or isinstance(given, dict)):
        raise InvalidValue("A part of type 'tool_use' needs a 'name', and its 'input' must be an object.")
    return {**named(part, "id"), "type": "tool_use", "name": part["name"], "input": given or {}}


def thinking(part: Part) -> Part | None:
    thought = part.get("thinking")
    return {"type": "thinking", "thinking": thought} if isinstance(thought, str) else None


def named(part: Part, *names: str) -> Part:
    """The strings under these names."""
    return {name: part[name] for name in names if isinstance(part.get(name), str)}


# -- parts that become text, or nothing ----------------------------------------------------------------------------


def note(what: str, name: Any = "") -> str:
    """The text that stands for a picture, a sound or a file that cannot be shown to the model."""
    shown = name[:NAME_SHOWN] if isinstance(name, str) and not name.startswith(DATA_URL) else ""
    return f"[{what} that cannot be shown here: {shown}]" if shown else f"[{what} that cannot be shown here]"


def nothing(_: Part) -> None:
    """Thoughts, where there is no place for them."""


def unseen(what: str) -> Spelling:
    """A picture or a sound in a place where a llama-server takes none."""
    return lambda _: note(what)


def file(part: Part, depth: int = MAX_DEPTH) -> str:
    """A document or an attached file: its title and its text, or where it has none that can be read, a note."""
    given = part["file"] if isinstance(part.get("file"), dict) else part
    title = next((given[name] for name in ("title", "filename", "name") if isinstance(given.get(name), str)), "")
    source = given.get("source")
    if not isinstance(source, dict):
        text, address = text_of_data(given.get("file_data")), given.get("file_url")
    elif source.get("type") == "text" and isinstance(source.get("data"), str):
        text, address = source["data"], ""
    else:
        text, address = "\n".join(words(source.get("content"), depth)), source.get("url") or source.get("media_type")
    if not text:
        return note("A document", title or address)
    context = given.get("context")
    return "\n".join(filter(None, [title, context if isinstance(context, str) else "", text]))


def text_of_data(url: Any) -> str:
    """The text in a data: URL of a text file; blank for any other."""
    head = TEXT_FILE.match(url) if isinstance(url, str) else None
    if head is None:
        return ""
    try:
        return base64.b64decode(url[head.end() :], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


# Names under which unknown kinds hold what people read, in the order of reading.
READABLE = ("title", "source", "url", "uri", "text", "content", "stdout", "stderr", "output", "tool_references")


def words(value: Any, depth: int = MAX_DEPTH) -> list[str]:
    """The texts in a part of an unknown kind, or in several. Each value is looked at once, and an empty one never."""
    found: list[str] = []
    collect(value, depth, found)
    return found


def collect(value: Any, depth: int, found: list[str]) -> None:
    if isinstance(value, str):
        if value and not value.startswith(DATA_URL):
            found.append(value)
    elif isinstance(value, list) and depth:
        for each in value:
            if each:
                collect(each, depth - 1, found)
    elif isinstance(value, dict) and depth:
        kind = value.get("type")
        if kind in FILES:
            found.append(file(value, depth - 1))
        elif kind not in THOUGHTS:
            if isinstance(value.get("tool_name"), str):
                found.append(f"tool {value['tool_name']}")
            own = (kind,) if isinstance(kind, str) and kind not in READABLE else ()  # a refusal's "refusal"
            for name in (*own, *READABLE):
                if inner := value.get(name):
                    collect(inner, depth - 1, found)


def text_in(part: Part) -> str:
    """A part of a kind that nobody here knows."""
    return "\n".join(words(part))


# -- tables: the kinds of parts of each dialect, by where they stand ------------------------------------------------

THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text")
FILES = ("document", "input_file", "file")
PICTURES = ("image_url", "input_image", "image", "computer_screenshot")
TEXTS = ("text", "input_text", "output_text")
ONLY_DATA = "Pictures are taken as data: URLs only; the gateway fetches nothing."
ONLY_BASE64 = "Pictures are taken as base64 only; the gateway fetches nothing."
NO_SOUND = "A part of type 'input_audio' needs its 'data', in base64."

OTHER_PARTS: Kinds = {**dict.fromkeys(THOUGHTS, nothing), **dict.fromkeys(FILES, file)}
CHAT_PARTS: Kinds = {
    **OTHER_PARTS,
    **dict.fromkeys(TEXTS, texts("text", to="text")),
    **dict.fromkeys(PICTURES, chat_picture),
    "input_audio": sound,
}
LAST_CHAT_PARTS: Kinds = {
    **CHAT_PARTS,
    **dict.fromkeys(PICTURES, or_refuse(chat_picture, ONLY_DATA)),
    "input_audio": or_refuse(sound, NO_SOUND),
}
INPUT_PARTS: Kinds = {  # of items, but for the assistant's messages
    **OTHER_PARTS,
    **dict.fromkeys(TEXTS, texts("text", to="input_text")),
    **dict.fromkeys(PICTURES, response_picture),
    "input_audio": unseen("A sound"),
}
LAST_INPUT_PARTS: Kinds = {**INPUT_PARTS, **dict.fromkeys(PICTURES, or_refuse(response_picture, ONLY_DATA))}
OUTPUT_PARTS: Kinds = {  # of the assistant's, whose text alone a llama-server takes
    **OTHER_PARTS,
    **dict.fromkeys(TEXTS, texts("text", to="output_text")),
    **dict.fromkeys(PICTURES, unseen("A picture")),
}
SYSTEM_PARTS: Kinds = {**OTHER_PARTS, "text": texts("text")}
RESULT_PARTS: Kinds = {**SYSTEM_PARTS, "image": anthropic_picture}
ANTHROPIC_PARTS: Kinds = {
    **RESULT_PARTS,
    "thinking": thinking,
    "tool_use": tool_use,
    "tool_result": RESULT_PARTS,
}
LAST_ANTHROPIC_PARTS: Kinds = {**ANTHROPIC_PARTS, "image": or_refuse(anthropic_picture, ONLY_BASE64)}


# -- contents ------------------------------------------------------------------------------------------------------


def spell_content(
    holder: Mapping[str, Any], field: str, text: str, kinds: Kinds, path: str, omitted: Omissions
) -> str | list[Part]:
    """Spell the content that stands in a field of its holder: its parts by a table. It may lose all of them.

    Those that become text are parts of the kind `text`. `path` is that of the holder, with a dot at its end. Raises
    InvalidValue for what is no content.
    """
    content = holder[field]
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidValue(f"'{field}' must be a string or an array of parts.", param=field)
    spelled: list[Part] = []
    for place, part in enumerate(content):
        if isinstance(part, str):
            spelled.append({"type": text, "text": part})
            continue
        if part is None:
            continue
        kind = part.get("type") if isinstance(part, dict) else None
        if kind is None and (untyped := text_in(part)):
            spelled.append({"type": text, "text": untyped})
            continue
        if not isinstance(kind, str):
            raise InvalidValue(f"Every part of '{field}' needs a 'type'.", param=f"{field}[{place}]")
        spelling = kinds.get(kind, text_in)
        try:
            if isinstance(spelling, dict):
                made: Part | str | None = tool_result(part, text, spelling, f"{path}{field}[].", omitted)
            else:
                made = spelling(part)
        except InvalidRequest as exc:
            exc.param = f"{field}[{place}].{exc.param}" if exc.param else f"{field}[{place}]"
            raise
        if isinstance(made, dict):
            spelled.append(made)
            continue
        omitted.add(f"{path}{field}[]", kind)
        if made:
            spelled.append({"type": text, "text": made})
    return spelled


def tool_result(part: Part, text: str, kinds: Kinds, path: str, omitted: Omissions) -> Part:
    """Spell the result of a tool, a part with a content of its own."""
    content = part.get("content")
    if isinstance(content, dict):
        content = [content]
    if content is not None:
        content = spell_content({"content": content}, "content", text, kinds, path, omitted) or noted(content)
    return {**named(part, "type", "tool_use_id"), "content": content or ""}


def noted(content: list[Part] | str) -> str:
    """The text that stands for a content that has lost all its parts; nothing for one that had none."""
    kinds = dict.fromkeys(part["type"][:KIND_SHOWN] for part in content[:8] if isinstance(part, dict))
    return note("Content", ", ".join(kinds)) if kinds else ""


# -- sizes ---------------------------------------------------------------------------------------------------------


def media(body: Mapping[str, Any]) -> Iterator[str]:
    """The data of the pictures and sounds in a spelled body: of all strings, those that no model reads as text."""
    for messages in (body.get("messages"), body.get("input")):
        for message in messages if isinstance(messages, list) else ():
            for content in (message.get("content"), message.get("output")) if isinstance(message, dict) else ():
                if isinstance(content, list):
                    yield from media_in(content)


def media_in(content: list[Part]) -> Iterator[str]:
    for part in content:
        match part["type"]:
            case "image_url":
                yield part["image_url"]["url"]
            case "input_image":
                yield part["image_url"]
            case "image":
                yield part["source"]["data"]
            case "input_audio":
                yield part["input_audio"]["data"]
            case "tool_result" if isinstance(part["content"], list):
                yield from media_in(part["content"])


def size_of(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode(errors="replace"))


def text_size(body: Mapping[str, Any]) -> int:
    """Bytes of text anywhere in a spelled body, names included; pictures and sounds aside."""
    size, left = -sum(map(size_of, media(body))), [body]
    while left:
        value: Any = left.pop()
        if isinstance(value, str):
            size += size_of(value)
        elif isinstance(value, Mapping):
            size += sum(map(size_of, value))
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return size
