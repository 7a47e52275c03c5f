# Attention over a KV cache.

target_sources(_native PRIVATE attention/bind.cpp attention/dispatch.cpp attention/problem.cpp)
simd_targets(attention ${SIMD_SETS})
if("avx2" IN_LIST SIMD_SETS)
  simd_targets(attention avx512vnni)
  if(HAS_AVXVNNI OR MSVC)
    simd_targets(attention avxvnni)
  endif()
endif()
