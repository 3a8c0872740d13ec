// CLONED: a function is compiled once for each instruction set, and the best version for the machine is chosen when
// the module is loaded. Everything that it calls must be inlined into it. Other compilers and systems have the
// baseline only.
#pragma once

#include <cstdint>  // for the C library's own macros

// GCC 12 knows the levels by name, and glibc has the support in its loader (ifunc) that musl lacks.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && defined(__x86_64__) && defined(__GLIBC__)
#define CLONED __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define INLINED inline __attribute__((always_inline))
#else
#define CLONED
#define INLINED inline
#endif
