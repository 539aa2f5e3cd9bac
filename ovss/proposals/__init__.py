"""Class proposals: which of the classes to look for in a photo."""

from ovss.proposals.ask import AskProposer
from ovss.proposals.base import AllProposer, OracleProposer, Proposal, Proposer
from ovss.proposals.cache import CachedProposer
from ovss.proposals.choices import resolve
from ovss.proposals.clip import ClipProposer
from ovss.proposals.file import FileProposer
from ovss.proposals.matching import ContrastiveProposer, MatchProposer

__all__ = [
    "AllProposer",
    "AskProposer",
    "CachedProposer",
    "ClipProposer",
    "ContrastiveProposer",
    "FileProposer",
    "MatchProposer",
    "OracleProposer",
    "Proposal",
    "Proposer",
    "resolve",
]
