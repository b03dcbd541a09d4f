// The setting lives in ATen, which the stable ABI does not reach; Python does.
#include <Python.h>

#include "checks.h"
#include "cuda/precision.h"

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

bool allows_tf32() {
  // Operators run without the interpreter's lock, some of them on autograd's threads.
  const PyGILState_STATE state = PyGILState_Ensure();
  PyObject* backend = PyImport_ImportModule("torch.backends.cudnn");
  PyObject* precision = attribute(attribute(backend, "conv"), "fp32_precision");
  const bool known = precision != nullptr && PyUnicode_Check(precision);
  const bool allowed = known && PyUnicode_CompareWithASCIIString(precision, "tf32") == 0;
  if (precision == nullptr) PyErr_Clear();
  Py_XDECREF(precision);
  PyGILState_Release(state);
  CNNOPS_CHECK(known, "cannot read torch.backends.cudnn.conv.fp32_precision");
  return allowed;
}

}  // namespace cnnops
