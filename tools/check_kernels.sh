#!/bin/sh
# Builds the native kernels in another way than the package does and runs every one of them on small and degenerate
# scenes (native/test/kernel_check.cpp). From the root of the source tree:
#   tools/check_kernels.sh sanitize [isa...]   AddressSanitizer and UndefinedBehaviorSanitizer   [scalar avx2]
#   tools/check_kernels.sh neon                aarch64 under user-mode emulation, NEON against scalar
#     (needs aarch64-linux-gnu-g++ and qemu-aarch64; Debian: g++-aarch64-linux-gnu qemu-user)
set -eu
kind=${1:-sanitize}
[ $# -gt 0 ] && shift
build=build/check_$kind
case $kind in
  sanitize)
    cmake -S native -B "$build" -G Ninja -DGS_SANITIZE=ON >/dev/null
    cmake --build "$build" --target kernel_check
    for isa in ${*:-scalar avx2}; do
      GS_SEMANTIC_ISA=$isa UBSAN_OPTIONS=print_stacktrace=1 "$build/kernel_check" "$build/$isa.bin"
    done
    ;;
  neon)
    cmake -S native -B "$build" -G Ninja -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
      -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ >/dev/null
    cmake --build "$build" --target kernel_check
    for isa in scalar neon; do
      GS_SEMANTIC_ISA=$isa qemu-aarch64 -L "${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}" \
        "$build/kernel_check" "$build/$isa.bin"
    done
    qemu-aarch64 -L "${QEMU_LD_PREFIX:-/usr/aarch64-linux-gnu}" "$build/kernel_check" --compare "$build/scalar.bin" "$build/neon.bin"
    ;;
  *)
    echo "check_kernels.sh: '$kind': expected sanitize or neon" >&2
    exit 2
    ;;
esac
