"""Agents that see: worlds, policies, how they learn and how they are judged."""
