#!/usr/bin/env python3
"""Prints the table of tests/prepare/quantise.c: hashes of what MLX's quantize makes of the test's rows. Needs mlx (pip install "mlx[cpu]") and xxhash."""
import mlx.core as mx
import numpy as np
import xxhash

ROWS, COLS, MASK = 24, 384, (1 << 64) - 1


def random(state):
    """tests/test.h's test_random."""
    z = state
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9 & MASK
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb & MASK
    return z ^ (z >> 31)


def halves(f16):
    """Bits of the rows: random exponents; row 0 all 0, row 1 all the same, row 2 positive, row 3 negative, row 4 with many zeros."""
    out = np.zeros((ROWS, COLS), np.uint16)
    state = 1
    for i in range(ROWS * COLS):
        state = (state + 0x9e3779b97f4a7c15) & MASK
        x, row = random(state), i // COLS
        bits = x & 0x8000 | ((4 + (x >> 16) % 22) << 10 | x >> 32 & 0x3ff if f16 else (100 + (x >> 16) % 30) << 7 | x >> 32 & 0x7f)
        if row == 0 or (row == 4 and i % 3):
            bits = 0
        if row == 1:
            bits = 0xbe00
        if row == 2:
            bits &= 0x7fff
        if row == 3:
            bits |= 0x8000
        out[row, i % COLS] = bits
    return out


for f16 in (False, True):
    w = mx.view(mx.array(halves(f16)), mx.float16 if f16 else mx.bfloat16)
    for bits in (2, 3, 4, 5, 6, 8):
        for group in (32, 64, 128):
            made = mx.quantize(w, group_size=group, bits=bits)
            data = b"".join(np.array(mx.view(x, mx.uint16)).tobytes() for x in made)
            print(f"    {{{'FM_F16' if f16 else 'FM_BF16'}, {bits}, {group}, 0x{xxhash.xxh3_64_intdigest(data):016x}}},")
