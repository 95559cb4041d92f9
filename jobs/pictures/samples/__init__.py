"""Sample data that are drawn, the same for a seed."""
