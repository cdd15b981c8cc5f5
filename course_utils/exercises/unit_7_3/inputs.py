"""Unit 7.3: functions that a student's function is called with. No answer stands here, so they may go where it runs."""

STEPS = {
    "": ["a", "b", "c"],
    "a": ["ab", "ac", "ad"],
    "b": ["ab", "bd"],
    "c": ["ca", "cb"],
    "ab": ["abc", "abd"],
    "bd": ["bda", "bdc"],
    "ca": ["cab"],
    "abc": ["abcd"],
    "bda": ["bdac"],
}
WORTH = {
    "": 0.0,
    "a": 0.75,
    "b": 0.5,
    "c": 0.25,
    "ab": 0.625,
    "ac": 0.5,
    "ad": 0.875,
    "bd": 0.625,
    "ca": 1.0,
    "cb": 0.125,
    "abc": 0.375,
    "abd": 0.75,
    "bda": 0.75,
    "bdc": 0.25,
    "cab": 1.0,
    "abcd": 1.0,
    "bdac": 0.125,
}


class Tree:
    """Thoughts: which can follow which, and how good each looks."""

    def __init__(self, steps: dict[str, list[str]], worth: dict[str, float]) -> None:
        self.steps, self.worth = steps, worth

    def propose(self, state: str) -> list[str]:
        """The states that can follow a state; none if it is complete."""
        return list(self.steps.get(state, []))

    def value(self, state: str) -> float:
        """How good a state looks."""
        return self.worth[state]


TREE = Tree(STEPS, WORTH)
