// The short way from Python to a CPU operator, around torch's dispatcher.
//
// A call through the dispatcher costs more than a small convolution: its arguments are boxed twice
// and its lists copied entry by entry. A plain call needs none of what the dispatcher does: its
// tensors are ordinary dense ones on the CPU, no autocast, mode, transform or trace is active, and
// its integers are of type int. `plain_call<op>` reads the arguments by the C++ types of `op`, runs
// it, and records the derivative where one is wanted. For any other call, and for one that raises,
// it returns None: the caller then takes the long way, whose errors and results are the reference.
//
// An operator may have a second plain call, which takes the number of spatial axes and then the
// arguments of a function of torch.nn.functional: expanding them here costs next to nothing, in
// Python as much as a small convolution.
#pragma once

#include <Python.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tensor.h"

namespace cnnops {

/// The plain calls of the operators in conv.cpp and pool.cpp, and of functions: their `self` is
/// what records the derivative; ended by a null.
extern PyMethodDef conv_plain_calls[];
extern PyMethodDef pool_plain_calls[];

/// plain_call(name, record): the plain call `name` of these, that has `record` called where a
/// derivative is wanted; with None for `record` it is not plain there.
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
bool read(PyObject* from, std::vector<Tensor>& to);
bool read(PyObject* from, IntList& to);
bool read(PyObject* from, int64_t& to);
bool read(PyObject* from, std::optional<int64_t>& to);
bool read(PyObject* from, bool& to);
bool read(PyObject* from, std::string& to);

/// Reads a number of spatial axes.
bool read_rank(PyObject* from, int& rank);

/// Reads an argument of a function with `rank` spatial axes. A list has an entry for each axis; an
/// int stands for one that has it everywhere.
bool read(PyObject* from, IntList& to, int rank);
template <class T>
bool read(PyObject* from, T& to, int) {
  return read(from, to);
}

/// A new reference to the object of Python, or null with an exception set. Those that were read
/// from an object are equal to it.
PyObject* to_python(const Tensor& tensor);
PyObject* to_python(const std::optional<Tensor>& tensor);
inline PyObject* to_python(const RequiredTensor& tensor) { return to_python(*tensor.tensor); }
PyObject* to_python(const std::vector<Tensor>& tensors);
PyObject* to_python(const IntList& list);
PyObject* to_python(int64_t value);
PyObject* to_python(const std::optional<int64_t>& value);
PyObject* to_python(bool value);
PyObject* to_python(const std::string& text);
template <class... T>
PyObject* to_python(const std::tuple<T...>& values);

inline PyObject* new_reference(PyObject* object) {
  Py_INCREF(object);
  return object;
}

/// The tuple of entry<0>(), entry<1>() and so on, new references all; null with an exception set
/// where one of them is.
template <size_t count, class F>
PyObject* tuple_of(const F& entry) {
  PyObject* tuple = PyTuple_New(count);
  if (tuple == nullptr) return nullptr;
  const auto set = [tuple](size_t i, PyObject* object) {
    return object != nullptr && PyTuple_SetItem(tuple, i, object) == 0;
  };
  const bool complete = [&]<size_t... i>(std::index_sequence<i...>) {
    return (set(i, entry.template operator()<i>()) && ...);
  }(std::make_index_sequence<count>());
  if (complete) return tuple;
  Py_DECREF(tuple);
  return nullptr;
}

template <class... T>
PyObject* to_python(const std::tuple<T...>& values) {
  return tuple_of<sizeof...(T)>([&]<size_t i>() { return to_python(std::get<i>(values)); });
}

/// Whether autograd would record a call with these tensors, of which some may be None.
bool wants_gradient(PyObject* const* tensors, int count);

/// record(*tensors, (output, arguments)), whose result has the derivative. Takes over `output` and
/// `arguments`, one of which may be null with an exception set.
PyObject* recorded(PyObject* record, PyObject* const* tensors, int count, PyObject* output,
                   PyObject* arguments);

/// No autograd while an operator runs, and unless it does little, not the interpreter's lock.
class Detached {
 public:
  explicit Detached(bool does_little);
  ~Detached();
  Detached(const Detached&) = delete;
  Detached& operator=(const Detached&) = delete;

 private:
  PyThreadState* thread_ = nullptr;
  bool grad_enabled_;
};

/// What an argument of type T is read into.
template <class T>
using Read = std::conditional_t<std::is_same_v<T, Tensor>, RequiredTensor, T>;

template <class T>
constexpr bool kIsTensor = std::is_same_v<T, Tensor> || std::is_same_v<T, std::optional<Tensor>>;

/// How many of the leading parameters are tensors that a derivative may be for. The last parameter
/// never is: it is no tensor, or has indices.
template <class... P>
constexpr int leading_tensors() {
  int count = 0;
  bool leading = true;
  ((leading = leading && kIsTensor<std::decay_t<P>>, count += leading), ...);
  return count < int(sizeof...(P)) ? count : count - 1;
}

inline double elements(const RequiredTensor& tensor) {
  return static_cast<double>(tensor.tensor->numel());
}
inline double elements(const std::optional<Tensor>& tensor) {
  return tensor ? static_cast<double>(tensor->numel()) : 1;
}

/// The plain calls of an operator.
template <auto op>
struct PlainCall;
template <class R, class... P, R (*op)(P...)>
struct PlainCall<op> {
  /// A value for each parameter.
  using Values = std::tuple<Read<std::decay_t<P>>...>;

  /// How many of them are tensors that a derivative is for.
  static constexpr int kTensors = leading_tensors<P...>();

  /// Whether the call is over before another thread would have the interpreter's lock: not even if
  /// each element of a tensor meets each of the others.
  static bool does_little(const Values& values) {
    constexpr double kLittle = 1 << 16;
    const double meetings = [&]<size_t... i>(std::index_sequence<i...>) {
      return (elements(std::get<i>(values)) * ...);
    }(std::make_index_sequence<kTensors>());
    return meetings <= kLittle;
  }

  /// Runs the operator; its leading tensors are those that `tensors` are the objects of.
  static PyObject* run(PyObject* record, PyObject* const* tensors, const Values& values) {
    const bool differentiable = wants_gradient(tensors, kTensors);
    if (record == Py_None && differentiable) Py_RETURN_NONE;
    std::optional<R> result;
    try {
      const Detached detached(does_little(values));
      result.emplace(std::apply(op, values));
    } catch (const std::exception&) {
      Py_RETURN_NONE;
    }
    PyObject* output = to_python(*result);
    if (output == nullptr || !differentiable) return output;
    return recorded(record, tensors, kTensors, output, arguments_of(tensors, values));
  }

 private:
  /// The arguments of the operator as Python's objects.
  static PyObject* arguments_of(PyObject* const* tensors, const Values& values) {
    return tuple_of<sizeof...(P)>([&]<size_t i>() {
      return i < kTensors ? new_reference(tensors[i]) : to_python(std::get<i>(values));
    });
  }
};

/// The operator `op` with its own arguments.
template <auto op>
PyObject* plain_call(PyObject* record, PyObject* const* arguments, Py_ssize_t count) {
  using Call = PlainCall<op>;
  typename Call::Values values;
  const auto read_each = [&](auto&... to) {
    PyObject* const* next = arguments;
    return count == sizeof...(to) && plain_calls_are_possible() && (read(*next++, to) && ...);
  };
  if (!std::apply(read_each, values)) Py_RETURN_NONE;
  return Call::run(record, arguments, values);
}

/// Reads the arguments of a function: the number of spatial axes and what goes into `to`, in order.
template <class... T>
bool read_function(PyObject* const* arguments, Py_ssize_t count, int& rank, T&... to) {
  return count == 1 + sizeof...(to) && plain_calls_are_possible() && read_rank(*arguments, rank) &&
         (read(*++arguments, to, rank) && ...);
}

/// A function that has the arguments of `op`.
template <auto op>
PyObject* plain_function(PyObject* record, PyObject* const* arguments, Py_ssize_t count) {
  using Call = PlainCall<op>;
  typename Call::Values values;
  int rank = 0;
  const auto read_each = [&](auto&... to) { return read_function(arguments, count, rank, to...); };
  if (!std::apply(read_each, values)) Py_RETURN_NONE;
  return Call::run(record, arguments + 1, values);
}

/// The entry of `function` in a table of plain calls.
template <PyObject* (*function)(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef plain_method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL, nullptr};
}

}  // namespace cnnops
