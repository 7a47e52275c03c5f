"""The command line: one verb, one file; the only package that imports click."""
