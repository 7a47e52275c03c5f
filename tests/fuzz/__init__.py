"""Fuzzing: every parser of the project, fed with damaged inputs; see docs/reliability.md."""
