"""Class proposals: which of the classes to look for in a photo."""

from ovss.proposals.base import AllProposer, OracleProposer, Proposal, Proposer, resolve

__all__ = ["AllProposer", "OracleProposer", "Proposal", "Proposer", "resolve"]
