"""Token ids only: sequences, caches of states, drafts and sampling."""
