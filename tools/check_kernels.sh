#!/bin/sh
# Builds the native kernels in another way than the package does and runs every one of them on small and degenerate
# scenes (native/test/kernel_check.cpp). From the root of the source tree:
#   tools/check_kernels.sh sanitize [isa...]   AddressSanitizer and UndefinedBehaviorSanitizer
#     [scalar and the best that this machine runs]
#   tools/check_kernels.sh neon                aarch64 under user-mode emulation, NEON against scalar
#     (needs aarch64-linux-gnu-g++ and qemu-aarch64; Debian: g++-aarch64-linux-gnu qemu-user)
set -eu
kind=${1:-sanitize}
[ $# -gt 0 ] && shift
build=build/check_$kind
case $kind in
  sanitize)
    if [ $# -eq 0 ]; then
      best=avx2
      grep -qw avx512bw /proc/cpuinfo && best=avx512
      [ "$(uname -m)" = aarch64 ] && best=neon
      set -- scalar "$best"
    fi
    sets=$(echo "$*" | tr ' ' ';')
    cmake -S native -B "$build" -G Ninja -DGS_SANITIZE=ON -DGS_SETS="$sets" >/dev/null
    cmake --build "$build" --target kernel_check
    for isa in "$@"; do
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
