"""More than one agent: a queue that prompts itself, planner and executor, teams, beliefs and intentions."""
