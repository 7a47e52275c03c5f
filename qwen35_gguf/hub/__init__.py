"""The Hugging Face Hub: what a repository has, headers by range requests, downloads, and what is in the cache."""
