// The targets of a folder of kernels by name, for their bindings. A Target has a name and says whether it is supported.
#pragma once

#include <stdexcept>
#include <string>
#include <vector>

#include "span.h"

namespace simd {

// The names of those that this processor supports, best first.
template <class Target>
std::vector<std::string> supported_names(Span<const Target* const> targets) {
    std::vector<std::string> names;
    for (const Target* target : targets) {
        if (target->supported()) names.emplace_back(target->name);
    }
    return names;
}

// The target of that name; the best one if the name is empty. Throws std::invalid_argument if there is none.
template <class Target>
const Target& find_target(Span<const Target* const> targets, const std::string& name) {
    for (const Target* target : targets) {
        if (target->supported() && (name.empty() || name == target->name)) return *target;
    }
    throw std::invalid_argument("target " + name + " is not one that this processor runs");
}

}  // namespace simd
