# Products of quantized weights; other processors than x86 leave them to ggml.

include(CheckCXXCompilerFlag)

target_sources(_native PRIVATE matmul/bind.cpp matmul/dispatch.cpp)
if("avx2" IN_LIST SIMD_SETS)
  simd_targets(matmul avx512vnni avx2)
  if(NOT MSVC)
    check_cxx_compiler_flag(-mavxvnni HAS_AVXVNNI)
  endif()
  if(MSVC OR HAS_AVXVNNI)
    simd_targets(matmul avxvnni)
  else()
    target_compile_definitions(_native PRIVATE MATMUL_NO_AVXVNNI)
  endif()
endif()
