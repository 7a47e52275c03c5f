# Rounding by second moments.
#
# No contraction to fused multiply-add anywhere: all targets must give the same bits.

target_sources(_native PRIVATE moment_rounding/bind.cpp moment_rounding/dispatch.cpp)
simd_targets(moment_rounding ${SIMD_SETS})
