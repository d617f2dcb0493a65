#!/bin/sh
# Prints a Python that the ROS 2 wheels support (3.10 to 3.12) and that can make virtual environments.
for candidate in "$PYTHON" python3 python3.12 python3.11 python3.10; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null
    then
        echo "$candidate"
        exit 0
    fi
done
echo "No usable Python found: the ROS 2 wheels need CPython 3.10, 3.11 or 3.12 with venv." >&2
echo "Install one (Debian, Ubuntu: apt install python3 python3-venv python3-dev) or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
