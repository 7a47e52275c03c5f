"""What somebody sees who has not typed enough yet: `qwen35` alone, `qwen35 run` without a file, the Tab key."""
