# The block quantizers.
#
# No contraction to fused multiply-add anywhere: the results must equal those of ggml's scalar code, bit for bit.

target_sources(_native PRIVATE kquants/bind.cpp kquants/dispatch.cpp)
simd_targets(kquants ${SIMD_SETS})
