"""Images and videos: fetch, decode, resize, encode."""
