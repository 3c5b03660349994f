#!/bin/sh
# Draws a short conversation with the demo model, in a terminal of tmux, as an SVG: tools/chat_screen.sh [PROGRAM] >docs/chat.svg
set -eu
program=$(realpath "${1:-build/flash-moe}")
model=$(realpath models/ember)
tools=$(realpath "$(dirname "$0")")
place=$(mktemp -d)
terminal() { tmux -u -f /dev/null -L "flash-moe-$$" "$@"; }
trap 'terminal kill-server; rm -rf "$place"' EXIT
mkdir "$place/src"
touch "$place/src/main.c" "$place/src/notes.txt" "$place/src/todo.txt"

# screen PATTERN: waits until the last line but empty ones matches
screen() {
    for _ in $(seq 200); do
        terminal capture-pane -p | grep -v '^ *$' | tail -1 | grep -q "$1" && return
        sleep 0.05
    done
    terminal capture-pane -p >&2
    exit 1
}
say() {
    terminal send-keys -l "$1"
    terminal send-keys Enter
    sleep 0.2
}

terminal new-session -d -x 84 -y 32 -c "$place" env HOME="$place" XDG_DATA_HOME="$place/data" XDG_CACHE_HOME="$place/cache" "$program" chat "$model" --temp 0 \
    --memory 24M --context 1024 --tool bash
screen '^> *$'
say "What is the capital of Norway?"
screen '^> *$'
say "Write a C function that can add two numbers."
screen '^> *$'
say "List the files in src."
screen '^Run it'
say y
screen '^> *$'
terminal capture-pane -e -p | sed -e :a -e '/^\n*$/{$d;N;ba' -e '}' | python3 "$tools/screen_svg.py" --title "flash-moe chat models/ember --memory 24M --tool bash"
