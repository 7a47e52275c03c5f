"""What is wrong with an installation or its machine, and what mends it; installing the engine that fits."""
