// The library torch.ops.cnnops and the Python module that loads it. Implementations register
// themselves per device: cpu/conv.cpp, cpu/pool.cpp.
#include <Python.h>
#include <torch/csrc/stable/library.h>

#include <exception>
#include <string>

#include "cpu/dispatch.h"
#include "cpu/plain_call.h"
#include "cpu/plan_notes.h"
#include "schemas.h"

STABLE_TORCH_LIBRARY(cnnops, m) { cnnops::define_schemas(m); }

namespace {

PyObject* isa(PyObject*, PyObject*) {
  try {
    return PyUnicode_FromString(cnnops::current_isa());
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
    return nullptr;
  }
}

/// A list of to_item(each) of `all`; null, with Python's error set, where one of them is null.
template <class Range, class ToItem>
PyObject* list_of(const Range& all, const ToItem& to_item) {
  PyObject* list = PyList_New(0);
  if (list == nullptr) return nullptr;
  for (const auto& each : all) {
    PyObject* item = to_item(each);
    if (item == nullptr || PyList_Append(list, item) < 0) {
      Py_XDECREF(item);
      Py_DECREF(list);
      return nullptr;
    }
    Py_DECREF(item);
  }
  return list;
}

PyObject* available_isas(PyObject*, PyObject*) {
  return list_of(cnnops::available_isas(),
                 [](const char* name) { return PyUnicode_FromString(name); });
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

PyObject* take_plans(PyObject*, PyObject*) {
  std::vector<cnnops::PlanNote> notes;
  notes.swap(cnnops::plan_notes());
  const auto number = [](int64_t value) { return static_cast<long long>(value); };
  return list_of(notes, [&](const cnnops::PlanNote& note) {
    const cnnops::Footprint& takes = note.footprint;
    return Py_BuildValue("(ssLLLLL)", note.algorithm, note.reason, number(takes.tile_rows),
                         number(takes.tile_columns), number(takes.shared), number(takes.per_thread),
                         number(note.held));
  });
}

PyMethodDef methods[] = {
    {"isa", isa, METH_NOARGS, "isa() -> str: the instruction set whose kernels run now."},
    {"available_isas", available_isas, METH_NOARGS,
     "available_isas() -> list[str]: instruction sets this CPU and this build both have."},
    {"set_isa", set_isa, METH_O,
     "set_isa(name): run the kernels of this instruction set; RuntimeError where unavailable."},
    {"take_plans", take_plans, METH_NOARGS,
     "take_plans() -> list of (algorithm, reason, tile_rows, tile_columns, shared, per_thread, "
     "held): what calls of torch.ops.cnnops_plan in this thread noted since the last time."},
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
