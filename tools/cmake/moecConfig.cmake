# find_package(moec): the runtime as moec::runtime.
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include(${CMAKE_CURRENT_LIST_DIR}/moecTargets.cmake)
