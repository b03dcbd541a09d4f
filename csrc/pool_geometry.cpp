#include "pool_geometry.h"

#include <algorithm>

namespace cnnops {
namespace {

constexpr const char* kLetters = "THW";
constexpr const char* kAxisNames[] = {"time", "height", "width"};

/// "max_pool" of rank 2 is torch's "max_pool2d", "avg_pool_backward" its "avg_pool2d_backward".
std::string torch_name(const std::string& name, int64_t rank) {
  const size_t at = std::min(name.find("_backward"), name.size());
  return join(name.substr(0, at), rank, "d", name.substr(at));
}

/// One parameter on every axis that the tensors have.
struct PerAxis {
  int rank;
  int64_t value[3];

  int64_t operator[](int i) const { return value[i]; }
  const int64_t* begin() const { return value; }
  const int64_t* end() const { return value + rank; }
  IntSpan list() const { return {begin(), end()}; }
};

/// Its values as torch prints them: "kH: 3 kW: 2".
std::string by_axis(const char* prefix, const PerAxis& each) {
  const IntSpan values = each.list();
  std::string text;
  for (size_t i = 0; i < values.size(); ++i) {
    text += join(i ? " " : "", prefix, kLetters[3 - values.size() + i], ": ", values[i]);
  }
  return text;
}

bool any_empty(IntSpan sizes, size_t from) {
  return std::any_of(sizes.begin() + from, sizes.end(), [](int64_t size) { return size == 0; });
}

int checked_rank(const char* name, const char* what, IntSpan list) {
  CNNOPS_CHECK(!list.empty() && list.size() <= 3, name, ": ", what,
               " must have one, two or three entries, but got ", list);
  return static_cast<int>(list.size());
}

/// Fills rank, batch, channels and the sizes of one side from tensor sizes.
PoolGeometry tensor_geometry(const char* name, IntSpan sizes, int rank, int64_t PoolAxis::* side) {
  const int dim = static_cast<int>(sizes.size());
  CNNOPS_CHECK(dim == rank + 1 || dim == rank + 2, torch_name(name, rank), ": Expected ",
               rank == 3 ? "non-empty " : "", rank + 1, "D or ", rank + 2,
               "D (batch mode) tensor with optional 0 dim batch size for input, but got:", sizes);
  PoolGeometry g;
  g.rank = rank;
  g.batched = dim == rank + 2;
  g.batch = g.batched ? sizes[0] : 1;
  g.channels = sizes[dim - rank - 1];
  for (int i = 0; i < rank; ++i) g.axis[3 - rank + i].*side = sizes[dim - rank + i];
  return g;
}

/// What `list` says for each axis. torch's CPU operators keep these as int.
PerAxis expanded(const char* name, const char* what, IntSpan list, int rank) {
  CNNOPS_CHECK(list.size() == 1 || list.size() == static_cast<size_t>(rank), torch_name(name, rank),
               ": ", what, " must either be a single int, or a tuple of ", rank, " ints, but got ",
               list);
  PerAxis all{rank, {}};
  for (int i = 0; i < rank; ++i) all.value[i] = list[list.size() == 1 ? 0 : i];
  for (int64_t value : all) {
    CNNOPS_CHECK(value == static_cast<int32_t>(value),
                 "value cannot be converted to type int without overflow: ", what, "=", all.list());
  }
  return all;
}

template <class List>
bool all_positive(const List& list) {
  return std::all_of(list.begin(), list.end(), [](int64_t value) { return value > 0; });
}

/// torch's pooling_output_shape. Every parameter fits 32 bits here, so only sums with `input`
/// can overflow.
int64_t output_size(const PoolAxis& axis, bool ceil_mode) {
  const int64_t reach = axis.dilation * (axis.kernel - 1);
  const int64_t room =
      checked_add(axis.input, 2 * axis.padding - reach - 1 + (ceil_mode ? axis.stride - 1 : 0));
  // Division that rounds down, of a number that is negative when the window does not fit.
  int64_t size = room / axis.stride - (room % axis.stride < 0 ? 1 : 0) + 1;
  // The last window must start inside the input or the padding before it.
  if (ceil_mode && (size - 1) * axis.stride >= axis.input + axis.padding) --size;
  return size;
}

void set_windows(const char* name, const PoolArguments& arguments, PoolGeometry* g) {
  const int rank = g->rank;
  const PerAxis kernel = expanded(name, "kernel_size", arguments.kernel_size, rank);
  const PerAxis stride =
      arguments.stride.empty() ? kernel : expanded(name, "stride", arguments.stride, rank);
  const PerAxis padding = expanded(name, "padding", arguments.padding, rank);
  const PerAxis dilation = expanded(name, "dilation", arguments.dilation, rank);
  CNNOPS_CHECK(all_positive(kernel), "kernel size should be greater than zero, but got ",
               by_axis("k", kernel));
  CNNOPS_CHECK(std::count(stride.begin(), stride.end(), 0) == 0,
               "stride should not be zero, but got ", by_axis("d", stride));
  CNNOPS_CHECK(all_positive(stride), "stride should be greater than zero, but got ",
               by_axis("d", stride));
  CNNOPS_CHECK(all_positive(dilation), "dilation should be greater than zero, but got ",
               by_axis("dilation", dilation));
  for (int i = 0; i < rank; ++i) {
    CNNOPS_CHECK(padding[i] >= 0, "pad must be non-negative, but got pad: ", padding[i]);
    CNNOPS_CHECK(padding[i] <= ((kernel[i] - 1) * dilation[i] + 1) / 2,
                 "pad should be at most half of effective kernel size, but got pad=", padding[i],
                 ", kernel_size=", kernel[i], " and dilation=", dilation[i]);
    CNNOPS_CHECK(padding[i] <= kernel[i] / 2,
                 "pad should be smaller than or equal to half of kernel size, but got ",
                 by_axis("pad", padding), ", ", by_axis("k", kernel));
    PoolAxis& axis = g->axis[3 - rank + i];
    axis.kernel = kernel[i];
    axis.stride = stride[i];
    axis.padding = padding[i];
    axis.dilation = dilation[i];
  }
}

void check_adaptive_output(const char* name, AdaptiveKind kind, IntSpan output_size) {
  for (int64_t size : output_size) {
    CNNOPS_CHECK(size >= 0 || kind == AdaptiveKind::kAverage,
                 "Trying to create tensor with negative dimension ", size, ": ", output_size);
    CNNOPS_CHECK(size >= 0, torch_name(name, output_size.size()),
                 ": elements of output_size must be greater than or equal to 0 but received ",
                 output_size);
  }
}

/// Makes the windows of every axis adaptive: as many as outputs, spread evenly over the input.
void set_adaptive(PoolGeometry* g) {
  for (PoolAxis& axis : g->axis) axis.stride = 0;
}

/// floor((o * input + more) / output), the product taken in 128 bits where it needs them.
int64_t scaled(int64_t o, const PoolAxis& axis, int64_t more) {
  int64_t product = 0;
  if (!__builtin_mul_overflow(o, axis.input, &product)) return (product + more) / axis.output;
  return static_cast<int64_t>((static_cast<__int128>(o) * axis.input + more) / axis.output);
}

}  // namespace

std::string join_sizes(IntSpan sizes) {
  std::string text;
  for (size_t i = 0; i < sizes.size(); ++i) text += join(i ? "x" : "", sizes[i]);
  return text;
}

IntList PoolGeometry::sizes(int64_t PoolAxis::* side) const {
  IntList sizes;
  sizes.reserve(5);
  if (batched) sizes.push_back(batch);
  sizes.push_back(channels);
  for (int i = 3 - rank; i < 3; ++i) sizes.push_back(axis[i].*side);
  checked_numel(sizes);
  return sizes;
}

PoolGeometry window_pool_geometry(const char* name, IntSpan input_sizes,
                                  const PoolArguments& arguments) {
  const int rank = checked_rank(name, "kernel_size", arguments.kernel_size);
  PoolGeometry g = tensor_geometry(name, input_sizes, rank, &PoolAxis::input);
  set_windows(name, arguments, &g);
  CNNOPS_CHECK(
      !any_empty(input_sizes, g.batched ? 1 : 0), torch_name(name, rank), ": Expected ", rank + 1,
      "D or ", rank + 2,
      "D (batch mode) tensor with optional 0 dim batch size for input, but got:", input_sizes);
  PerAxis input{rank, {}}, output{rank, {}};
  for (int i = 0; i < rank; ++i) {
    PoolAxis& axis = g.axis[3 - rank + i];
    axis.output = output_size(axis, arguments.ceil_mode);
    input.value[i] = axis.input;
    output.value[i] = axis.output;
  }
  CNNOPS_CHECK(all_positive(output), "Given input size: (", g.channels, "x",
               join_sizes(input.list()), "). Calculated output size: (", g.channels, "x",
               join_sizes(output.list()), "). Output size is too small");
  return g;
}

int64_t checked_divisor(const PoolGeometry& g, std::optional<int64_t> divisor_override) {
  const PoolAxis* axis = g.axis;
  // Only torch's 3-d operator asks this; the others let a window hang over with ceil_mode.
  for (int i = 0; i < 3 && g.rank == 3; ++i) {
    CNNOPS_CHECK(axis[i].input >= axis[i].kernel, "input image (T: ", axis[0].input,
                 " H: ", axis[1].input, " W: ", axis[2].input,
                 ") smaller than kernel size (kT: ", axis[0].kernel, " kH: ", axis[1].kernel,
                 " kW: ", axis[2].kernel, ")");
  }
  CNNOPS_CHECK(divisor_override.value_or(1) != 0, "divisor must be not zero, but got 0");
  checked_mul(checked_mul(axis[0].kernel, axis[1].kernel), axis[2].kernel);
  return divisor_override.value_or(0);
}

PoolGeometry window_pool_backward_geometry(const char* name, IntSpan grad_sizes, IntSpan input_size,
                                           const PoolArguments& arguments) {
  const int rank = checked_rank(name, "kernel_size", arguments.kernel_size);
  tensor_geometry(name, grad_sizes, rank, &PoolAxis::output);  // checks the number of axes
  CNNOPS_CHECK(input_size.size() == static_cast<size_t>(rank), torch_name(name, rank),
               ": input_size must have ", rank, " elements, but got ", input_size);
  checked_numel(input_size);
  IntList input_sizes(grad_sizes.begin(), grad_sizes.end() - rank);
  input_sizes.insert(input_sizes.end(), input_size.begin(), input_size.end());
  const PoolGeometry g = window_pool_geometry(name, input_sizes, arguments);
  check_sizes("grad_output", grad_sizes, g.output_sizes());
  return g;
}

PoolGeometry adaptive_pool_geometry(const char* name, AdaptiveKind kind, IntSpan input_sizes,
                                    IntSpan output_size) {
  const int rank = checked_rank(name, "output_size", output_size);
  check_adaptive_output(name, kind, output_size);
  PoolGeometry g = tensor_geometry(name, input_sizes, rank, &PoolAxis::input);
  // The mean of everything is torch.mean there: NaN for nothing. The averages of 1-d and 2-d
  // inputs also accept a tensor without channels.
  const bool mean =
      kind == AdaptiveKind::kAverage &&
      std::all_of(output_size.begin(), output_size.end(), [](int64_t size) { return size == 1; });
  const size_t from = kind == AdaptiveKind::kAverage && rank < 3 ? input_sizes.size() - rank : 1;
  for (size_t i = from; i < input_sizes.size() && !mean; ++i) {
    CNNOPS_CHECK(input_sizes[i] > 0, torch_name(name, rank),
                 "(): Expected input to have non-zero size for non-batch dimensions, but input ",
                 "has sizes ", input_sizes, " with dimension ", i, " being empty");
  }
  for (int i = 0; i < rank; ++i) g.axis[3 - rank + i].output = output_size[i];
  set_adaptive(&g);
  return g;
}

PoolGeometry adaptive_pool_backward_geometry(const char* name, IntSpan grad_sizes,
                                             IntSpan input_size) {
  const int rank = checked_rank(name, "input_size", input_size);
  checked_numel(input_size);
  PoolGeometry g = tensor_geometry(name, grad_sizes, rank, &PoolAxis::output);
  for (size_t i = grad_sizes.size() - rank; i < grad_sizes.size(); ++i) {
    CNNOPS_CHECK(grad_sizes[i] > 0, torch_name(name, rank),
                 "(): Expected grad_output to have non-zero size for non-batch dimensions, but ",
                 "grad_output has sizes ", grad_sizes, " with dimension ", i, " being empty");
  }
  for (int i = 0; i < rank; ++i) g.axis[3 - rank + i].input = input_size[i];
  set_adaptive(&g);
  return g;
}

PoolGeometry fractional_pool_geometry(const char* name, IntSpan input_sizes, IntSpan kernel_size,
                                      IntSpan output_size, IntSpan sample_sizes) {
  const int rank = checked_rank(name, "kernel_size", kernel_size);
  CNNOPS_CHECK(output_size.size() == static_cast<size_t>(rank), torch_name(name, rank),
               ": output_size must either be a single Int or tuple of ", rank, " Ints, but got ",
               output_size);
  PoolGeometry g = tensor_geometry(name, input_sizes, rank, &PoolAxis::input);
  for (size_t i = g.batched ? 1 : 0; i < input_sizes.size(); ++i) {
    CNNOPS_CHECK(input_sizes[i] > 0, torch_name(name, rank),
                 "(): Expected input to have non-zero size for non-batch dimensions, but got",
                 input_sizes, " with dimension ", i, " being empty.");
  }
  CNNOPS_CHECK(all_positive(kernel_size), torch_name(name, rank),
               "(): kernel size should be greater than zero, but got ", kernel_size);
  for (int i = 0; i < rank; ++i) {
    PoolAxis& axis = g.axis[3 - rank + i];
    CNNOPS_CHECK(output_size[i] >= 0, "Trying to create tensor with negative dimension ",
                 output_size[i], ": ", output_size);
    const char* what = kAxisNames[3 - rank + i];
    // torch's 3-d operator wants one element to spare.
    const int64_t most = axis.input - kernel_size[i] + (rank == 3 ? 0 : 1);
    CNNOPS_CHECK(kernel_size[i] <= axis.input && output_size[i] <= most, torch_name(name, rank),
                 "(): pool ", what, " ", kernel_size[i], " too large relative to input ", what, " ",
                 axis.input, " with output ", what, " ", output_size[i]);
    axis.output = output_size[i];
    axis.kernel = kernel_size[i];
    axis.stride = 0;
  }
  CNNOPS_CHECK(sample_sizes.size() == 3, "Expect _random_samples to have 3 dimensions, got ",
               sample_sizes.size());
  CNNOPS_CHECK(sample_sizes[0] >= g.batch,
               "Expect _random_samples.size(0) no less then input batch size, but got ",
               sample_sizes[0], " and ", g.batch);
  CNNOPS_CHECK(sample_sizes[1] == g.channels,
               "Expect _random_samples.size(1) equals to input channel size, but got ",
               sample_sizes[1], " and ", g.channels);
  CNNOPS_CHECK(sample_sizes[2] == rank, "Expect _random_samples.size(2) equals to ", rank, "; got ",
               sample_sizes[2], ".");
  return g;
}

PoolGeometry indexed_pool_geometry(const char* name, IntSpan small_sizes, IntSpan plane_size,
                                   bool allow_empty) {
  const int rank = checked_rank(name, "the spatial size", plane_size);
  for (int64_t size : plane_size) {
    CNNOPS_CHECK(size >= 0, torch_name(name, rank),
                 "(): output_size must contain non-negative spatial dimensions, but got "
                 "output_size=",
                 plane_size);
  }
  checked_numel(plane_size);
  PoolGeometry g = tensor_geometry(name, small_sizes, rank, &PoolAxis::output);
  for (size_t i = 1; i < small_sizes.size() && !allow_empty; ++i) {
    CNNOPS_CHECK(small_sizes[i] > 0, torch_name(name, rank),
                 "(): Expected input to have non-zero size for non-batch dimensions, but got ",
                 small_sizes, " with dimension ", i, " being empty.");
  }
  for (int i = 0; i < rank; ++i) g.axis[3 - rank + i].input = plane_size[i];
  return g;
}

void check_sizes(const char* name, IntSpan sizes, IntSpan expected) {
  CNNOPS_CHECK(sizes == expected, "Expected a tensor of sizes ", expected, " but got: sizes ",
               sizes, " for ", name);
}

PoolGeometry with_global_windows_flat(const PoolGeometry& g, WindowCount* count) {
  for (const PoolAxis& axis : g.axis) {
    const bool covers = axis.stride == 0 || (axis.kernel == axis.input && axis.padding == 0);
    if (axis.output != 1 || axis.dilation != 1 || !covers) return g;
  }
  PoolGeometry flat = g;
  flat.axis[0] = flat.axis[1] = PoolAxis();
  flat.axis[2] = {g.input_plane(), 1, g.input_plane(), 0, 0, 1};
  if (*count != WindowCount::kNone) *count = WindowCount::kAdaptive;
  return flat;
}

int64_t window_list_size(const PoolAxis& axis, bool inverse) {
  return 3 * axis.output + (inverse ? 2 * axis.input : 0);
}

AxisWindows axis_windows(const PoolAxis& axis, WindowCount count, bool inverse, int64_t* lists) {
  int64_t* const inverses = inverse ? lists + 3 * axis.output : nullptr;
  const AxisWindows windows{lists, lists + axis.output, lists + 2 * axis.output, inverses,
                            inverse ? inverses + axis.input : nullptr};
  for (int64_t o = 0; o < axis.output; ++o) {
    int64_t& begin = windows.begin[o];
    int64_t& end = windows.end[o];
    windows.count[o] = 1;
    if (axis.stride == 0) {
      begin = scaled(o, axis, 0);
      end = axis.input == 0 ? 0 : 1 + scaled(o + 1, axis, -1);
      if (count == WindowCount::kAdaptive) windows.count[o] = end - begin;
      continue;
    }
    const int64_t start = o * axis.stride - axis.padding;
    const int64_t stop = start + axis.dilation * (axis.kernel - 1) + 1;
    // The first tap inside the input: padding is skipped in whole steps of the dilation.
    begin = start;
    if (start < 0) begin += (-start + axis.dilation - 1) / axis.dilation * axis.dilation;
    end = std::min(stop, axis.input);
    if (count == WindowCount::kInput) windows.count[o] = std::max<int64_t>(end - begin, 0);
    if (count == WindowCount::kPadded) {
      windows.count[o] = std::min(stop, axis.input + axis.padding) - start;
    }
  }
  if (!inverse) return windows;
  for (int64_t x = 0, first = 0, last = 0; x < axis.input; ++x) {
    while (first < axis.output && windows.end[first] <= x) ++first;
    while (last < axis.output && windows.begin[last] <= x) ++last;
    windows.first[x] = first;
    windows.last[x] = last;
  }
  return windows;
}

}  // namespace cnnops
