"""The only place that calls llama.cpp."""
