#include "cpu/plain_call.h"

#include <torch/csrc/stable/c/shim.h>

#include <cstring>

#include "padding.h"

// Since torch 2.14; null with an older one, where every call goes the long way.
extern "C" {
[[gnu::weak]] AOTITorchError torch_tensor_from_pyobject(void* object, AtenTensorHandle* tensor);
[[gnu::weak]] AOTITorchError torch_tensor_to_pyobject(AtenTensorHandle tensor, void* type,
                                                      void** object);
[[gnu::weak]] AOTITorchError torch_has_storage(AtenTensorHandle tensor, bool* has_storage);
}

namespace cnnops {
namespace {

/// What `set_plain` said is plain; both are tuples.
PyObject* tensor_types = nullptr;
PyObject* guards = nullptr;

PyObject* interned(const char* name) { return PyUnicode_InternFromString(name); }

/// Whether the attribute or the result is the object True or False that is `expected`.
bool is_bool(PyObject* owned, bool expected) {
  if (owned == nullptr) {
    PyErr_Clear();
    return false;
  }
  Py_DECREF(owned);
  return owned == (expected ? Py_True : Py_False);
}

bool has_plain_type(PyObject* object) {
  PyObject* type = reinterpret_cast<PyObject*>(Py_TYPE(object));
  for (Py_ssize_t i = 0; i < PyTuple_Size(tensor_types); ++i) {
    if (type == PyTuple_GetItem(tensor_types, i)) return true;
  }
  return false;
}

/// Calls read_item(item) for each entry of a list or tuple; whether it is one and all were read.
template <class ReadItem>
bool read_list(PyObject* from, const ReadItem& read_item) {
  const bool is_tuple = PyTuple_CheckExact(from);
  if (!is_tuple && !PyList_CheckExact(from)) return false;
  const Py_ssize_t size = is_tuple ? PyTuple_Size(from) : PyList_Size(from);
  for (Py_ssize_t i = 0; i < size; ++i) {
    if (!read_item(is_tuple ? PyTuple_GetItem(from, i) : PyList_GetItem(from, i))) return false;
  }
  return true;
}

}  // namespace

bool plain_calls_are_possible() {
  if (torch_tensor_from_pyobject == nullptr || torch_tensor_to_pyobject == nullptr ||
      torch_has_storage == nullptr || guards == nullptr) {
    return false;
  }
  const Py_ssize_t count = PyTuple_Size(guards);
  for (Py_ssize_t i = 0; i < count; ++i) {
    PyObject* answer = PyObject_CallNoArgs(PyTuple_GetItem(guards, i));
    const int unusual = answer == nullptr ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    if (unusual == 0) continue;
    PyErr_Clear();
    return false;
  }
  return true;
}

bool read(PyObject* from, std::optional<Tensor>& to) {
  static PyObject* const is_nested = interned("is_nested");
  static PyObject* const is_neg = interned("is_neg");
  if (from == Py_None) return true;
  if (!has_plain_type(from)) return false;
  if (!is_bool(PyObject_GetAttr(from, is_nested), false)) return false;
  if (!is_bool(PyObject_CallMethodObjArgs(from, is_neg, nullptr), false)) return false;
  AtenTensorHandle handle = nullptr;
  if (torch_tensor_from_pyobject(from, &handle) != TORCH_SUCCESS) return false;
  to = Tensor(handle);
  int32_t device = -1, layout = -1;
  bool has_storage = false;
  const void* data = nullptr;
  // Wrappers of other tensors and tensors of zeros without memory have no address.
  return aoti_torch_get_device_type(handle, &device) == TORCH_SUCCESS &&
         device == aoti_torch_device_type_cpu() &&
         aoti_torch_get_layout(handle, &layout) == TORCH_SUCCESS &&
         layout == aoti_torch_layout_strided() &&
         torch_has_storage(handle, &has_storage) == TORCH_SUCCESS && has_storage &&
         torch_get_const_data_ptr(handle, &data) == TORCH_SUCCESS && data != nullptr;
}

bool read(PyObject* from, RequiredTensor& to) { return from != Py_None && read(from, to.tensor); }

bool read(PyObject* from, std::vector<Tensor>& to) {
  return read_list(from, [&](PyObject* item) {
    RequiredTensor tensor;
    if (!read(item, tensor)) return false;
    to.push_back(tensor);
    return true;
  });
}

bool read(PyObject* from, int64_t& to) {
  if (!PyLong_CheckExact(from)) return false;
  int overflow = 0;
  to = PyLong_AsLongLongAndOverflow(from, &overflow);
  return overflow == 0;
}

bool read(PyObject* from, std::optional<int64_t>& to) {
  return from == Py_None || read(from, to.emplace());
}

bool read(PyObject* from, IntList& to) {
  return read_list(from, [&](PyObject* item) { return read(item, to.emplace_back()); });
}

bool read_rank(PyObject* from, int& rank) {
  int64_t value = 0;
  if (!read(from, value) || value < 1 || value > kAxes) return false;
  rank = static_cast<int>(value);
  return true;
}

bool read(PyObject* from, IntList& to, int rank) {
  int64_t everywhere = 0;
  if (!read(from, everywhere)) return read(from, to) && to.size() == static_cast<size_t>(rank);
  to.assign(rank, everywhere);
  return true;
}

bool read(PyObject* from, bool& to) {
  to = from == Py_True;
  return PyBool_Check(from);
}

bool read(PyObject* from, std::string& to) {
  if (!PyUnicode_CheckExact(from)) return false;
  Py_ssize_t size = 0;
  const char* text = PyUnicode_AsUTF8AndSize(from, &size);
  if (text == nullptr) {
    PyErr_Clear();
    return false;
  }
  to.assign(text, size);
  return true;
}

namespace {

template <class T>
PyObject* tuple_from(const std::vector<T>& list) {
  PyObject* tuple = PyTuple_New(static_cast<Py_ssize_t>(list.size()));
  for (size_t i = 0; tuple != nullptr && i < list.size(); ++i) {
    PyObject* entry = to_python(list[i]);
    if (entry == nullptr) Py_CLEAR(tuple);
    if (entry != nullptr) PyTuple_SetItem(tuple, i, entry);
  }
  return tuple;
}

}  // namespace

PyObject* to_python(const Tensor& tensor) {
  void* object = nullptr;
  if (torch_tensor_to_pyobject(tensor.get(), nullptr, &object) != TORCH_SUCCESS) {
    PyErr_SetString(PyExc_RuntimeError, "cnnops: torch could not make a Python tensor");
    return nullptr;
  }
  return static_cast<PyObject*>(object);
}

PyObject* to_python(const std::optional<Tensor>& tensor) {
  if (tensor) return to_python(*tensor);
  Py_RETURN_NONE;
}

PyObject* to_python(const std::vector<Tensor>& tensors) { return tuple_from(tensors); }

PyObject* to_python(const IntList& list) { return tuple_from(list); }

PyObject* to_python(int64_t value) { return PyLong_FromLongLong(value); }

PyObject* to_python(const std::optional<int64_t>& value) {
  if (value) return to_python(*value);
  Py_RETURN_NONE;
}

PyObject* to_python(bool value) { return PyBool_FromLong(value); }

PyObject* to_python(const std::string& text) {
  return PyUnicode_FromStringAndSize(text.data(), static_cast<Py_ssize_t>(text.size()));
}

bool wants_gradient(PyObject* const* tensors, int count) {
  static PyObject* const requires_grad = interned("requires_grad");
  if (!aoti_torch_grad_mode_is_enabled()) return false;
  for (int i = 0; i < count; ++i) {
    if (tensors[i] == Py_None) continue;
    if (is_bool(PyObject_GetAttr(tensors[i], requires_grad), true)) return true;
  }
  return false;
}

PyObject* recorded(PyObject* record, PyObject* const* tensors, int count, PyObject* output,
                   PyObject* arguments) {
  PyObject* done = arguments == nullptr ? nullptr : PyTuple_Pack(2, output, arguments);
  Py_DECREF(output);
  Py_XDECREF(arguments);
  PyObject* all = done == nullptr ? nullptr : PyTuple_New(count + 1);
  if (all == nullptr) {
    Py_XDECREF(done);
    return nullptr;
  }
  for (int i = 0; i < count; ++i) {
    PyTuple_SetItem(all, i, new_reference(tensors[i]));
  }
  PyTuple_SetItem(all, count, done);
  PyObject* result = PyObject_Call(record, all, nullptr);
  Py_DECREF(all);
  return result;
}

Detached::Detached(bool does_little) : grad_enabled_(aoti_torch_grad_mode_is_enabled()) {
  if (!does_little) thread_ = PyEval_SaveThread();
  if (grad_enabled_) aoti_torch_grad_mode_set_enabled(false);
}

Detached::~Detached() {
  if (grad_enabled_) aoti_torch_grad_mode_set_enabled(true);
  if (thread_ != nullptr) PyEval_RestoreThread(thread_);
}

namespace {

PyMethodDef* find(const char* name) {
  for (PyMethodDef* table : {conv_plain_calls, pool_plain_calls}) {
    for (PyMethodDef* method = table; method->ml_name != nullptr; ++method) {
      if (std::strcmp(name, method->ml_name) == 0) return method;
    }
  }
  return nullptr;
}

}  // namespace

PyObject* bind_plain_call(PyObject*, PyObject* arguments) {
  const char* name = nullptr;
  PyObject* record = nullptr;
  if (!PyArg_ParseTuple(arguments, "sO", &name, &record)) return nullptr;
  PyMethodDef* method = find(name);
  if (method == nullptr) return PyErr_Format(PyExc_ValueError, "no plain call is named '%s'", name);
  return PyCFunction_NewEx(method, record, nullptr);
}

PyObject* set_plain(PyObject*, PyObject* arguments) {
  PyObject *types = nullptr, *functions = nullptr;
  if (!PyArg_ParseTuple(arguments, "O!O!", &PyTuple_Type, &types, &PyTuple_Type, &functions)) {
    return nullptr;
  }
  Py_INCREF(types);
  Py_INCREF(functions);
  Py_XDECREF(tensor_types);
  Py_XDECREF(guards);
  tensor_types = types;
  guards = functions;
  Py_RETURN_NONE;
}

}  // namespace cnnops
