"""What a request may hold: read strictly, checked field by field, and built anew from what is allowed.

What reaches the model server is never the client's text: it is written here, from fields that were checked.
"""

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

DEEPEST = 16  # lists and objects inside each other; the parameters of a tool go deepest
LONGEST_NUMBER = 20  # digits of a whole number: every field's range ends long before
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


class Refused(Exception):
    """A request that is turned away: the status, a sentence for the client, and seconds to wait if waiting helps."""

    def __init__(self, status: int, reason: str, wait: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.wait = status, reason, wait


# --- strict JSON ----------------------------------------------------------------------------------------


def parse(body: bytes) -> dict:
    """The JSON object in `body`. Refused if it is no UTF-8, no JSON by the letter, too deep, or ambiguous."""
    try:
        text = body.decode("utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError:
        raise Refused(400, "The request must be JSON in UTF-8.") from None
    except RecursionError:
        raise Refused(400, _too_deep()) from None
    except ValueError:
        raise Refused(400, "The request must be a JSON object.") from None
    if not isinstance(value, dict):
        raise Refused(400, "The request must be a JSON object, with its fields between { and }.")
    _check_parts(value)
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Refused(400, "A field is named twice in the request: name it once.")
    return made


def _no_constant(name: str) -> float:
    raise Refused(400, f"{name} is no number in JSON.")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise Refused(400, "A number in the request is too large.")
    return number


def _whole(digits: str) -> int:
    if len(digits) > LONGEST_NUMBER:
        raise Refused(400, "A number in the request is too large.")
    return int(digits)


def _too_deep() -> str:
    return f"The request is nested deeper than {DEEPEST} levels."


def _check_parts(value: Any) -> None:
    """Refuse what is nested too deep, and halves of characters, which no tokenizer can read."""
    waiting = [(value, 1)]
    while waiting:
        part, level = waiting.pop()
        if isinstance(part, str):
            _check_text(part)
            continue
        if not isinstance(part, dict | list):
            continue
        if level > DEEPEST:
            raise Refused(400, _too_deep())
        inner = [*part.keys(), *part.values()] if isinstance(part, dict) else part
        waiting += [(one, level + 1) for one in inner]


def _check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise Refused(400, "The request holds half of a character (a lone surrogate).") from None


# --- fields ---------------------------------------------------------------------------------------------


class Strict(BaseModel):
    """No other fields than the named ones, no types but their own, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


Name = Annotated[str, Field(max_length=200)]
StopMark = Annotated[str, Field(min_length=1, max_length=100)]
Nothing = Annotated[float, Field(ge=0, le=0)]


class Part(Strict):
    """A piece of a message. Only text: a picture's address would be fetched by the server."""

    type: Literal["text"]
    text: str


class Called(Strict):
    """The function that an assistant's message called; `arguments` is a JSON object as text."""

    name: Name
    arguments: str


class Call(Strict):
    """One call in an assistant's message."""

    id: Name | None = None
    type: Literal["function"] = "function"
    function: Called


class Message(Strict):
    """One message of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | Annotated[list[Part], Field(max_length=100)] | None = None
    tool_calls: Annotated[list[Call], Field(min_length=1, max_length=20)] | None = None
    tool_call_id: Name | None = None


class Described(Strict):
    """A function that the model may call, as its schema describes it."""

    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Strict):
    """One tool on offer."""

    type: Literal["function"]
    function: Described


class StreamOptions(Strict):
    """Taken without effect: the last piece of a stream always counts the tokens."""

    include_usage: bool | None = None


class Asked(Strict):
    """What both kinds of request may name. The last group is taken only with the value that changes nothing."""

    model: Name | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    # Below a hundredth, the logits divided by it are no numbers any more.
    temperature: Annotated[float, Field(ge=0.01, le=2)] | Nothing | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    stop: StopMark | Annotated[list[StopMark], Field(min_length=1, max_length=4)] | None = None
    stream: bool | None = None

    n: Annotated[int, Field(ge=1, le=1)] | None = None
    frequency_penalty: Nothing | None = None
    presence_penalty: Nothing | None = None
    stream_options: StreamOptions | None = None
    user: Name | None = None


class AskedChat(Asked):
    """A request for the next message."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=500)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    tools: Annotated[list[Tool], Field(min_length=1, max_length=64)] | None = None


class AskedText(Asked):
    """A request to continue a text."""

    prompt: Annotated[str, Field(min_length=1)]


KINDS: dict[str, type[Asked]] = {CHAT: AskedChat, TEXT: AskedText}
FORWARDED = {"messages", "prompt", "tools", "temperature", "top_p", "seed", "stop", "stream"}


def check(path: str, wanted: dict) -> Asked:
    """The fields of a request to `path`. Refused (422) with the name of the first field that is wrong."""
    kind = KINDS[path]
    for name in wanted:
        if name not in kind.model_fields:
            taken = ", ".join(kind.model_fields)
            raise Refused(422, f"The field {_short(name)} is not supported here. Supported are {taken}.")
    try:
        asked = kind.model_validate(wanted)
    except ValidationError as error:
        raise Refused(422, _sentence(error)) from None
    if isinstance(asked, AskedChat):
        _check_calls(asked.messages)
    return asked


def forwarded(asked: Asked) -> dict:
    """The request's fields for the model server, without its model and length, which the gate decides."""
    return asked.model_dump(include=FORWARDED, exclude_none=True)


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else name[:40] + "...")


def _sentence(error: ValidationError) -> str:
    """ "messages.0.role: Input should be 'system', 'user', 'assistant' or 'tool'." """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part)[:40] for part in first["loc"])
    return f"{place}: {first['msg']}."


def _check_calls(messages: list[Message]) -> None:
    """Each message says something, and what a call hands over is an object: the server would stumble over both."""
    for number, message in enumerate(messages):
        if message.content is None and message.tool_calls is None:
            raise Refused(422, f"messages.{number}: there is no content.")
        for call in message.tool_calls or []:
            try:
                parse(call.function.arguments.encode())
            except Refused:
                raise Refused(422, f"messages.{number}: the arguments of a call must be a JSON object.") from None
