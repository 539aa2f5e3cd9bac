"""What tells runs apart, in few words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_SHOWN = 4
_OF_WEIGHTS = ("built_from", "weights")
"""Hashes, which tell runs apart that call their models alike."""


def told_apart(
    methods: Sequence[str], models: Sequence[str], settings: Sequence[Mapping[str, str]]
) -> list[dict[str, str]]:
    """For each run those of its settings that not all runs of its method have.

    Methods have settings of their own, which are not held against each other. Of a part that is of
    another kind the kind alone is named.

    Args:
        methods: of each run.
        models: likewise; they are no difference of settings.
        settings: likewise, by dotted name.

    Example:
        >>> own = [{"layer": "1", "crf.kind": "a"}, {"layer": "2", "crf.kind": "a"}]
        >>> told_apart(["pnp", "pnp"], ["blip", "blip"], own)
        [{'layer': '1'}, {'layer': '2'}]
    """
    runs = list(zip(methods, models, settings, strict=True))
    found = []
    for method, model, own in runs:
        peers = [(their_model, other) for name, their_model, other in runs if name == method]
        differing = {
            name: value
            for name, value in own.items()
            if value != model
            and any(
                other.get(name) != value
                for their_model, other in peers
                if their_model == model or name.rpartition(".")[2] not in _OF_WEIGHTS
            )
        }
        kinds = {name for name in differing if name.endswith(".kind")}
        found.append(
            {
                name: value
                for name, value in differing.items()
                if name in kinds or not any(name.startswith(kind[:-4]) for kind in kinds)
            }
        )
    return found


def in_short(settings: Mapping[str, str]) -> str:
    """The first of them in a line.

    Example:
        >>> in_short({"layer": "1", "labeller.refine.kind": "crf"})
        'layer 1, labeller.refine crf'
    """
    named = [f"{name.removesuffix('.kind')} {value}" for name, value in settings.items()]
    rest = len(named) - _SHOWN
    return ", ".join(named[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
