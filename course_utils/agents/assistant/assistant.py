"""The assistant itself: one message in, one reply out, each step written down. It knows no front end."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from course_utils.agents import react, toolboxes
from course_utils.agents.assistant import safety
from course_utils.agents.assistant.log import Log
from course_utils.agents.assistant.memory import Memory
from course_utils.agents.assistant.policies import Policies
from course_utils.agents.assistant.refunds import OwnOrders, Proposal, RefundError, Refunds
from course_utils.agents.assistant.understanding import Request, understand
from course_utils.prisma.tools import Toolbox

if TYPE_CHECKING:
    import sqlite3

    from course_utils.models.roles import Chat

CAPABLE = (
    "I can look up your orders, prices and stock, quote the shop's policies, and prepare a refund. "
    "Name an order by its four digits or a toy by size, colour and shape."
)


@dataclass
class Reply:
    """What the customer gets: the words, the steps that led to them, and a refund that waits for a person, if any."""

    text: str = ""
    steps: list[dict] = field(default_factory=list)
    proposal: Proposal | None = None
    heard: str = ""

    def step(self, name: str, what: str) -> None:
        """Write a step down."""
        self.steps.append({"step": name, "what happened": what})


class Assistant:
    """The assistant of one customer. `hear` turns a sound into words, `see` a picture into a product's name ("": none).

    Both come from outside, as this unit knows nothing of sounds and pictures; without them it says that it can't.
    """

    def __init__(
        self,
        chat: "Chat",
        database: "sqlite3.Connection",
        policies: Policies,
        customer: str,
        log: Log,
        hear: Callable[[Any], str] | None = None,
        see: Callable[[Any], str] | None = None,
    ) -> None:
        self.chat, self.policies, self.customer, self.log = chat, policies, customer, log
        self.hear, self.see = hear, see
        self.memory, self.refunds = Memory(database, customer), Refunds(database)
        own = OwnOrders(Toolbox(database), customer)
        self.toolbox = toolboxes.Guarded(own)
        self.waiting: Proposal | None = None

    def ask(self, words: str = "", sound: Any = None, picture: Any = None) -> Reply:
        """Answer a message: words, a sound, a picture, or several of them. Nothing is paid here."""
        began, reply = time.perf_counter(), Reply()
        self._withdraw(reply)
        if sound is not None:
            words = self._listen(sound, reply)
        verdict = safety.incoming(words)
        if verdict.refused:
            self._refuse(verdict, reply)
            return reply
        if verdict.hidden:
            reply.step("filter, in", f"blacked out: {', '.join(verdict.hidden)}")
        if picture is not None:
            self._look(picture, reply)
        request = understand(verdict.text, self.memory.focus)
        reply.step("understood", f"{request.kind} {request.about}".strip())
        self._answer(request, reply)
        self._check(reply)
        self.memory.look_at(request)
        if verdict.text:
            self.memory.keep(verdict.text)
        spent = round(1000 * (time.perf_counter() - began))
        self.log.note("reply", kind=request.kind, milliseconds=spent, words=verdict.text, reply=reply.text)
        return reply

    def decide(self, approved: bool, by: str) -> Reply:
        """Carry out a person's decision about the refund that waits. Only a front end's button calls this."""
        reply, proposal = Reply(), self.waiting
        if proposal is None:
            reply.text = "Nothing waits for a decision."
            return reply
        self.waiting, done = None, True
        try:
            reply.text = self.refunds.pay(proposal, by) if approved else self.refunds.decline(proposal)
        except RefundError as error:
            reply.text, done = str(error), False
        decision = "approved" if approved else "declined"
        reply.step("a person", decision)
        self.log.note("decision", ok=done, decision=decision, order=proposal.order, euros=proposal.euros, by=by)
        return reply

    def _withdraw(self, reply: Reply) -> None:
        """Who goes on talking does not approve: a refund that still waits is dropped."""
        if self.waiting:
            self.refunds.decline(self.waiting)
            self.log.note("decision", decision="withdrawn")
            reply.step("a person", "went on without a decision: the refund is withdrawn")
            self.waiting = None

    def _listen(self, sound: Any, reply: Reply) -> str:
        if self.hear is None:
            reply.step("heard", "nothing: no speech model was given")
            return ""
        reply.heard = self.hear(sound)
        reply.step("heard", reply.heard or "nothing")
        self.log.note("heard", ok=bool(reply.heard), words=reply.heard)
        return reply.heard

    def _look(self, picture: Any, reply: Reply) -> None:
        product = self.see(picture) if self.see else ""
        reply.step("saw", product or "no toy of this shop")
        self.log.note("saw", ok=bool(product), product=product)
        if product:
            self.memory.show(product)

    def _refuse(self, verdict: safety.Verdict, reply: Reply) -> None:
        """A refused message is not kept, not understood, and not shown to the model."""
        reply.step("filter, in", f"refused: {verdict.refused}")
        reply.text = f"I can't take this message: it holds {verdict.refused}. Say in plain words what you need."
        self.log.note("filter in", refused=verdict.refused)

    def _answer(self, request: Request, reply: Reply) -> None:
        """Let the part that is responsible answer; each writes into the reply."""
        ways = {
            "memory": self._recall,
            "policy": self._quote,
            "order": self._look_up,
            "product": self._look_up,
            "refund": self._prepare,
        }
        way = ways.get(request.kind)
        if way:
            way(request, reply)
        else:
            reply.text = CAPABLE

    def _recall(self, request: Request, reply: Reply) -> None:
        reply.text = self.memory.recall()
        reply.step("memory", "read what you asked before")

    def _quote(self, request: Request, reply: Reply) -> None:
        passage = self.policies.search(request.about)
        reply.step("retrieval", f"section {passage.title}" if passage else "no section fits")
        reply.text = passage.cited if passage else f"I find nothing about that in the shop's policies. {CAPABLE}"

    def _look_up(self, request: Request, reply: Reply) -> None:
        reply.text = self._work(request, reply) or "I find nothing about that. Is the number right?"

    def _prepare(self, request: Request, reply: Reply) -> None:
        """Work the amount out, hold it against the books, and leave the decision to a person."""
        amount = self._work(request, reply)
        try:
            self.waiting = self.refunds.propose(request.about, self.customer, amount)
        except RefundError as error:
            reply.text = str(error)
            return
        reply.proposal = self.waiting
        reply.text = f"Refund {amount} for order {request.about} ({self.waiting.record})? A person has to approve it."
        reply.step("approval", "waits for a person")

    def _work(self, request: Request, reply: Reply) -> str:
        """Let prisma-lm find the answer with its tools; "" if a tool found nothing or it did not end."""
        trace = react.run_react(self.chat, self.toolbox, request.question)
        reply.step("asked prisma-lm", request.question)
        outcomes: dict[tuple[str, str], bool] = {}  # of each call the latest: one that failed may be repeated
        for step in trace.steps:
            fine = not step.observation.startswith("error")
            outcomes[step.tool, step.argument] = fine
            reply.step("tool", f"{step.tool}[{step.argument}] → {step.observation}")
            self.log.note("tool", tool=step.tool, ok=fine, argument=step.argument, result=step.observation)
        if trace.stopped != "answered" or not all(outcomes.values()):
            self.log.note("model", ok=False, stopped=trace.stopped)
            return ""
        return trace.answer

    def _check(self, reply: Reply) -> None:
        """The filter at the way out."""
        verdict = safety.outgoing(reply.text, self.customer)
        if verdict.refused:
            reply.step("filter, out", f"withheld: {verdict.refused}")
            self.log.note("filter out", refused=verdict.refused)
            verdict = safety.Verdict("I may not say that.")
        reply.text = verdict.text
