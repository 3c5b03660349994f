#!/bin/sh
# Makes the reference data again: models/ember (where EMBER_SOURCE names the
# bf16 snapshot that tools/ember/train.py wrote) and tests/golden. What came out
# differently from what is committed is listed at the end.
set -e
cd "$(dirname "$0")/../.."
venv=build/reference-venv
wanted=$(cksum <tools/reference/requirements.txt)
if [ "$(cat $venv/made-for 2>/dev/null)" != "$wanted" ]; then
    rm -rf $venv
    python3 -m venv $venv
    $venv/bin/python -m pip install --quiet --disable-pip-version-check -r tools/reference/requirements.txt
    echo "$wanted" >$venv/made-for
fi
export PYTHONDONTWRITEBYTECODE=1 TRANSFORMERS_VERBOSITY=error
if [ -n "$EMBER_SOURCE" ]; then
    $venv/bin/python tools/reference/make_ember.py "$EMBER_SOURCE" models/ember
fi
$venv/bin/python tools/reference/make_golden.py
$venv/bin/python tools/reference/make_packed_experts.py
$venv/bin/python tools/reference/make_tokenizer_cases.py
$venv/bin/python tools/reference/make_unicode_tables.py >build/unicode_tables.c && mv build/unicode_tables.c src/text/unicode_tables.c
if [ ! -e build/tests/text/tokenize ]; then
    echo "run.sh: no build/tests/text/tokenize, so no comparison on a real vocabulary; make test builds it" >&2
else
    $venv/bin/python tools/reference/real_vocabulary.py build/tests/text/tokenize 20000
fi
git status --short -- models/ember tests src/text
