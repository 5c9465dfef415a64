# The target MoeXgrammar, which keeps answers to grammars (runtime/server/Grammar.h): xgrammar, built from its source
# package, which is downloaded once and not part of this repository. Without it there is no target, and a server refuses
# what needs a grammar.
set(MOE_GRAMMAR AUTO CACHE STRING "grammars by xgrammar: AUTO (where its source can be had), ON or OFF")
set_property(CACHE MOE_GRAMMAR PROPERTY STRINGS AUTO ON OFF)

set(xgrammar_version 0.2.9)
set(xgrammar_sha256 87b466bca2475e29bb0323abc62c6c33cbcbcff47e5fb800a3e2099ac9620b90)
set(xgrammar_cache "$ENV{XDG_CACHE_HOME}")
if(NOT xgrammar_cache)
  set(xgrammar_cache $ENV{HOME}/.cache)
endif()
set(MOE_XGRAMMAR_ARCHIVE ${xgrammar_cache}/moec/xgrammar-${xgrammar_version}.tar.gz
  CACHE FILEPATH "xgrammar's source package; downloaded if it is not there")
set(xgrammar_source ${PROJECT_BINARY_DIR}/xgrammar-${xgrammar_version})

# Sets RESULT to why the archive is not there, empty if it is.
function(moe_get_xgrammar result)
  set(${result} "" PARENT_SCOPE)
  if(NOT EXISTS ${MOE_XGRAMMAR_ARCHIVE})
    cmake_path(GET MOE_XGRAMMAR_ARCHIVE PARENT_PATH folder)
    find_package(Python3 COMPONENTS Interpreter)
    if(NOT Python3_FOUND)
      set(${result} "there is no Python 3 to download it with" PARENT_SCOPE)
      return()
    endif()
    message(STATUS "Downloading xgrammar ${xgrammar_version} to ${folder}")
    execute_process(
      COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/tools/cmake/download-sdist.py
              xgrammar ${xgrammar_version} ${xgrammar_sha256} ${folder}
      OUTPUT_VARIABLE said ERROR_VARIABLE said RESULT_VARIABLE code)
    if(code)
      set(${result} "its download failed:\n${said}" PARENT_SCOPE)
      return()
    endif()
  endif()
  file(SHA256 ${MOE_XGRAMMAR_ARCHIVE} found)
  if(NOT found STREQUAL xgrammar_sha256)
    set(${result} "${MOE_XGRAMMAR_ARCHIVE} has the SHA-256 ${found} instead of ${xgrammar_sha256}" PARENT_SCOPE)
  endif()
endfunction()

# Puts TEXT behind the one place in FILE where AFTER stands.
function(moe_insert_into_xgrammar file after text)
  file(READ ${xgrammar_source}.new/${file} source)
  string(FIND "${source}" "${after}" first)
  string(FIND "${source}" "${after}" last REVERSE)
  if(first EQUAL -1 OR NOT first EQUAL last)
    message(FATAL_ERROR "xgrammar ${xgrammar_version}: ${file} has not one place '${after}'")
  endif()
  string(REPLACE "${after}" "${after}${text}" source "${source}")
  file(WRITE ${xgrammar_source}.new/${file} "${source}")
endfunction()

# xgrammar cannot be told how much a grammar may cost, and grammars come from strangers. So its innermost loops say what
# they do, and GrammarXgrammar.cpp throws when that is enough.
function(moe_unpack_xgrammar)
  file(REMOVE_RECURSE ${xgrammar_source} ${xgrammar_source}.new)
  set(root xgrammar-${xgrammar_version})
  file(ARCHIVE_EXTRACT INPUT ${MOE_XGRAMMAR_ARCHIVE} DESTINATION ${xgrammar_source}.new
    PATTERNS ${root}/cpp ${root}/include ${root}/LICENSE ${root}/NOTICE
             ${root}/3rdparty/picojson/picojson.h ${root}/3rdparty/dlpack/include/dlpack/dlpack.h)
  foreach(part cpp include 3rdparty LICENSE NOTICE)
    file(RENAME ${xgrammar_source}.new/${root}/${part} ${xgrammar_source}.new/${part})
  endforeach()
  file(REMOVE_RECURSE ${xgrammar_source}.new/${root})
  moe_insert_into_xgrammar(cpp/support/logging.h "#include \"cpptrace.h\"  // IWYU pragma: keep\n" "
// Changed by moec: these count what is done and allocated, and throw where that is too much. Who links this library defines
// them.
namespace xgrammar {
void CountStep();
void CountMemory(size_t bytes);
}
")
  moe_insert_into_xgrammar(cpp/earley_parser.h "  void Enqueue(const ParserState& state) {\n" "    CountStep();\n")
  moe_insert_into_xgrammar(cpp/earley_parser.cc
    "bool EarleyParser::Advance(const uint8_t ch, bool debug_print) {\n" "  CountStep();\n")
  moe_insert_into_xgrammar(cpp/fsm.cc "  void AddEdge(int from, int to, int32_t min, int32_t max) {\n" "    CountMemory(sizeof(FSMEdge));\n")
  moe_insert_into_xgrammar(cpp/fsm.cc "  int AddState() {\n" "    CountMemory(sizeof(std::vector<FSMEdge>));\n")
  moe_insert_into_xgrammar(cpp/grammar_builder.cc
    "int32_t GrammarBuilder::AddGrammarExpr(const GrammarExpr& grammar_expr) {\n"
    "  CountMemory(sizeof(int32_t) * (3 + size_t(grammar_expr.data_len)));\n")
  moe_insert_into_xgrammar(cpp/grammar_compiler.cc
    "auto cur_adaptive_token_mask_cache = grammar_matcher.GetAdaptiveTokenMask(is_root_rule);\n"
    "    CountMemory(MemorySize(cur_adaptive_token_mask_cache));\n")
  # Strings of limited length were let have control characters, which JSON has only as escapes.
  moe_insert_into_xgrammar(cpp/json_schema_converter.cc
    "      int32_t character =\n          builder_.AddCharacterClass({" "{0, 0x1f}, ")
  file(RENAME ${xgrammar_source}.new ${xgrammar_source})
endfunction()

if(MOE_GRAMMAR STREQUAL "OFF" OR (MOE_GRAMMAR STREQUAL "AUTO" AND CMAKE_CROSSCOMPILING))
  message(STATUS "Grammars: off")
  return()
endif()
moe_get_xgrammar(xgrammar_missing)
if(xgrammar_missing)
  if(MOE_GRAMMAR STREQUAL "ON")
    message(FATAL_ERROR "MOE_GRAMMAR=ON needs xgrammar ${xgrammar_version}, but ${xgrammar_missing}")
  endif()
  message(STATUS "Grammars: off, since xgrammar ${xgrammar_version} is not there: ${xgrammar_missing}\n"
    "   A server refuses JSON schemas and the like. To have them, put the source package of PyPI at\n"
    "   ${MOE_XGRAMMAR_ARCHIVE} and configure again.")
  return()
endif()
message(STATUS "Grammars: xgrammar ${xgrammar_version}")
# Unpacked again when what is changed in it changes.
file(SHA256 ${CMAKE_CURRENT_LIST_FILE} xgrammar_recipe)
if(NOT EXISTS ${xgrammar_source}/recipe)
  moe_unpack_xgrammar()
  file(WRITE ${xgrammar_source}/recipe ${xgrammar_recipe})
else()
  file(READ ${xgrammar_source}/recipe xgrammar_unpacked)
  if(NOT xgrammar_unpacked STREQUAL xgrammar_recipe)
    moe_unpack_xgrammar()
    file(WRITE ${xgrammar_source}/recipe ${xgrammar_recipe})
  endif()
endif()

file(GLOB_RECURSE xgrammar_sources ${xgrammar_source}/cpp/*.cc)
list(FILTER xgrammar_sources EXCLUDE REGEX "/cpp/tvm_ffi/") # for Python
add_library(MoeXgrammar STATIC ${xgrammar_sources})
target_link_libraries(MoeXgrammar PRIVATE $<BUILD_INTERFACE:MoeFlags>)
target_include_directories(MoeXgrammar SYSTEM PUBLIC ${xgrammar_source}/include
  ${xgrammar_source}/3rdparty/picojson ${xgrammar_source}/3rdparty/dlpack/include)
# What it would log goes to functions of ours; without checks of itself, optimised in every build, and not our warnings.
target_compile_definitions(MoeXgrammar PRIVATE XGRAMMAR_ENABLE_CPPTRACE=0 XGRAMMAR_ENABLE_INTERNAL_CHECK=0
  XGRAMMAR_LOG_CUSTOMIZE=1)
target_compile_options(MoeXgrammar PRIVATE -O2 -w)
set_target_properties(MoeXgrammar PROPERTIES CXX_STANDARD 17 CXX_CLANG_TIDY "")
