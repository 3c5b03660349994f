#!/bin/sh
# `make lint`: every check runs, what is wrong is printed, and the exit status says whether anything was. Runs in the root of the repository.
set -u
failed=

# check NAME COMMAND…: quiet when it succeeds
check() {
    name=$1
    shift
    if output=$("$@" 2>&1); then
        echo "lint: $name ok"
    else
        printf '%s\n' "$output" | head -60
        echo "lint: $name FAILED"
        failed=yes
    fi
}

files=$(git ls-files -co --exclude-standard 'src/*.[ch]' 'include/*.h' 'tests/*.[ch]' 'examples/*.c' 'examples/*.cpp' 'python/*.[ch]' | while read -r file; do [ ! -e "$file" ] || echo "$file"; done)

# No marks of unfinished work, and no paths of one machine.
marks() { ! git grep -nIE --untracked '\b(TODO|FIXME|XXX|HACK)\b|(^|[[:space:]"=(])/(root|home/[a-z]+|work)/' -- src include tests tools cross Makefile '*meson*' ':!tools/lint.sh'; }

# One configuration; the tests cover the others. Uninitialised variables are left to the compilers, which follow a filled array better.
cppcheck_all() {
    cppcheck --quiet --error-exitcode=1 --std=c11 --enable=warning,performance,portability --inline-suppr \
        --suppress=missingIncludeSystem --suppress=unknownMacro --suppress=uninitvar -j 2 -I src -I include -D__GNUC__ -D__x86_64__ -D__linux__ -DFM_HAVE_URING src
}

header_alone() {
    echo '#include "flash_moe_tools.h"' | clang -x c -std=c99 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I include - &&
        echo '#include "flash_moe_tools.h"' | clang -x c++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -fsyntax-only -I include -
}

clang_build() {
    [ -e build-clang/build.ninja ] || CC=clang meson setup build-clang -Dwerror=true || return
    ninja -C build-clang --quiet
}

check format clang-format --dry-run -Werror $files
check cppcheck cppcheck_all
check layers python3 tools/check_layers.py
check sizes python3 tools/check_sizes.py
check marks marks
check header header_alone
for script in tools/*.sh tools/*/*.sh .ci/run; do
    [ ! -e "$script" ] || check "$script" sh -n "$script"
done
check "clang build" clang_build
[ -z "$failed" ]
