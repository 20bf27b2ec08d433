"""What the rules of a diagnosis read, and what they find."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """A failure mode that a run shows. All fields are text without a full stop.

    mode: its name. symptom: how the source text describes it, shortened. figure: the figure that
    triggered the rule, and its limit. cause: what is likely wrong. fix: what helps."""

    mode: str
    symptom: str
    figure: str
    cause: str
    fix: str


@dataclass(frozen=True)
class Run:
    """What the rules read.

    figures: those of the moment that is diagnosed. track: those of each checkpoint up to then.
    settings: those of the fine-tuning and of its data. data: the census of its data (data.json).
    stage: its name. logged: {figure of the objective: its mean over the last steps in the log}.
    reached: the highest learning rate of its steps; None if it is unknown. run, file: the run's
    folder and a file of its data, for commands to type."""

    figures: dict
    track: list[dict]
    settings: dict
    data: dict
    stage: str = "sft"
    logged: dict = field(default_factory=dict)
    reached: float | None = None
    run: Path = Path("RUN")
    file: Path = Path("FILE")

    def get(self, name: str, default=None):
        """A figure; the default if it is missing or was not measured."""
        value = self.figures.get(name)
        return default if value is None else value

    def flag(self, name: str) -> str:
        """How to set "steps", "lr" or another setting of this stage on the command line."""
        if self.stage == "sft" and name in ("steps", "lr"):
            return {"steps": "--sft-steps", "lr": "--lr"}[name]
        return f"--set {self.stage}.{name}=..."

    @property
    def unit(self) -> str:
        """What a step of this stage is called."""
        return "iteration" if self.figures.get("ppo") else "step"

    @property
    def rate(self) -> str:
        """The learning rate, in words if it is unknown or was never reached."""
        if "lr" not in self.settings:
            return "as it is now"
        asked = self.settings["lr"]
        if self.reached is None or self.reached > 0.99 * asked:
            return f"{asked:g}"
        return f"{asked:g} was asked for, but no {self.unit} had more than {self.reached:.3g}"

    @property
    def epochs(self) -> float:
        """The largest number of epochs of any part of the data; 0 if it is unknown."""
        return max(self.data.get("epochs", {}).values(), default=0.0)
