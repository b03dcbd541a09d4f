// The operator schemas of torch.ops.cnnops and the Python module that loads them.
//
// Every operator takes batched (N, C, *spatial) or unbatched (C, *spatial) tensors of one, two or
// three spatial axes; the length of the kernel or output size says which. `padding` of the
// convolutions lists (begin, end) for each spatial axis, outermost axis first. Implementations
// register themselves per device: cpu/conv.cpp, cpu/pool.cpp.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/plain_call.h"

#define CONVOLUTION_ARGUMENTS \
  "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, str padding_mode"
#define MAX_POOL_ARGUMENTS \
  "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool ceil_mode"
#define AVG_POOL_ARGUMENTS                                                    \
  "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, bool ceil_mode, " \
  "bool count_include_pad, SymInt? divisor_override"

STABLE_TORCH_LIBRARY(cnnops, m) {
  // The three contractions of <conv(x, w), g>; each is the derivative of the other two.
  m.def("convolution(Tensor input, Tensor weight, Tensor? bias, " CONVOLUTION_ARGUMENTS
        ") -> Tensor");
  m.def(
      "convolution_grad_input(Tensor grad_output, Tensor weight, Tensor? bias, "
      "SymInt[] input_size, " CONVOLUTION_ARGUMENTS ") -> Tensor");
  m.def(
      "convolution_grad_weight(Tensor grad_output, Tensor input, SymInt[] kernel_size, " CONVOLUTION_ARGUMENTS
      ") -> Tensor");

  // Max pooling: `indices` are torch's, int64 offsets into the flattened spatial plane.
  m.def("max_pool(Tensor input, " MAX_POOL_ARGUMENTS ") -> Tensor");
  m.def("max_pool_with_indices(Tensor input, " MAX_POOL_ARGUMENTS ") -> (Tensor, Tensor)");
  m.def("adaptive_max_pool(Tensor input, SymInt[] output_size) -> (Tensor, Tensor)");
  m.def(
      "fractional_max_pool(Tensor input, SymInt[] kernel_size, SymInt[] output_size, "
      "Tensor random_samples) -> (Tensor, Tensor)");
  // out[indices[i]] += grad_output[i] per plane: the adjoint of every max pooling.
  m.def("max_pool_backward(Tensor grad_output, Tensor indices, SymInt[] input_size) -> Tensor");
  // out[i] = input[indices[i]] per plane: the adjoint of max_pool_backward and of max_unpool.
  m.def("max_pool_gather(Tensor input, Tensor indices) -> Tensor");
  // out[indices[i]] = input[i] per plane, zero elsewhere.
  m.def("max_unpool(Tensor input, Tensor indices, SymInt[] output_size) -> Tensor");

  m.def("avg_pool(Tensor input, " AVG_POOL_ARGUMENTS ") -> Tensor");
  m.def("avg_pool_backward(Tensor grad_output, SymInt[] input_size, " AVG_POOL_ARGUMENTS
        ") -> Tensor");
  m.def("adaptive_avg_pool(Tensor input, SymInt[] output_size) -> Tensor");
  m.def("adaptive_avg_pool_backward(Tensor grad_output, SymInt[] input_size) -> Tensor");
}

namespace {

PyObject* isa(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(cnnops::current_isa());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

PyObject* available_isas(PyObject*, PyObject*) {
  const auto& names = cnnops::available_isas();
  PyObject* list = PyList_New(0);
  if (list == nullptr) return nullptr;
  for (const char* name : names) {
    PyObject* item = PyUnicode_FromString(name);
    if (item == nullptr || PyList_Append(list, item) < 0) {
      Py_XDECREF(item);
      Py_DECREF(list);
      return nullptr;
    }
    Py_DECREF(item);
  }
  return list;
}

PyObject* set_isa(PyObject*, PyObject* name) {
  PyObject* bytes = PyUnicode_AsUTF8String(name);
  if (bytes == nullptr) return nullptr;
  char* text = nullptr;
  // Without a length to fill, a name with a zero byte inside is a ValueError.
  if (PyBytes_AsStringAndSize(bytes, &text, nullptr) != 0) {
    Py_DECREF(bytes);
    return nullptr;
  }
  try {
    cnnops::set_isa(text);
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  Py_DECREF(bytes);
  if (PyErr_Occurred() != nullptr) return nullptr;
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"isa", isa, METH_NOARGS, "isa() -> str: the instruction set whose kernels run now."},
    {"available_isas", available_isas, METH_NOARGS,
     "available_isas() -> list[str]: instruction sets this CPU and this build both have."},
    {"set_isa", set_isa, METH_O,
     "set_isa(name): run the kernels of this instruction set; RuntimeError where unavailable."},
    {"plain_call", cnnops::bind_plain_call, METH_VARARGS,
     "plain_call(name, record): the short way to an operator; see csrc/cpu/plain_call.h."},
    {"set_plain", cnnops::set_plain, METH_VARARGS,
     "set_plain(types, guards): which tensors are plain, and what must say no."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_C",
                      "Schemas and CPU kernels of cnnops.",
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

extern "C" PyMODINIT_FUNC PyInit__C() {
  // A CNNOPS_ISA that this machine cannot run is reported at import, not at the first convolution.
  try {
    cnnops::current_isa();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_ImportError, error.what());
    return nullptr;
  }
  return PyModule_Create(&module);
}
