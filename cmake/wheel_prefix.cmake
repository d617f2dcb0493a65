# Given as CMAKE_PROJECT_INCLUDE where ROS comes from PyPI wheels. Mends three things at the end of the directory, when
# every package has been found and every target made:
# * The wheels' exported targets name include folders of the machine that built them; CMake refuses targets with include
#   folders that do not exist, so these are dropped.
# * The environment often lies inside the source tree; CMake refuses to install targets that export a path in there
#   (NumPy's headers), so absolute paths are kept for this build only.
# * Most of the time to compile is that of the headers of Fast CDR, read for every interface anew: the sources that include
#   them are compiled several at a time.
function(_mend_include_directories)
  get_property(imported_targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS imported_targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(directories)
      set(kept "")
      foreach(directory IN LISTS directories)
        if(directory MATCHES "^\\$<" OR EXISTS "${directory}")
          list(APPEND kept "${directory}")
        endif()
      endforeach()
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
    endif()
  endforeach()

  get_property(own_targets DIRECTORY PROPERTY BUILDSYSTEM_TARGETS)
  foreach(target IN LISTS own_targets)
    get_target_property(directories ${target} INTERFACE_INCLUDE_DIRECTORIES)
    if(directories)
      list(TRANSFORM directories REPLACE "^(/.*)$" "$<BUILD_INTERFACE:\\1>")
      set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${directories}")
    endif()
    if(target MATCHES "__rosidl_typesupport_fastrtps_(c|cpp)$")
      set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 8)
    endif()
  endforeach()
endfunction()

cmake_language(DEFER CALL _mend_include_directories)
