// The setting lives in ATen, which the stable ABI does not reach; Python does.
#include "precision.h"

#include <Python.h>

namespace cnnops {
namespace {

/// The attribute `name` of `object`, whose reference it takes; nullptr with an exception set where
/// there is none, or where `object` is nullptr already.
PyObject* attribute(PyObject* object, const char* name) {
  if (object == nullptr) return nullptr;
  PyObject* value = PyObject_GetAttrString(object, name);
  Py_DECREF(object);
  return value;
}

}  // namespace

std::string conv_precision(const char* backend) {
  if (!Py_IsInitialized()) return "";
  // Operators run without the interpreter's lock, some of them on autograd's threads.
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* module = PyImport_ImportModule(("torch.backends." + std::string(backend)).c_str());
  PyObject* value = attribute(attribute(module, "conv"), "fp32_precision");
  PyObject* bytes = value != nullptr ? PyUnicode_AsUTF8String(value) : nullptr;
  const char* text = bytes != nullptr ? PyBytes_AsString(bytes) : nullptr;
  const std::string precision = text != nullptr ? text : "";
  if (PyErr_Occurred() != nullptr) PyErr_Clear();
  Py_XDECREF(bytes);
  Py_XDECREF(value);
  PyGILState_Release(state);
  return precision;
}

}  // namespace cnnops
