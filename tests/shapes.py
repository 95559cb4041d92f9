"""How shapes and types of tensor code are checked while tests run."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""beartype for which an int is a float, as it is for type checkers"""
