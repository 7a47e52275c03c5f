"""How commands and options are called: as they are typed, as they were before, and in other programs."""
