"""A cascade as text for people."""

from etcpipe.cascade.stages import Cascade, Rule
from etcpipe.outputs.table import Table


def describe(cascade: Cascade) -> list[str]:
    """Return a cascade's stages as a table, a line a stage."""
    table = Table([">packets", "model", ">temperature", "rule", ">deadline", ">batch", ">queue"])
    rows = [
        [
            str(stage.packets),
            stage.model,
            "model's" if stage.temperature is None else f"{stage.temperature:.3f}",
            _rule(stage.rule),
            f"{stage.deadline_ms:g} ms",
            str(stage.batch),
            str(stage.queue),
        ]
        for stage in cascade.stages
    ]
    return table.lines(rows)


def _rule(rule: Rule | None) -> str:
    if rule is None:
        return "answers all"
    if rule.kind == "target":
        return f"passes on {rule.share:.0%}, from {rule.probability:.3f}"
    if rule.kind == "per_class":
        low, high = min(rule.classes.values()), max(rule.classes.values())
        return f"sure from {low:.3f} to {high:.3f}, by class"
    return f"sure from {rule.probability:.3f}"
