// The C++ name of a kernel, template arguments included and all qualified, so that another compiler (NVRTC) finds it.
#pragma once

#include <cxxabi.h>
#include <stdlib.h>
#include <string.h>

#include <string>

namespace spectralops {

// Takes the mangled name of KernelName<K>, as launch.h passes it; a signature that a compiler prints for a function
// template over `auto Kernel` ("... [with auto Kernel = ns::f<float, 5>]", "... [Kernel = &ns::f<float, 5>]"); or the
// name itself.  Empty when the kernel has no name outside its file (an unnamed namespace, a lambda).
inline std::string kernel_name(const char* encoded) {
  std::string text(encoded ? encoded : "");
  if (text.compare(0, 13, "N11spectralop") == 0) {  // a plain name could be valid mangling too ("f" is float)
    int status = 0;
    char* demangled = abi::__cxa_demangle(text.c_str(), nullptr, nullptr, &status);
    if (status == 0) text = demangled;
    free(demangled);
  }
  size_t begin = 0;
  for (const char* key : {"Kernel = ", "KernelName<"})
    if (const size_t at = text.find(key); at != std::string::npos) begin = at + strlen(key);
  while (begin < text.size() && strchr(" &(", text[begin])) ++begin;  // "&(void ns::f<float>(P))", "& ns::f<float>"
  if (text.compare(begin, 5, "void ") == 0) begin += 5;
  size_t end = begin;
  for (int depth = 0; end < text.size(); ++end) {  // template arguments may hold casts and parentheses of their own
    const char c = text[end];
    if (c == '<') ++depth;
    if (depth == 0 && strchr(" (]);>", c) && text.compare(end, 12, "(anonymous n") != 0) break;
    if (c == '>') --depth;
  }
  const std::string name = text.substr(begin, end - begin);
  for (const char* unusable : {"(anonymous", "{anonymous", "<unnamed", "{lambda", "<lambda"})
    if (text.find(unusable) != std::string::npos) return "";
  return name;
}

}  // namespace spectralops
