"""Proposers by their short names."""

from __future__ import annotations

from collections.abc import Callable

from ovss.proposals.base import AllProposer, OracleProposer, Proposer
from ovss.proposals.matching import ContrastiveProposer, MatchProposer

CHOICES: dict[str, Callable[[], Proposer]] = {
    "all": AllProposer,
    "itc": ContrastiveProposer,
    "itm": MatchProposer,
    "oracle": OracleProposer,
}


def resolve(proposals: str | Proposer) -> Proposer:
    """A proposer from its short name, or itself.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(proposals, Proposer):
        return proposals
    if proposals not in CHOICES:
        raise ValueError(
            f"Expected `proposals` to be one of {list(CHOICES)} or a proposer, but got "
            f"{proposals!r}; those that need a path or a checkpoint are written out, such as "
            "{class_path: ovss.proposals.FileProposer, init_args: {path: answers.json}} (likewise "
            "ovss.proposals.ClipProposer and AskProposer)."
        )
    return CHOICES[proposals]()
