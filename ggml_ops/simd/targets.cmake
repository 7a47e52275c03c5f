# One source per instruction set, each with its compiler flags.

target_sources(_native PRIVATE simd/cpu.cpp)
find_package(Threads REQUIRED)
target_link_libraries(_native PRIVATE Threads::Threads)

string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
set(SIMD_SETS portable)
if(processor MATCHES "^(x86_64|amd64)$")
  target_compile_definitions(_native PRIVATE SIMD_X86)
  list(APPEND SIMD_SETS avx512 avx2)
elseif(processor MATCHES "^(aarch64|arm64)$")
  target_compile_definitions(_native PRIVATE SIMD_ARM64)
  list(APPEND SIMD_SETS neon)
endif()

if(MSVC)
  set(SIMD_COMMON "/fp:precise")
  set(SIMD_avx512 "/arch:AVX512")
  set(SIMD_avx512vnni "/arch:AVX512")
  set(SIMD_avx2 "/arch:AVX2")
  set(SIMD_avxvnni "/arch:AVX2")
else()
  # Fused multiply-adds are written as such in the source.
  set(SIMD_COMMON "-O3;-ffp-contract=off")
  set(SIMD_avx512 "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma;-mf16c")
  set(SIMD_avx512vnni "${SIMD_avx512};-mavx512vnni")
  set(SIMD_avx2 "-mavx2;-mf16c;-mfma")
  set(SIMD_avxvnni "${SIMD_avx2};-mavxvnni")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # False positives: GCC warns about the undefined vectors in its own AVX-512 header (GCC bug 105593).
    list(APPEND SIMD_COMMON "-Wno-uninitialized;-Wno-maybe-uninitialized")
  endif()
endif()

# Adds folder/target_SET.cpp for every instruction set named.
function(simd_targets folder)
  foreach(set IN LISTS ARGN)
    set(source ${folder}/target_${set}.cpp)
    target_sources(_native PRIVATE ${source})
    set_source_files_properties(${source} PROPERTIES COMPILE_OPTIONS "${SIMD_COMMON};${SIMD_${set}}")
  endforeach()
endfunction()
