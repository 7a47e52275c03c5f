# Matmul of floating-point weights.

target_sources(_native PRIVATE float_matmul/bind.cpp float_matmul/dispatch.cpp)
simd_targets(float_matmul ${SIMD_SETS})
if("avx512" IN_LIST SIMD_SETS)
  if(NOT MSVC)
    check_cxx_compiler_flag(-mavx512bf16 HAS_AVX512BF16)
  endif()
  if(MSVC OR HAS_AVX512BF16)
    simd_targets(float_matmul avx512bf16)
  else()
    target_compile_definitions(kernels PUBLIC FLOAT_MATMUL_NO_AVX512BF16)
  endif()
endif()
