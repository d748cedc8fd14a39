// spectralops._C: the C interface for Python.  load(path) opens a libspectralops and returns its functions by
// name, without the prefix. Every argument is an integer (a pointer is its address) or a float; a status that
// is not OK becomes a RuntimeError with the library's text.  The library is opened by path rather than linked,
// so that one binding serves the packaged library and a site's own.
#include <dlfcn.h>
#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

#include "capi/spectralops.h"

namespace py = pybind11;

namespace {

// What Python passes for a C parameter, and back.
template <typename T> using Passed = std::conditional_t<std::is_same_v<T, const char*>, const char*,
                                                        std::conditional_t<std::is_pointer_v<T>, uintptr_t, T>>;
template <typename T> T from_passed(Passed<T> value) {
  if constexpr (std::is_pointer_v<T> && !std::is_same_v<T, const char*>) return reinterpret_cast<T>(value);
  else return value;
}

class Library {
 public:
  explicit Library(const std::string& path) : handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    if (!handle_) throw std::runtime_error(dlerror());
    const int version = find<decltype(spectralops_abi_version)>("abi_version")();
    if (version != SPECTRALOPS_ABI_VERSION)
      throw std::runtime_error("its ABI version is " + std::to_string(version) + ", this package needs " +
                               std::to_string(SPECTRALOPS_ABI_VERSION));
    last_error_ = find<decltype(spectralops_last_error)>("last_error");
  }

  template <typename F> F* find(const char* name) const {
    void* symbol = dlsym(handle_, ("spectralops_" + std::string(name)).c_str());
    if (!symbol) throw std::runtime_error(std::string("it has no function spectralops_") + name);
    return reinterpret_cast<F*>(symbol);
  }

  // Calls that run a kernel end in (device, threads, stream).  On a CPU they take long enough to let other
  // Python threads run.
  template <typename F> void operation(const char* name) { add_operation(name, find<F>(name)); }
  template <typename F> void status(const char* name) { add_status(name, find<F>(name)); }
  template <typename F> void value(const char* name) { add_value(name, find<F>(name)); }

  void check(int status) const {
    if (status != SPECTRALOPS_OK) throw std::runtime_error(last_error_());
  }

  py::dict functions;

 private:
  template <typename... A> void add_operation(const char* name, int (*function)(A...)) {
    add(name, [this, function](Passed<A>... passed) {
      constexpr size_t device = sizeof...(A) - 3;
      if (std::get<device>(std::tie(passed...)) != SPECTRALOPS_CPU) return check(function(from_passed<A>(passed)...));
      int status;
      {
        py::gil_scoped_release released;
        status = function(from_passed<A>(passed)...);
      }
      check(status);
    });
  }
  template <typename... A> void add_status(const char* name, int (*function)(A...)) {
    add(name, [this, function](Passed<A>... passed) { check(function(from_passed<A>(passed)...)); });
  }
  template <typename R, typename... A> void add_value(const char* name, R (*function)(A...)) {
    add(name, [this, function](Passed<A>... passed) {
      const R result = function(from_passed<A>(passed)...);
      if constexpr (std::is_integral_v<R>)
        if (result < 0) throw std::runtime_error(last_error_());
      return result;
    });
  }
  template <typename L> void add(const char* name, L&& lambda) {
    functions[name] = py::cpp_function(std::forward<L>(lambda), py::name(name));
  }

  void* handle_;
  const char* (*last_error_)() = nullptr;
};

py::tuple recorded(const Library& library, decltype(spectralops_record_get)* get, int index) {
  const char* name = nullptr;
  const void* params = nullptr;
  int64_t grid[3], block[3], shared = 0, bytes = 0;
  library.check(get(index, &name, grid, block, &shared, &params, &bytes));
  const auto triple = [](const int64_t* of) { return py::make_tuple(of[0], of[1], of[2]); };
  return py::make_tuple(std::string(name), triple(grid), triple(block), shared,
                        py::bytes(static_cast<const char*>(params), size_t(bytes)));
}

#define SO_OPERATION(name) library->operation<decltype(spectralops_##name)>(#name)
#define SO_STATUS(name) library->status<decltype(spectralops_##name)>(#name)
#define SO_VALUE(name) library->value<decltype(spectralops_##name)>(#name)

py::dict load(const std::string& path) {
  auto* library = new Library(path);  // lives as long as the process: its functions are kept by Python
  SO_VALUE(abi_version);
  SO_VALUE(build_info);
  SO_VALUE(last_error);
  SO_VALUE(cpu_capability);
  SO_STATUS(set_cpu_capability);
  SO_STATUS(set_openmp);
  SO_OPERATION(rational_forward);
  SO_VALUE(rational_workspace);
  SO_OPERATION(rational_backward);
  SO_OPERATION(rational_double_backward);
  SO_OPERATION(wavelet_forward);
  SO_VALUE(wavelet_workspace);
  SO_OPERATION(wavelet_backward);
  SO_OPERATION(wavelet_double_backward);
  SO_VALUE(hadamard_workspace);
  SO_OPERATION(hadamard);
  SO_VALUE(hadamard_quantize_workspace);
  SO_OPERATION(hadamard_quantize);
  SO_VALUE(srht_workspace);
  SO_OPERATION(srht);
  SO_OPERATION(activation_forward);
  SO_VALUE(activation_workspace);
  SO_OPERATION(activation_backward);
  SO_OPERATION(activation_double_backward);
  SO_OPERATION(poly_norm_forward);
  SO_VALUE(poly_norm_workspace);
  SO_OPERATION(poly_norm_backward);
  SO_OPERATION(poly_norm_double_backward);
  SO_OPERATION(fan_forward);
  SO_OPERATION(fan_backward);
  SO_OPERATION(fan_double_backward);
  SO_VALUE(kan_workspace);
  SO_OPERATION(kan_forward);
  SO_OPERATION(kan_dx);
  SO_OPERATION(kan_dcoeff);
  SO_VALUE(filter_workspace);
  SO_OPERATION(filter);
  SO_OPERATION(filter_gradient);
  SO_VALUE(modes_workspace);
  SO_OPERATION(mode_dft);
  SO_OPERATION(mode_idft);
  SO_OPERATION(mode_mix);
  SO_VALUE(istft_workspace);
  SO_OPERATION(istft_head);
  SO_OPERATION(istft_head_backward);
  SO_VALUE(sparse_wht_workspace);
  SO_OPERATION(sparse_wht_decode);
  SO_OPERATION(walsh_sum);
  SO_VALUE(fft_conv_workspace);
  SO_OPERATION(fft_conv_forward);
  SO_OPERATION(fft_conv_backward);
  SO_STATUS(record_begin);
  SO_VALUE(record_end);
  auto* get = library->find<decltype(spectralops_record_get)>("record_get");
  library->functions["record_get"] =
      py::cpp_function([library, get](int index) { return recorded(*library, get, index); });
  return library->functions;
}

}  // namespace

PYBIND11_MODULE(_C, module) {
  module.doc() = "The C interface of libspectralops: load(path) -> {name: function}";
  module.attr("ABI_VERSION") = SPECTRALOPS_ABI_VERSION;
  module.def("load", &load, py::arg("path"));
}
