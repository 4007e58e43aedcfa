// A second device where there is none: its memory is the host's and its kernels are the CPU's, but its tensors are not
// the CPU's. What mixes the two fails as it would on a GPU, but for single numbers, and indices of a tensor.
#include <ATen/ATen.h>
#include <ATen/CPUFunctions.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>

namespace {

using at::IntArrayRef;
using at::Tensor;
using MaybeTensor = std::optional<Tensor>;

const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);

c10::Device here() { return {c10::kPrivateUse1, 0}; }

struct Memory final : c10::Allocator {
  static void release(void* place) { std::free(place); }
  c10::DataPtr allocate(size_t size) override {
    void* place = nullptr;
    TORCH_CHECK(posix_memalign(&place, 64, size ? size : 64) == 0, "out of memory");
    return {place, place, &release, here()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
};
Memory memory;
REGISTER_ALLOCATOR(c10::kPrivateUse1, &memory);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kPrivateUse1; }
  c10::Device exchangeDevice(c10::Device) const override { return here(); }
  c10::Device getDevice() const override { return here(); }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device device) const override { return c10::Stream(c10::Stream::DEFAULT, device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  void init() const override {}
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  bool isPinnedPtr(const void*) const override { return false; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::detail::createCPUGenerator(); }
};
const bool hooked = (at::RegisterPrivateUse1HooksInterface(new Hooks()), true);

Tensor on_cpu(const Tensor& x) {  // the same memory
  return x.is_cpu() ? x : at::from_blob(x.data_ptr(), x.sizes(), x.strides(), x.options().device(at::kCPU));
}
MaybeTensor on_cpu(const MaybeTensor& x) { return x && x->defined() ? MaybeTensor(on_cpu(*x)) : std::nullopt; }
Tensor moved(const Tensor& x) { return x.defined() ? x.to(here()) : x; }

void check_together(std::string name, const std::vector<Tensor>& given) {
  bool any = false;
  for (const auto& x : given) any |= x.defined() && x.device() == here();
  for (const auto& x : given)
    TORCH_CHECK(!any || !x.defined() || !x.is_cpu() || !x.dim(), "Expected all tensors to be on the same device: ", name);
}

Tensor empty(IntArrayRef size, std::optional<at::ScalarType> type, std::optional<at::Layout>, std::optional<c10::Device>,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, &memory, KEYS, c10::dtype_or_default(type), format);
}
Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> type, std::optional<at::Layout>,
                     std::optional<c10::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS, c10::dtype_or_default(type));
}
Tensor copy_from(const Tensor& from, const Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}
Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  at::native::resize_(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}
at::Scalar number(const Tensor& x) { return at::native::_local_scalar_dense_cpu(on_cpu(x)); }
Tensor as_strided(const Tensor& x, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  return at::cpu::as_strided_symint(x, size, stride, offset);
}
const Tensor& resize_(const Tensor& x, c10::SymIntArrayRef size, std::optional<at::MemoryFormat> format) {
  return at::native::resize_(x, C10_AS_INTARRAYREF_SLOW(size), format);
}
Tensor reshape_alias(const Tensor& x, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return at::native::_reshape_alias(x, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}
Tensor view(const Tensor& x, c10::SymIntArrayRef size) { return at::native::view(x, C10_AS_INTARRAYREF_SLOW(size)); }
Tensor& set_storage(Tensor& x, at::Storage from) { return at::native::set_(x, from); }
Tensor& set_part(Tensor& x, at::Storage from, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  return at::cpu::set_(x, from, offset, size, stride);
}

Tensor convolution(const Tensor& x, const Tensor& weight, const MaybeTensor& bias, IntArrayRef stride, IntArrayRef padding,
                   IntArrayRef dilation, bool transposed, IntArrayRef extra, int64_t groups) {
  check_together("convolution", {x, weight, bias.value_or(Tensor())});
  auto y = at::convolution(on_cpu(x), on_cpu(weight), on_cpu(bias), stride, padding, dilation, transposed, extra, groups);
  return moved(y);
}
std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& gradient, const Tensor& x, const Tensor& weight,
                                                        IntArrayRef stride, IntArrayRef padding, IntArrayRef dilation,
                                                        bool transposed, IntArrayRef extra, int64_t groups,
                                                        std::array<bool, 3> wanted) {
  check_together("convolution_backward", {gradient, x, weight});
  const std::vector<int64_t> bias{transposed ? weight.size(1) * groups : weight.size(0)};
  auto [a, b, c] = at::convolution_backward(on_cpu(gradient), on_cpu(x), on_cpu(weight), bias, stride, padding, dilation,
                                            transposed, extra, groups, wanted);
  return {moved(a), moved(b), moved(c)};
}
// Its schema does not say that it writes the running statistics: the fallback would lose them.
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const MaybeTensor& weight, const MaybeTensor& bias,
                                              const MaybeTensor& mean, const MaybeTensor& variance, bool training,
                                              double momentum, double eps) {
  const Tensor none;
  check_together("batch_norm", {x, weight.value_or(none), bias.value_or(none), mean.value_or(none), variance.value_or(none)});
  auto [y, m, v] = at::native_batch_norm(on_cpu(x), on_cpu(weight), on_cpu(bias), on_cpu(mean), on_cpu(variance), training,
                                         momentum, eps);
  return {moved(y), moved(m), moved(v)};
}
int64_t plain_attention(const Tensor&, const Tensor&, const Tensor&, const MaybeTensor&, double, bool, std::optional<double>,
                        bool) {
  return 0;
}

void fallback(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const std::string name = op.schema().operator_name().name;
  std::vector<Tensor> given;
  for (const auto& value : torch::jit::last(*stack, op.schema().arguments().size())) {
    if (value.isTensor()) given.push_back(value.toTensor());
    if (value.isTensorList()) for (const Tensor& x : value.toTensorVector()) given.push_back(x);
  }
  check_together(name, given);  // indices come as a list of perhaps tensors, and may be elsewhere
  at::native::cpu_fallback(op, stack);
}

}  // namespace

namespace at::native {
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &plain_attention);
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("resize_", resize_);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", number);
  m.impl("set_.source_Storage", set_storage);
  m.impl("set_.source_Storage_storage_offset", set_part);
  m.impl("set_.source_Tensor", at::native::set_tensor_);
  m.impl("view", view);
  m.impl("unfold", at::native::unfold);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
  m.impl("native_batch_norm", batch_norm);
  m.impl("_fused_sdp_choice", plain_attention);
}
TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>()); }
