"""A line of progress every few seconds, readable on a terminal and in a log file alike."""

import time

SECONDS_BETWEEN_LINES = 15.0


class Progress:
    """Count steps and print running means of what each step reports."""

    def __init__(self, title: str, steps: int) -> None:
        self.title, self.steps, self.done = title, steps, 0
        self.started = self.last_line = time.monotonic()
        self.means: dict[str, float] = {}

    def step(self, **values: float) -> None:
        """Count one step; print if it is time, and always at the end."""
        self.done += 1
        for name, value in values.items():
            self.means[name] = 0.95 * self.means.get(name, value) + 0.05 * value
        now = time.monotonic()
        if self.done == self.steps or now - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = now
            figures = "  ".join(f"{name} {value:.4f}" for name, value in self.means.items())
            seconds = now - self.started
            print(
                f"{self.title}: {self.done}/{self.steps}  {figures}  "
                f"{seconds:.0f} s, about {seconds / self.done * (self.steps - self.done):.0f} left",
                flush=True,
            )
