# Matmul of quantized weights, on x86 only; other processors use ggml's.

include(CheckCXXCompilerFlag)

target_sources(_native PRIVATE quantized_matmul/bind.cpp quantized_matmul/dispatch.cpp)
if("avx2" IN_LIST SIMD_SETS)
  simd_targets(quantized_matmul avx512vbmi avx512vnni avx2)
  if(NOT MSVC)
    check_cxx_compiler_flag(-mavxvnni HAS_AVXVNNI)
  endif()
  if(MSVC OR HAS_AVXVNNI)
    simd_targets(quantized_matmul avxvnni)
  else()
    target_compile_definitions(_native PRIVATE SIMD_NO_AVXVNNI)
  endif()
endif()
