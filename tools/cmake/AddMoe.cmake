# The functions that every CMakeLists.txt of the project is made of.

# With ccache, where there is one, told that a precompiled header and a time stamp are no news, and to ask the compiler
# what a file includes: its own preprocessor run would read again all that is precompiled.
find_program(MOE_CCACHE ccache NO_CMAKE_FIND_ROOT_PATH)
if(MOE_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER env CCACHE_DEPEND=1
    CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${MOE_CCACHE})
endif()

find_package(Threads REQUIRED)
if(MOE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()

add_library(MoeFlags INTERFACE)
target_include_directories(MoeFlags INTERFACE ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR})
target_compile_options(MoeFlags INTERFACE -Wall -Wextra -Wno-unused-parameter)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  target_compile_options(MoeFlags INTERFACE -Wno-restrict) # sees overlaps in std::string that are none
endif()
if(MOE_SANITIZE)
  target_compile_options(MoeFlags INTERFACE -fsanitize=${MOE_SANITIZE} -fno-omit-frame-pointer)
  target_link_options(MoeFlags INTERFACE -fsanitize=${MOE_SANITIZE})
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang" AND NOT CMAKE_CROSSCOMPILING)
  target_link_options(MoeFlags INTERFACE -fuse-ld=lld)
endif()
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  # ccache can reuse a precompiled header only when it holds no time stamp.
  target_compile_options(MoeFlags INTERFACE "SHELL:-Xclang -fno-pch-timestamp")
endif()

# moe_precompiled_header(NAME DEPS lib... HEADERS <a.h>...): headers compiled once, with the flags of the libraries.
function(moe_precompiled_header name)
  cmake_parse_arguments(A "" "" "DEPS;HEADERS" ${ARGN})
  file(WRITE ${PROJECT_BINARY_DIR}/${name}.cpp "")
  add_library(${name} STATIC ${PROJECT_BINARY_DIR}/${name}.cpp)
  target_link_libraries(${name} PRIVATE ${A_DEPS})
  target_precompile_headers(${name} PRIVATE ${A_HEADERS})
endfunction()

# moe_reuse_header(TARGET NAME): TARGET begins with what moe_precompiled_header(NAME) compiled.
function(moe_reuse_header target name)
  target_compile_options(${target} PRIVATE -fPIC) # as it was made
  target_precompile_headers(${target} REUSE_FROM ${name})
endfunction()

# What most files of the runtime include, and most tests beside what they test. Clang alone gains much, and g++, which
# compiles without, shows where an #include is missing.
set(std_headers <algorithm> <cstring> <functional> <map> <memory> <optional> <span> <string> <variant> <vector>)
set(test_headers ${std_headers} <gtest/gtest.h> <random>)
if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
  moe_precompiled_header(MoeStdPch DEPS MoeFlags HEADERS ${std_headers})
  if(MOE_BUILD_TESTS)
    moe_precompiled_header(MoeTestPch DEPS MoeFlags GTest::gtest HEADERS ${test_headers})
  endif()
endif()

# moe_library(NAME SRCS a.cpp... [DEPS lib...] [TESTS aTest.cpp...])
# A library without MLIR, and one gtest program NAMETest when there are TESTS.
function(moe_library name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS;TESTS" ${ARGN})
  add_library(${name} STATIC ${A_SRCS})
  target_link_libraries(${name} PUBLIC $<BUILD_INTERFACE:MoeFlags> ${A_DEPS})
  if(TARGET MoeStdPch)
    moe_reuse_header(${name} MoeStdPch)
  endif()
  if(A_TESTS AND MOE_BUILD_TESTS)
    moe_test(${name}Test SRCS ${A_TESTS} DEPS ${name})
  endif()
endfunction()

# moe_test(NAME SRCS a.cpp... [DEPS lib...] [COST seconds] [LONG] [MLIR]): a gtest program that ctest
# runs, with MLIR's headers or without. Tests that cost much start first, so that none is left alone
# at the end. Of a LONG one the instantiations that are named Long are a test of their own,
# NAME.long, with the label `all`.
function(moe_test name)
  cmake_parse_arguments(A "LONG;MLIR" "COST" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE MoeFlags ${A_DEPS} GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE MOE_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  if(A_MLIR)
    moe_reuse_header(${name} MoeMlirTestPch)
  elseif(TARGET MoeTestPch)
    moe_reuse_header(${name} MoeTestPch)
  endif()
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/unittests)
  add_test(NAME ${name} COMMAND ${name} --gtest_filter=-Long/*)
  set(tests ${name})
  if(A_COST)
    set_tests_properties(${name} PROPERTIES COST ${A_COST})
  endif()
  if(A_LONG)
    add_test(NAME ${name}.long COMMAND ${name} --gtest_filter=Long/*
      --gtest_output=xml:${PROJECT_BINARY_DIR}/reports/${name}.long.xml)
    set_tests_properties(${name}.long PROPERTIES LABELS all)
    list(APPEND tests ${name}.long)
  endif()
  set_tests_properties(${tests} PROPERTIES TIMEOUT 1500)
  if(MOE_SANITIZE MATCHES "address")
    # LLVM's allocators poison memory where its headers are instrumented, but the packaged libraries,
    # which use the same memory, are not.
    set_tests_properties(${tests} PROPERTIES ENVIRONMENT ASAN_OPTIONS=allow_user_poisoning=0)
  endif()
endfunction()

# moe_executable(NAME SRCS a.cpp... [DEPS lib...]): a tool, built into bin/ and installed.
function(moe_executable name)
  cmake_parse_arguments(A "" "" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${A_SRCS})
  target_link_libraries(${name} PRIVATE MoeFlags ${A_DEPS})
  set_target_properties(${name} PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
  install(TARGETS ${name} RUNTIME)
endfunction()

# moe_install_runtime(): what another project needs to embed the runtime. Every library and header
# of runtime/, and the package moec, whose target is moec::runtime.
function(moe_install_runtime)
  set(folders ${PROJECT_SOURCE_DIR}/runtime)
  set(libraries)
  while(folders)
    list(POP_FRONT folders folder)
    get_property(inner DIRECTORY ${folder} PROPERTY SUBDIRECTORIES)
    list(APPEND folders ${inner})
    get_property(targets DIRECTORY ${folder} PROPERTY BUILDSYSTEM_TARGETS)
    foreach(target ${targets})
      get_target_property(type ${target} TYPE)
      if(type MATCHES "STATIC_LIBRARY|INTERFACE_LIBRARY")
        list(APPEND libraries ${target})
        # Folders of the build tree mean nothing to those who get the installed library.
        foreach(property INTERFACE_INCLUDE_DIRECTORIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES)
          get_target_property(includes ${target} ${property})
          if(includes)
            set_property(TARGET ${target} PROPERTY ${property} "$<BUILD_INTERFACE:${includes}>")
          endif()
        endforeach()
      endif()
    endforeach()
  endwhile()

  add_library(MoeRuntime INTERFACE)
  set_target_properties(MoeRuntime PROPERTIES EXPORT_NAME runtime)
  target_link_libraries(MoeRuntime INTERFACE ${libraries})
  target_include_directories(MoeRuntime INTERFACE $<INSTALL_INTERFACE:include/moec>)
  target_compile_features(MoeRuntime INTERFACE cxx_std_20)

  set(package ${CMAKE_INSTALL_LIBDIR}/cmake/moec)
  install(TARGETS ${libraries} MoeRuntime EXPORT moecTargets ARCHIVE)
  install(EXPORT moecTargets NAMESPACE moec:: DESTINATION ${package})
  include(CMakePackageConfigHelpers)
  write_basic_package_version_file(moecConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_SOURCE_DIR}/tools/cmake/moecConfig.cmake
                ${CMAKE_CURRENT_BINARY_DIR}/moecConfigVersion.cmake DESTINATION ${package})
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/runtime DESTINATION include/moec
    FILES_MATCHING PATTERN "*.h" PATTERN "Test*.h" EXCLUDE)
  install(FILES ${PROJECT_BINARY_DIR}/runtime/plan/Plan_generated.h
    DESTINATION include/moec/runtime/plan)
endfunction()

if(NOT MOE_BUILD_COMPILER)
  return()
endif()

find_package(MLIR 22.1 REQUIRED CONFIG HINTS /usr/lib/llvm-22/lib/cmake/mlir)
find_package(LLD REQUIRED CONFIG HINTS ${MLIR_DIR}/../lld)
list(APPEND CMAKE_MODULE_PATH ${MLIR_CMAKE_DIR} ${LLVM_CMAKE_DIR})
include(TableGen)
include(AddLLVM)
include(AddMLIR)

add_library(MoeMlirFlags INTERFACE)
target_link_libraries(MoeMlirFlags INTERFACE MoeFlags MLIR LLVM)
target_include_directories(MoeMlirFlags SYSTEM INTERFACE ${LLVM_INCLUDE_DIRS} ${MLIR_INCLUDE_DIRS})
separate_arguments(llvm_definitions NATIVE_COMMAND "${LLVM_DEFINITIONS}")
target_compile_options(MoeMlirFlags INTERFACE ${llvm_definitions})
# MLIR's headers are nine tenths of the time that it takes to compile what includes them.
set(mlir_headers
  <mlir/Bytecode/BytecodeOpInterface.h>
  <mlir/Dialect/Arith/IR/Arith.h>
  <mlir/Dialect/Func/IR/FuncOps.h>
  <mlir/Dialect/LLVMIR/LLVMDialect.h>
  <mlir/Dialect/Math/IR/Math.h>
  <mlir/Dialect/SCF/IR/SCF.h>
  <mlir/Dialect/Vector/IR/VectorOps.h>
  <mlir/IR/PatternMatch.h>
  <mlir/Pass/Pass.h>
  <mlir/Transforms/GreedyPatternRewriteDriver.h>)
moe_precompiled_header(MoePch DEPS MoeMlirFlags HEADERS ${mlir_headers})
if(MOE_BUILD_TESTS)
  moe_precompiled_header(MoeMlirTestPch DEPS MoeMlirFlags GTest::gtest
    HEADERS ${mlir_headers} ${test_headers})
endif()

# moe_tablegen(TARGET TD -gen-x=OUT...): rules that make each OUT beside the build's copy of TD.
# An entry "-gen-op-decls=MoeOps.h.inc" runs mlir-tblgen -gen-op-decls; further options follow "|":
# "-gen-dialect-decls|-dialect=moe=MoeDialect.h.inc".
function(moe_tablegen target td)
  set(outputs)
  foreach(entry ${ARGN})
    string(REGEX MATCH "^(.*)=([^=]+)$" _ "${entry}")
    string(REPLACE "|" ";" options "${CMAKE_MATCH_1}")
    set(out ${CMAKE_CURRENT_BINARY_DIR}/${CMAKE_MATCH_2})
    add_custom_command(OUTPUT ${out}
      COMMAND mlir-tblgen ${options} -I${PROJECT_SOURCE_DIR} -I${MLIR_INCLUDE_DIRS}
              ${CMAKE_CURRENT_SOURCE_DIR}/${td} -o ${out} -d ${out}.d
      DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${td} DEPFILE ${out}.d VERBATIM)
    list(APPEND outputs ${out})
  endforeach()
  add_custom_target(${target} DEPENDS ${outputs})
endfunction()

# moe_mlir_library(NAME SRCS a.cpp... [DEPS lib...] [TABLEGEN target...]
#                  [TESTS aTest.cpp...] [COST seconds] [LONG])
# As moe_library, with MLIR's and LLVM's headers and shared libraries. COST and LONG: of the tests.
function(moe_mlir_library name)
  cmake_parse_arguments(A "LONG" "COST" "SRCS;DEPS;TABLEGEN;TESTS" ${ARGN})
  add_library(${name} STATIC ${A_SRCS})
  target_link_libraries(${name} PUBLIC MoeMlirFlags ${A_DEPS})
  moe_reuse_header(${name} MoePch)
  if(A_TABLEGEN)
    add_dependencies(${name} ${A_TABLEGEN})
  endif()
  if(A_TESTS AND MOE_BUILD_TESTS)
    set(long)
    if(A_LONG)
      set(long LONG)
    endif()
    moe_test(${name}Test MLIR SRCS ${A_TESTS} DEPS ${name} COST ${A_COST} ${long})
  endif()
endfunction()
