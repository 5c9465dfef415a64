#!/usr/bin/env python3
"""Fits the polynomial of Math.h: q with log2(P(t)) = -1 + t q(t), P(t) = erfc(t / sqrt(2)) / 2.

Lawson's iteration: weighted least squares, whose weights grow where the error is largest, tend to
the fit with the least largest error. Prints that error, of P or of P / 200, and the coefficients.
"""
import math
import struct

LIMIT, COEFFICIENTS, LEAST, POINTS, ROUNDS = 5.5, 10, 1 / 200, 160, 80


def solve(a, b):
    n = len(b)
    a = [row[:] + [b[i]] for i, row in enumerate(a)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(a[r][i]))
        a[i], a[pivot] = a[pivot], a[i]
        for r in range(i + 1, n):
            factor = a[r][i] / a[i][i]
            for c in range(i, n + 1):
                a[r][c] -= factor * a[i][c]
    x = [0.0] * n
    for i in reversed(range(n)):
        x[i] = (a[i][n] - sum(a[i][c] * x[c] for c in range(i + 1, n))) / a[i][i]
    return x


def monomials(chebyshev):
    """Of a sum of Chebyshev polynomials of 2 t / LIMIT - 1, the coefficients of t^i."""
    terms = [[1.0], [-1.0, 2 / LIMIT]]
    while len(terms) < len(chebyshev):
        last, before = terms[-1], terms[-2]
        term = [0.0] * (len(last) + 1)
        for i, value in enumerate(last):
            term[i] -= 2 * value
            term[i + 1] += 4 / LIMIT * value
        for i, value in enumerate(before):
            term[i] -= value
        terms.append(term)
    sums = [0.0] * len(chebyshev)
    for factor, term in zip(chebyshev, terms):
        for i, value in enumerate(term):
            sums[i] += factor * value
    return sums


def main():
    ts = [LIMIT * (1 - math.cos(math.pi * (i + 0.5) / POINTS)) / 2 for i in range(POINTS)]
    tails = [math.erfc(t / math.sqrt(2)) / 2 for t in ts]
    ys = [(math.log2(p) + 1) / t for p, t in zip(tails, ts)]
    scale = [t * max(p, LEAST) * math.log(2) for p, t in zip(tails, ts)]
    basis = [[math.cos(j * math.acos(2 * t / LIMIT - 1)) for j in range(COEFFICIENTS)] for t in ts]
    weights, best = [1 / POINTS] * POINTS, None
    for _ in range(ROUNDS):
        a = [[0.0] * COEFFICIENTS for _ in range(COEFFICIENTS)]
        b = [0.0] * COEFFICIENTS
        for i in range(POINTS):
            w = weights[i] * scale[i] ** 2
            for j in range(COEFFICIENTS):
                b[j] += w * basis[i][j] * ys[i]
                for c in range(COEFFICIENTS):
                    a[j][c] += w * basis[i][j] * basis[i][c]
        fit = solve(a, b)
        errors = [
            abs(sum(f * v for f, v in zip(fit, basis[i])) - ys[i]) * scale[i]
            for i in range(POINTS)
        ]
        if best is None or max(errors) < best[0]:
            best = max(errors), fit
        total = sum(w * e for w, e in zip(weights, errors))
        weights = [w * e / total for w, e in zip(weights, errors)]
    print(f"{best[0]:.2g}")
    for value in monomials(best[1]):
        print(f"{struct.unpack('f', struct.pack('f', value))[0]:.9g}")


if __name__ == "__main__":
    main()
