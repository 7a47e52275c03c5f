# The gated delta rule and its convolution.

target_sources(_native PRIVATE delta_net/bind.cpp delta_net/dispatch.cpp)
simd_targets(delta_net ${SIMD_SETS})
