// Which kernel runs which convolution. The rules look at the shape, the layout, the width of a
// register and whether Winograd and AMX are allowed, so the choice, and with it every rounding, is
// the same on any number of threads. A choice comes with its reason, which `cnnops.plan` prints.
//
// plan_of has an order of questions for each of the three contractions; what it asks, and the
// limits that answer, are beside each other by families of kernels, in the other files of plan/.
#pragma once

#include "cpu/plan/forward.h"
#include "cpu/plan/input_gradient.h"
#include "cpu/plan/weight.h"
