# Drops the generators whose output rclpy with Fast DDS never loads: C++ introspection and the C++ dispatcher.
# Every generator registered itself when it was found, so this comes after all find_package calls.
list(FILTER AMENT_EXTENSIONS_rosidl_generate_idl_interfaces EXCLUDE REGEX
  "^(rosidl_typesupport_introspection_cpp|rosidl_typesupport_cpp):")
