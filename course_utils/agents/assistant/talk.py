"""The assistant as a text session in a notebook, for where no web page can be shown. It needs no Gradio."""

from typing import Any

from course_utils.agents.assistant.assistant import Assistant, Reply


class Talk:
    """A conversation that prints itself. A refund waits for `approve()` or `decline()`."""

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        print(assistant.log.notice)

    def say(self, words: str = "", sound: Any = None, picture: Any = None) -> Reply:
        """Send a message; prints the steps and the answer."""
        shown = [words, "(a sound)" if sound is not None else "", "(a picture)" if picture is not None else ""]
        print("you:", " ".join(part for part in shown if part))
        return self._print(self.assistant.ask(words, sound, picture))

    def approve(self) -> Reply:
        """Approve the refund that waits, as a person at the keyboard."""
        return self._print(self.assistant.decide(approved=True, by="keyboard"))

    def decline(self) -> Reply:
        """Decline the refund that waits."""
        return self._print(self.assistant.decide(approved=False, by="keyboard"))

    def _print(self, reply: Reply) -> Reply:
        for step in reply.steps:
            print(f"    {step['step']}: {step['what happened']}")
        print("assistant:", reply.text)
        return reply
