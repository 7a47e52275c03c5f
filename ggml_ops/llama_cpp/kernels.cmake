# Adds the kernels of ggml_ops and their glue to a CPU backend of ggml. The patched ggml/src/ggml-cpu/CMakeLists.txt
# includes this; the paths are relative to ggml/src.

include(CheckCXXCompilerFlag)

# folder/target_SET.cpp for every instruction set named, each with its own flags, whatever the backend is built for: the
# target is chosen at run time.
function(ggml_ops_add_targets cpu_name folder)
    if (MSVC)
        set(FLAGS_avx512     "/arch:AVX512")
        set(FLAGS_avx512vnni "/arch:AVX512")
        set(FLAGS_avx512bf16 "/arch:AVX512")
        set(FLAGS_avx512vbmi "/arch:AVX512")
        set(FLAGS_avx2       "/arch:AVX2")
        set(FLAGS_avxvnni    "/arch:AVX2")
    else()
        set(FLAGS_avx512     "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mfma;-mf16c")
        set(FLAGS_avx512vnni "${FLAGS_avx512};-mavx512vnni")
        set(FLAGS_avx512bf16 "${FLAGS_avx512};-mavx512bf16")
        set(FLAGS_avx512vbmi "${FLAGS_avx512vnni};-mavx512vbmi;-mgfni")
        set(FLAGS_avx2       "-mavx2;-mf16c;-mfma;-mno-avx512f")
        set(FLAGS_avxvnni    "${FLAGS_avx2};-mavxvnni")
        set(FLAGS_neondot    "-march=armv8.2-a+dotprod")
        set(FLAGS_i8mm       "-march=armv8.2-a+dotprod+i8mm")
        set(FLAGS_ALL        "-ffp-contract=off;-Wno-uninitialized;-Wno-maybe-uninitialized;-Wno-missing-declarations")
    endif()
    foreach(SET_NAME IN LISTS ARGN)
        set(SOURCE ggml_ops/${folder}/target_${SET_NAME}.cpp)
        target_sources(${cpu_name} PRIVATE ${SOURCE})
        set_source_files_properties(${SOURCE} PROPERTIES COMPILE_OPTIONS "${FLAGS_ALL};${FLAGS_${SET_NAME}}")
    endforeach()
endfunction()

# Definitions that both the kernels and the glue need.
function(ggml_ops_define target)
    if (GGML_SYSTEM_ARCH STREQUAL "x86")
        target_compile_definitions(${target} PRIVATE SIMD_X86)
        check_cxx_compiler_flag(-mavx512bf16 GGML_COMPILER_HAS_AVX512BF16)
        if (NOT GGML_COMPILER_HAS_AVX512BF16 AND NOT MSVC)
            target_compile_definitions(${target} PRIVATE FLOAT_MATMUL_NO_AVX512BF16)
        endif()
        check_cxx_compiler_flag(-mavxvnni GGML_COMPILER_HAS_AVXVNNI)
        if (NOT GGML_COMPILER_HAS_AVXVNNI AND NOT MSVC)
            target_compile_definitions(${target} PRIVATE SIMD_NO_AVXVNNI)
        endif()
    elseif (GGML_SYSTEM_ARCH STREQUAL "ARM")
        target_compile_definitions(${target} PRIVATE SIMD_ARM64)
    endif()
endfunction()

# The kernels, which do not depend on ggml.
function(ggml_ops_add_pure_kernels target)
    target_sources(${target} PRIVATE
        ggml_ops/simd/cpu.cpp
        ggml_ops/simd/spin_wait.cpp
        ggml_ops/attention/dispatch.cpp
        ggml_ops/attention/problem.cpp
        ggml_ops/delta_net/dispatch.cpp
        ggml_ops/quantized_matmul/dispatch.cpp
        ggml_ops/float_matmul/dispatch.cpp
        )
    ggml_ops_define(${target})
    ggml_ops_add_targets(${target} attention portable)
    ggml_ops_add_targets(${target} delta_net portable)
    ggml_ops_add_targets(${target} float_matmul portable)
    if (GGML_SYSTEM_ARCH STREQUAL "x86")
        ggml_ops_add_targets(${target} attention avx512vnni avx512 avx2)
        ggml_ops_add_targets(${target} delta_net avx512 avx2)
        ggml_ops_add_targets(${target} float_matmul avx512 avx2)
        if (GGML_COMPILER_HAS_AVX512BF16 OR MSVC)
            ggml_ops_add_targets(${target} float_matmul avx512bf16)
        endif()
        ggml_ops_add_targets(${target} quantized_matmul avx512vbmi avx512vnni avx2)
        if (GGML_COMPILER_HAS_AVXVNNI OR MSVC)
            ggml_ops_add_targets(${target} attention avxvnni)
            ggml_ops_add_targets(${target} quantized_matmul avxvnni)
        endif()
    elseif (GGML_SYSTEM_ARCH STREQUAL "ARM")
        ggml_ops_add_targets(${target} attention neon)
        ggml_ops_add_targets(${target} delta_net neon)
        ggml_ops_add_targets(${target} float_matmul neon)
        ggml_ops_add_targets(${target} quantized_matmul i8mm neondot)
    endif()
endfunction()

# Called for each CPU backend. Where there is one for each kind of processor (GGML_CPU_ALL_VARIANTS), they share the
# kernels, which choose their own instruction set, in a library that is compiled once.
function(ggml_ops_add_kernels cpu_name)
    target_sources(${cpu_name} PRIVATE
        ggml_ops/llama_cpp/ggml_attention.cpp
        ggml_ops/llama_cpp/ggml_delta_net.cpp
        ggml_ops/llama_cpp/ggml_block_mul_mat.cpp
        ggml_ops/llama_cpp/ggml_float_mul_mat.cpp
        ggml_ops/llama_cpp/ggml_wait.cpp
        ggml_ops/llama_cpp/matmul_epilogue.cpp
        )
    if (NOT GGML_CPU_ALL_VARIANTS)
        ggml_ops_add_pure_kernels(${cpu_name})
        return()
    endif()
    ggml_ops_define(${cpu_name})
    if (NOT TARGET ggml-ops)
        if (WIN32)
            add_library(ggml-ops STATIC)  # a DLL would need a list of its functions
        else()
            add_library(ggml-ops SHARED)
        endif()
        target_compile_features(ggml-ops PRIVATE cxx_std_17)
        target_include_directories(ggml-ops PRIVATE . ../include)
        set_target_properties(ggml-ops PROPERTIES POSITION_INDEPENDENT_CODE ON)
        ggml_ops_add_pure_kernels(ggml-ops)
    endif()
    target_link_libraries(${cpu_name} PRIVATE ggml-ops)
endfunction()
