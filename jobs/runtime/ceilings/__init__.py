"""How fast each stage of a bulk job can be by itself here, and what follows for the whole."""
