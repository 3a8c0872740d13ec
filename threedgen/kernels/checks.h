// ValueError, which is what nanobind makes of std::invalid_argument, for arguments that do not fit.
#pragma once

#include <stdexcept>

inline void require(bool condition, const char *message) {
    if (!condition) throw std::invalid_argument(message);
}
