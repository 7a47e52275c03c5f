"""Token ids only: sequences, caches, drafts and sampling."""
