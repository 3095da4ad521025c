// Mean and variance of many numbers, from tiles: Chan, Golub and LeVeque, "Updating formulae and a
// pairwise algorithm for computing sample variances" (1979).
//
// A tile sums d and d^2 in double, d = x - pivot with the pivot one of its own values; so its M2,
// the sum of squared deviations from the tile's mean, loses nothing however far the mean lies from
// zero.
//
// Read next: variance.cpp.
#pragma once

namespace lsuv {

struct Moments {
    double count = 0, mean = 0, M2 = 0;

    // Of `count` numbers whose distances d from `pivot` sum to `sum` and d^2 to `squares`.
    static Moments of_sums(double count, double pivot, double sum, double squares) {
        return {count, pivot + sum / count, squares - sum * (sum / count)};
    }

    void merge(const Moments& tile) {
        const double total = count + tile.count, delta = tile.mean - mean;
        mean += delta * (tile.count / total);
        M2 += tile.M2 + delta * delta * (count * tile.count / total);
        count = total;
    }

    // The population variance. Rounding can leave M2 of equal numbers a hair below zero.
    double variance() const { return M2 < 0 ? 0 : M2 / count; }
};

}  // namespace lsuv
