#!/bin/sh
# Installs what the build needs: tools/deps.sh GROUP…, with the groups build, test, lint, fuzz, cross. It looks for the tools and libraries
# themselves, so anything that is there counts, whoever installed it; when nothing is missing it is quick and says nothing.
# Debian's package names with apt-get, Homebrew's on macOS; elsewhere it names what is missing.
set -eu

# missing is for a person, packages for the package manager.
# need "what a person calls it" "Debian packages" "Homebrew packages": noted as missing
need() {
    missing="$missing $1"
    if [ "$(uname)" = Darwin ]; then packages="$packages $3"; else packages="$packages $2"; fi
}
has() { command -v "$1" >/dev/null 2>&1; }
library() { has pkg-config && pkg-config --exists "$1"; }

build() {
    [ -z "$build_done" ] || return 0 # most groups begin with it
    build_done=yes
    echo '#include <stdio.h>' | ${CC:-cc} -E - >/dev/null 2>&1 || need "a-C-compiler" "gcc libc6-dev" "gcc"
    # Meson before 1.0 does not read meson.build.
    case "$(meson --version 2>/dev/null || echo 0)" in 0*) need "meson>=1.0" meson meson ;; esac
    has ninja || need ninja ninja-build ninja
    has pkg-config || need pkg-config pkg-config pkg-config
    library jansson || need jansson libjansson-dev jansson
    library libpcre2-8 || need pcre2 libpcre2-dev pcre2
    library libutf8proc || need utf8proc libutf8proc-dev utf8proc
    library libedit || need libedit libedit-dev libedit
    library libmicrohttpd || need libmicrohttpd libmicrohttpd-dev libmicrohttpd
    library libcurl || need libcurl libcurl4-openssl-dev curl
    library libxxhash || need xxhash libxxhash-dev xxhash
    library libcurl || need libcurl libcurl4-openssl-dev curl
    library nettle || need nettle nettle-dev nettle
    [ "$(uname)" != Linux ] || library liburing || need liburing liburing-dev ""
}

test_() {
    build
    python3 -c 'import venv, ensurepip' 2>/dev/null || need "python3-with-venv" "python3 python3-venv" python
    has tmux || need tmux tmux tmux
    has c++ || need "a-C++-compiler" g++ gcc
    # Without it the page's tests are skipped. Homebrew has it as a cask only.
    [ "$(uname)" = Darwin ] || has chromium || has chromium-browser || has google-chrome || need chromium chromium ""
}

lint() {
    test_
    has clang || need clang clang llvm
    has clang-format || need clang-format clang-format clang-format
    has cppcheck || need cppcheck cppcheck cppcheck
}

fuzz() {
    build
    # Debian keeps the sanitizer run-times in a package of their own, named after clang's version.
    if ! has clang; then
        need clang "clang libclang-rt-dev" llvm
    elif [ ! -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ] && [ "$(uname)" = Linux ]; then
        need libfuzzer "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev" ""
    fi
}

cross() {
    build
    has aarch64-linux-gnu-gcc || need "an-arm64-compiler" "gcc-aarch64-linux-gnu libc6-dev-arm64-cross" aarch64-unknown-linux-gnu
    has qemu-aarch64-static || need qemu-user qemu-user-static qemu
}

install_packages() {
    if [ "$(uname)" = Darwin ]; then
        has brew || { echo "tools/deps.sh: missing:$missing; install Homebrew (https://brew.sh) or these" >&2; exit 1; }
        echo "tools/deps.sh: installing with Homebrew:$packages"
        brew install --quiet $packages
        return
    fi
    has apt-get || { echo "tools/deps.sh: missing:$missing; on Debian the packages are:$packages" >&2; exit 1; }
    root=
    if [ "$(id -u)" != 0 ]; then
        has sudo || { echo "tools/deps.sh: missing:$missing; as root: apt-get install$packages" >&2; exit 1; }
        root=sudo
    fi
    echo "tools/deps.sh: installing with apt-get:$packages"
    log=$(mktemp)
    apt() { $root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 "$@" </dev/null >"$log" 2>&1; }
    # The package lists are fetched only when the first try shows that they are missing or too old.
    if apt install -y --no-install-recommends $packages || { apt update && apt install -y --no-install-recommends $packages; }; then
        rm -f "$log"
    else
        cat "$log" >&2
        rm -f "$log"
        exit 1
    fi
}

look() {
    missing= packages= build_done=
    for group in "$@"; do
        case "$group" in
        build | lint | fuzz | cross) "$group" ;;
        test) test_ ;;
        *) echo "tools/deps.sh: no group $group; there are build, test, lint, fuzz, cross" >&2; exit 2 ;;
        esac
    done
}

look "$@"
[ -n "$missing" ] || exit 0
install_packages
look "$@"
[ -z "$missing" ] || { echo "tools/deps.sh: still missing after installing$packages:$missing" >&2; exit 1; }
