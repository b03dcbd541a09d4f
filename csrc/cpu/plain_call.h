// The short way from Python to a CPU operator, around torch's dispatcher.
//
// A call through the dispatcher costs more than a small convolution: its arguments are boxed twice
// and its lists copied entry by entry. A plain call needs none of what the dispatcher does: its
// tensors are ordinary dense ones on the CPU, no autocast, mode, transform or trace is active, and
// its integers are of type int. `plain_call<op>` reads the arguments by the C++ types of `op`, runs
// it, and records the derivative where one is wanted. For any other call, and for one that raises,
// it returns None: the caller then takes the long way, whose errors and results are the reference.
#pragma once

#include <Python.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>

#include "tensor.h"

namespace cnnops {

/// The plain calls of the operators in conv.cpp and pool.cpp: functions (tensors and other
/// arguments of the operator) whose `self` is what records the derivative; ended by a null.
extern PyMethodDef conv_plain_calls[];
extern PyMethodDef pool_plain_calls[];

/// plain_call(name, record): the plain call of the operator `name`, or of "conv", that has `record`
/// called where a derivative is wanted.
PyObject* bind_plain_call(PyObject* module, PyObject* arguments);

/// set_plain(types, guards): tensors of exactly these types are plain, while all guards say no.
PyObject* set_plain(PyObject* module, PyObject* arguments);

/// Whether calls can be plain at all now: this torch offers what they need, and each of the guards
/// says no.
bool plain_calls_are_possible();

/// A tensor to be read: torch::stable::Tensor has no cheap empty state.
struct RequiredTensor {
  std::optional<Tensor> tensor;
  operator const Tensor&() const { return *tensor; }
};

/// Each reads one argument; false where it is not plain.
bool read(PyObject* from, RequiredTensor& to);
bool read(PyObject* from, std::optional<Tensor>& to);
bool read(PyObject* from, IntList& to);
bool read(PyObject* from, int64_t& to);
bool read(PyObject* from, std::optional<int64_t>& to);
bool read(PyObject* from, bool& to);
bool read(PyObject* from, std::string& to);

/// A new reference to the torch.Tensor, or a tuple of them; null with an exception set on failure.
PyObject* to_python(const Tensor& tensor);
PyObject* to_python(const std::tuple<Tensor, Tensor>& tensors);

/// Whether autograd would record a call with these arguments, the first `tensors` of which are
/// tensors or None.
bool wants_gradient(PyObject* const* arguments, int tensors);

/// record(*tensors, (output, arguments)), whose result has the derivative. Takes over `output`.
PyObject* recorded(PyObject* record, PyObject* output, PyObject* const* arguments, Py_ssize_t count,
                   int tensors);

/// Neither the interpreter's lock nor autograd while an operator runs.
class Detached {
 public:
  Detached();
  ~Detached();
  Detached(const Detached&) = delete;
  Detached& operator=(const Detached&) = delete;

 private:
  PyThreadState* thread_;
  bool grad_enabled_;
};

/// What an argument of type T is read into.
template <class T>
using Read = std::conditional_t<std::is_same_v<T, Tensor>, RequiredTensor, T>;

template <class T>
constexpr bool kIsTensor = std::is_same_v<T, Tensor> || std::is_same_v<T, std::optional<Tensor>>;

/// How many of the leading parameters are tensors: those a derivative is for.
template <class... P>
constexpr int leading_tensors() {
  int count = 0;
  bool leading = true;
  ((leading = leading && kIsTensor<std::decay_t<P>>, count += leading), ...);
  return count;
}

template <class R, class... P>
PyObject* call_plainly(R (*op)(P...), PyObject* record, PyObject* const* arguments,
                       Py_ssize_t count) {
  constexpr int tensors = leading_tensors<P...>();
  if (count != sizeof...(P) || !plain_calls_are_possible()) Py_RETURN_NONE;
  std::tuple<Read<std::decay_t<P>>...> values;
  const bool plain = [&]<size_t... i>(std::index_sequence<i...>) {
    return (read(arguments[i], std::get<i>(values)) && ...);
  }(std::index_sequence_for<P...>{});
  if (!plain) Py_RETURN_NONE;
  std::optional<R> result;
  try {
    const Detached detached;
    result.emplace(std::apply(op, values));
  } catch (const std::exception&) {
    Py_RETURN_NONE;
  }
  PyObject* output = to_python(*result);
  if (output == nullptr || !wants_gradient(arguments, tensors)) return output;
  return recorded(record, output, arguments, count, tensors);
}

template <auto op>
PyObject* plain_call(PyObject* record, PyObject* const* arguments, Py_ssize_t count) {
  return call_plainly(op, record, arguments, count);
}

/// The entry of an operator in a table of plain calls.
template <auto op>
PyMethodDef plain_method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(plain_call<op>)),
          METH_FASTCALL, nullptr};
}

}  // namespace cnnops
