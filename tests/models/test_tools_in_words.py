"""A model whose chat template knows no tools is told of them in words; one whose template does is left alone."""

import json

import pytest
import tiny

from course_utils.agents import function_calls
from course_utils.models import bundled, roles, tools_in_words
from course_utils.prisma import lm, tools

QUESTION = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is order 4821?"}]
CALL = {"type": "function", "function": {"name": "orders", "arguments": {"number": 4821}}}
CALLED = [
    *QUESTION,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "order 4821: shipped"},
]


@pytest.fixture(scope="module")
def chat():
    """A tokenizer with SmolLM2's form of chat template: roles and contents, nothing else."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer.from_str(json.dumps(tiny.byte_tokenizer()))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    tokenizer.chat_template = tiny.PLAIN_TEMPLATE
    return roles.Chat(None, tokenizer, "plain", "small")


def test_a_plain_template_says_every_tool_and_the_form_of_a_call(chat):
    prompt = chat.prompt(QUESTION, tools.schemas())
    assert prompt.startswith("<|im_start|>system\nBe brief.\n\n# Tools") and prompt.count("<|im_start|>system") == 1
    for schema in tools.schemas():
        assert json.dumps(schema) in prompt
    assert '{"name": <function-name>, "arguments": <args-json-object>}' in prompt
    assert prompt.endswith("<|im_start|>user\nWhere is order 4821?<|im_end|>\n<|im_start|>assistant\n")


def test_a_plain_template_says_what_was_called_and_what_came_back(chat):
    prompt = chat.prompt(CALLED, tools.schemas())
    said, came = prompt.split("<|im_start|>")[-3:-1]
    assert said.startswith("assistant\n") and came.startswith("user\n<tool_response>\norder 4821: shipped\n")
    assert function_calls.parse_call(said) == ("orders", {"number": 4821})


def test_without_a_system_message_there_is_one_for_the_tools(chat):
    messages = tools_in_words.told(QUESTION[1:], tools.schemas())
    assert [message["role"] for message in messages] == ["system", "user"] and len(QUESTION) == 2


def test_without_tools_nothing_is_added(chat):
    assert "Tools" not in chat.prompt(QUESTION) and chat.prompt(QUESTION, []) == chat.prompt(QUESTION)


def test_a_template_that_knows_tools_is_left_alone():
    """prisma-lm was trained on its own template's words: not one may change."""
    _, tokenizer = lm.load(bundled.folder("prisma-lm"))
    prisma = roles.Chat(None, tokenizer, "prisma-lm", "bundled")
    given = {"tools": tools.schemas(), "tokenize": False, "add_generation_prompt": True}
    assert prisma.prompt(CALLED, tools.schemas()) == tokenizer.apply_chat_template(CALLED, **given)
    assert "<tool_response>" not in prisma.prompt(CALLED, tools.schemas())
