"""What may be done with published weights, as far as their licence's name tells."""

import re

UNKNOWN = "unknown"
TORCHVISION = "BSD-3-Clause (code); ImageNet terms (training data)"
SWAG = "CC-BY-NC-4.0"
"""torchvision's SWAG weights: its metadata links to the licence instead of naming it"""
NON_COMMERCIAL = re.compile(
    r"(?<![a-z])nc(?![a-z])|non-?\s?commercial"
    r"|(?:research|academic)(?: (?:use|purposes?))?[ -]only|apple-amlr|seer-license",
    re.I,
)
"""apple-amlr and seer-license say so in their text, not in their name"""


def refuse_non_commercial(licence: str, name: str, *, accept_licence: bool) -> None:
    """Raise ValueError for a licence that rules out commercial use, unless it was accepted."""
    if NON_COMMERCIAL.search(licence) and not accept_licence:
        raise ValueError(
            f"{name}: its licence is {licence}, for non-commercial use; "
            "if that is your use, say so with --accept-licence"
        )


def inherited(asked: str, start: str) -> str:
    """Licence of weights that were learnt from others: what is asked for, or, unknown, theirs.

    A licence that rules out commercial use stays named whatever is asked for: the next who loads
    the result is asked as the first one was.
    """
    if asked in (UNKNOWN, start):
        return start
    if NON_COMMERCIAL.search(start) and start not in asked:
        return f"{asked}; began with weights of {start}"
    return asked
