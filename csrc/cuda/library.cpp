// The Python module of the CUDA library: importing it registers the operators for CUDA tensors,
// next to those of the CPU, with the schemas that cnnops._C has defined.
#include <Python.h>

namespace {

PyObject* archs(PyObject*, PyObject*) { return PyUnicode_FromString(CNNOPS_CUDA_ARCHS); }

PyMethodDef methods[] = {
    {"archs", archs, METH_NOARGS,
     "archs() -> str: the architectures that this library has code for, as "
     "TORCH_CUDA_ARCH_LIST writes them: '8.0;9.0+PTX'."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT,
                      "_cuda",
                      "CUDA kernels of cnnops.",
                      -1,
                      methods,
                      nullptr,
                      nullptr,
                      nullptr,
                      nullptr};

}  // namespace

extern "C" PyMODINIT_FUNC PyInit__cuda() { return PyModule_Create(&module); }
