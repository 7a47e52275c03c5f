# One source per instruction set, each with its compiler flags.
#
# They are objects of their own, which do not see Python: compiled with a cache, they serve wheels for several versions.

add_library(kernels OBJECT)
set_target_properties(kernels PROPERTIES CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON)
target_sources(_native PRIVATE simd/cpu.cpp)
find_package(Threads REQUIRED)
target_link_libraries(_native PRIVATE kernels Threads::Threads)

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
set(SIMD_SETS portable)
if(processor MATCHES "^(x86_64|amd64)$")
  target_compile_definitions(kernels PUBLIC SIMD_X86)
  list(APPEND SIMD_SETS avx512 avx2)
elseif(processor MATCHES "^(aarch64|arm64)$")
  target_compile_definitions(kernels PUBLIC SIMD_ARM64)
  list(APPEND SIMD_SETS neon)
endif()

if(MSVC)
  set(SIMD_COMMON "/fp:precise")
  set(SIMD_avx512 "/arch:AVX512")
  set(SIMD_avx512vnni "/arch:AVX512")
  set(SIMD_avx512bf16 "/arch:AVX512")
  set(SIMD_avx512vbmi "/arch:AVX512")
  set(SIMD_avx2 "/arch:AVX2")
  set(SIMD_avxvnni "/arch:AVX2")
else()
  # Fused multiply-adds are written as such in the source.
  set(SIMD_COMMON "-O3;-ffp-contract=off")
  set(SIMD_avx512 "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma;-mf16c")
  set(SIMD_avx512vnni "${SIMD_avx512};-mavx512vnni")
  set(SIMD_avx512bf16 "${SIMD_avx512};-mavx512bf16")
  set(SIMD_avx512vbmi "${SIMD_avx512vnni};-mavx512vbmi;-mgfni")
  set(SIMD_avx2 "-mavx2;-mf16c;-mfma")
  set(SIMD_avxvnni "${SIMD_avx2};-mavxvnni")
  set(SIMD_neondot "-march=armv8.2-a+dotprod")
  set(SIMD_i8mm "${SIMD_neondot}+i8mm")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False positives: GCC warns about the undefined vectors in its own AVX-512 header (GCC bug 105593).
    list(APPEND SIMD_COMMON "-Wno-uninitialized;-Wno-maybe-uninitialized")
  endif()
endif()

# Adds folder/target_SET.cpp for every instruction set named.
function(simd_targets folder)
  foreach(set IN LISTS ARGN)
    set(source ${folder}/target_${set}.cpp)
    target_sources(kernels PRIVATE ${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${SIMD_COMMON};${SIMD_${set}}")
  endforeach()
endfunction()
