# The block quantizers: one source per target, each compiled for its instruction set.
#
# No contraction to fused multiply-add anywhere: the results have to be those of ggml's scalar code, to the bit.

find_package(Threads REQUIRED)
target_sources(_native PRIVATE kquants/bind.cpp kquants/dispatch.cpp kquants/target_portable.cpp)
target_link_libraries(_native PRIVATE Threads::Threads)

set(KQUANTS_TARGETS kquants/target_portable.cpp)
string(TOLOWER "${CMAKE_SYSTEM_PROCESSOR}" processor)
if(processor MATCHES "^(x86_64|amd64)$")
  set(KQUANTS_CPU KQUANTS_X86)
  list(APPEND KQUANTS_TARGETS kquants/target_avx512.cpp kquants/target_avx2.cpp)
  if(MSVC)
    set_source_files_properties(kquants/target_avx512.cpp PROPERTIES COMPILE_OPTIONS "/arch:AVX512")
    set_source_files_properties(kquants/target_avx2.cpp PROPERTIES COMPILE_OPTIONS "/arch:AVX2")
  else()
    set_source_files_properties(kquants/target_avx512.cpp PROPERTIES COMPILE_OPTIONS
      "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl")
    set_source_files_properties(kquants/target_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mf16c")
  endif()
elseif(processor MATCHES "^(aarch64|arm64)$")
  set(KQUANTS_CPU KQUANTS_ARM64)
  list(APPEND KQUANTS_TARGETS kquants/target_neon.cpp)
endif()

target_sources(_native PRIVATE ${KQUANTS_TARGETS})
target_compile_definitions(_native PRIVATE ${KQUANTS_CPU})
if(MSVC)
  set(exact "/fp:precise")
else()
  set(exact "-O3;-ffp-contract=off")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    # GCC takes the undefined vectors inside its own AVX-512 header for ours (its bug 105593).
    list(APPEND exact "-Wno-uninitialized;-Wno-maybe-uninitialized")
  endif()
endif()
set_property(SOURCE ${KQUANTS_TARGETS} APPEND PROPERTY COMPILE_OPTIONS ${exact})
