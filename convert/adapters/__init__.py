"""PEFT adapters: merged into a checkpoint while it is converted, or converted to a GGUF LoRA of their own.

Every name and shape comes from the tensor map, and so does what happens to the rows and columns of the factors.
"""
