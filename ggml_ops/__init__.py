"""Native kernels, C++17, bound with nanobind."""
