"""Frameworks for agents and what became of them, each with the place where it was looked up (Unit 7.2).

Nothing here is measured: it is what the projects and the package index said on the day `CHECKED`.
"""

from dataclasses import dataclass

CHECKED = "28 November 2026"


@dataclass(frozen=True)
class Framework:
    """`idea` is what it brings, `state` what became of it, `source` where that was read."""

    name: str
    idea: str
    state: str
    source: str


FRAMEWORKS = [
    Framework(
        "LangGraph",
        "an agent as a graph: state, cycles, interrupts, checkpoints; LangChain's create_agent runs on it",
        "maintained; 1.2.24 released on 20 November 2026",
        "package index; used in section 6",
    ),
    Framework(
        "AutoGPT",
        "a loop of 2023 that set itself tasks",
        "that program (now 'Classic') is 'unsupported, and dependencies will not be updated'; the name goes on with a "
        "platform for building agents",
        "classic/README.md of Significant-Gravitas/AutoGPT",
    ),
    Framework(
        "BabyAGI",
        "March 2023: a queue of tasks that the model extends and puts in order",
        "archived in September 2024 (babyagi_archive); the repository now holds another experiment, 'not meant for "
        "production use'; 0.1.4 released in October 2024, nothing since",
        "README of yoheinakajima/babyagi; package index",
    ),
    Framework(
        "CrewAI",
        "a crew of agents with roles, and flows for a fixed order around them; independent of LangChain",
        "maintained; the manual covers 1.15, latest builds of October 2026",
        "docs.crewai.com; package index",
    ),
    Framework(
        "AutoGen (Microsoft)",
        "agents that converse in a group",
        "over: a successor named in October 2025, maintenance mode in April 2026, now archived, without security fixes "
        "(the day of archiving we could not verify); last release 0.7.5, September 2025",
        "README of microsoft/autogen, its pull requests 7067 and 7521; package index",
    ),
    Framework(
        "Microsoft Agent Framework",
        "the successor of AutoGen: agents and workflows",
        "maintained; 1.23 released in October 2026",
        "README of microsoft/autogen; package index",
    ),
    Framework(
        "AG2",
        "a fork of AutoGen 0.2 by authors of the first AutoGen",
        "maintained by volunteers; 1.2 released in October 2026, without ConversableAgent and GroupChat, which older "
        "tutorials use",
        "README and NOTICE of ag2ai/ag2; package index",
    ),
    Framework(
        "OpenAI Assistants API",
        "assistants, threads and runs kept by the provider",
        "switched off on 26 August 2026, a year after the notice; in its place: the Responses API and Conversations",
        "OpenAI's migration guide for assistants",
    ),
    Framework(
        "OpenAI Agents SDK",
        "loop, handoffs, guardrails, sessions, a human in the loop; for other providers' models, too",
        "maintained; 0.24 released in October 2026",
        "its page in the package index",
    ),
    Framework(
        "smolagents (Hugging Face)",
        "agents that write code where others write JSON",
        "1.26 released in May 2026, nothing later found. Its local interpreter is 'not a security sandbox': two CVEs "
        "of 2025 lead out of it",
        "pull requests 2039 and 2292, issue 2125 of huggingface/smolagents; package index",
    ),
]


def rows() -> list[dict]:
    """The frameworks as rows of a table."""
    rows = []
    for framework in FRAMEWORKS:
        row = {"project": framework.name, "what it brings": framework.idea}
        rows.append(row | {"state": framework.state, "read in": framework.source})
    return rows
