// Tensors of device cuda:0 whose memory and kernels are the CPU's: what `paper_cuda.py` builds its card of.
//
// PyTorch picks a kernel by the device of its arguments. Here every kernel that is asked for on CUDA lays CPU tensors
// over the same memory, runs the CPU's, and lays CUDA tensors over what that gives. Everything above (autograd,
// autocast, modules, threads) is PyTorch's own, and so are its complaints about devices that are mixed up.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/extension.h>
#include <torch/library.h>

#include <cstring>
#include <mutex>
#include <unordered_set>
#include <utility>

namespace {

const c10::Device kCard(c10::DeviceType::CUDA, 0), kHost(c10::DeviceType::CPU);

// One device, whose streams Python keeps.
struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  c10::Device exchangeDevice(c10::Device) const override { return kCard; }
  c10::Device getDevice() const override { return kCard; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kCard); }
  c10::Stream getDefaultStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, kCard); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
};

// Pinned memory is the CPU's, remembered by its address.
std::mutex pinned_lock;
std::unordered_set<const void*> pinned;

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* memory = c10::alloc_cpu(size);
    std::lock_guard<std::mutex> hold(pinned_lock);
    pinned.insert(memory);
    return {memory, memory, &drop, kHost};
  }
  static void drop(void* memory) {
    {
      std::lock_guard<std::mutex> hold(pinned_lock);
      pinned.erase(memory);
    }
    c10::free_cpu(memory);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &drop; }
  void copy_data(void* to, const void* from, size_t size) const override { default_copy_data(to, from, size); }
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  c10::DeviceIndex current_device() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override {
    static PinnedAllocator allocator;
    return &allocator;
  }
  bool isPinnedPtr(const void* data) const override {
    std::lock_guard<std::mutex> hold(pinned_lock);
    return pinned.count(data) > 0;
  }
};

// The same memory on the other device. What was given back of the card's is told by address to who asks.
std::mutex gone_lock;
std::vector<int64_t> gone;

void release(void* context) { delete static_cast<c10::Storage*>(context); }

void give_back(void* context) {
  {
    std::lock_guard<std::mutex> hold(gone_lock);
    gone.push_back(reinterpret_cast<int64_t>(static_cast<c10::Storage*>(context)->data()));
  }
  release(context);
}

c10::Storage moved(const c10::Storage& storage, c10::Device device) {
  const bool host = device.is_cpu();
  c10::DataPtr data(
      const_cast<void*>(storage.data()), new c10::Storage(storage), host ? &release : &give_back, device);
  return c10::Storage(
      c10::Storage::use_byte_size_t(), storage.nbytes(), std::move(data),
      host ? c10::GetAllocator(c10::DeviceType::CPU) : nullptr, host);
}

at::Tensor shaped(at::Tensor result, const at::Tensor& like) {
  result.unsafeGetTensorImpl()->set_sizes_and_strides(like.sizes(), like.strides(), like.storage_offset());
  return result;
}

at::Tensor over(c10::Storage storage, const at::Tensor& like, c10::DispatchKey key) {
  return shaped(
      at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), like.dtype()), like);
}

// One kernel's arguments on their way to the CPU, and its results on their way back.
struct Call {
  std::vector<at::Tensor> given;  // those that are the card's
  bool wants_host = false, wants_card = false;
  std::string on_host;

  at::Tensor to_host(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cuda()) {
      if (tensor.defined() && tensor.dim() > 0) on_host = c10::str(tensor.sizes());
      return tensor;
    }
    given.push_back(tensor);
    return over(moved(tensor.storage(), kHost), tensor, c10::DispatchKey::CPU);
  }

  at::Tensor to_card(const at::Tensor& tensor) {
    if (!tensor.defined() || tensor.is_cuda()) return tensor;
    for (const at::Tensor& of : given)
      if (of.storage().nbytes() && of.storage().data() == tensor.storage().data())  // a view
        return shaped(
            at::detail::make_tensor<c10::TensorImpl>(
                c10::TensorImpl::VIEW, c10::Storage(of.storage()), of.key_set(), tensor.dtype()),
            tensor);
    return over(moved(tensor.storage(), kCard), tensor, c10::DispatchKey::CUDA);
  }

  c10::IValue walk(const c10::IValue& value, bool in) {
    auto one = [&](const at::Tensor& tensor) { return in ? to_host(tensor) : to_card(tensor); };
    if (value.isTensor()) return one(value.toTensor());
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(one(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional<at::Tensor>(one(*tensor)) : std::nullopt);
      return list;
    }
    if (in && value.isDevice()) {
      (value.toDevice().is_cuda() ? wants_card : wants_host) = true;
      return c10::IValue(kHost);
    }
    return value;
  }
};

// An argument that was written to, with the memory and the shape that it has now.
void keep_up(const at::Tensor& before, const at::Tensor& after) {
  if (before.storage().data() != after.storage().data()) {
    const c10::Storage& storage = before.storage();
    auto data = moved(after.storage(), kCard).set_data_ptr(c10::DataPtr(nullptr, kCard));
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(after.storage().nbytes());
  }
  if (before.sizes() != after.sizes() || before.strides() != after.strides()) shaped(before, after);
}

bool may_cross(const std::string& name) {  // between devices
  return name == "aten::copy_" || name.rfind("aten::index", 0) == 0 || name.rfind("aten::_index", 0) == 0;
}

void run_on_cpu(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto taken = schema.arguments().size(), results = schema.returns().size();
  Call call;
  const std::vector<c10::IValue> originals(stack->end() - taken, stack->end());
  for (size_t i = 0; i < taken; ++i) {
    auto& value = (*stack)[stack->size() - taken + i];
    value = schema.arguments()[i].name() == "pin_memory" ? c10::IValue() : call.walk(value, true);
  }
  TORCH_CHECK(
      call.given.empty() || call.on_host.empty() || may_cross(schema.name()),
      "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (",
      schema.name(), ", of which ", call.on_host, " on the CPU)");
  op.callBoxed(stack);
  if (call.wants_host) return;
  for (size_t i = 0; i < results; ++i) {
    auto& value = (*stack)[stack->size() - results + i];
    const auto* alias = schema.returns()[i].alias_info();
    if (alias == nullptr || !alias->isWrite()) {
      if (call.wants_card || !call.given.empty()) value = call.walk(value, false);
      continue;
    }
    for (size_t j = 0; j < taken; ++j) {
      const auto* of = schema.arguments()[j].alias_info();
      if (of == nullptr || !of->isWrite() || of->beforeSets() != alias->beforeSets()) continue;
      if (originals[j].isTensor() && originals[j].toTensor().is_cuda())
        keep_up(originals[j].toTensor(), value.toTensor());
      value = originals[j];
      break;
    }
  }
}

int64_t plain_attention(
    const at::Tensor&, const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, bool,
    std::optional<double>, bool) {
  return 0;  // by products: the fused ones are the card's alone
}

at::Tensor& set_storage(
    at::Tensor& self, c10::Storage source, c10::SymInt offset, c10::SymIntArrayRef sizes, c10::SymIntArrayRef strides) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(C10_AS_INTARRAYREF_SLOW(sizes), C10_AS_INTARRAYREF_SLOW(strides), offset.expect_int());
  return self;
}

at::Tensor& set_whole_storage(at::Tensor& self, c10::Storage source) {
  const int64_t count = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return set_storage(self, std::move(source), 0, {c10::SymInt(count)}, {c10::SymInt(1)});
}

}  // namespace

TORCH_LIBRARY_IMPL(_, CUDA, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>()); }

TORCH_LIBRARY_IMPL(aten, CUDA, m) {
  // These would look for the card's own kernels before they ask anybody.
  for (const char* name : {"convolution", "convolution_backward", "copy_"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
  m.impl("_fused_sdp_choice", &plain_attention);
  m.impl("set_.source_Storage", &set_whole_storage);
  m.impl("set_.source_Storage_storage_offset", &set_storage);
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  static Guard guard;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(c10::DeviceType::CUDA)].store(&guard);
  // PyTorch has made its hooks already and keeps them; they hold nothing, so their table of methods makes them ours.
  static Hooks hooks;
  auto& kept = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  std::memcpy(static_cast<void*>(&kept), static_cast<const void*>(&hooks), sizeof(void*));
  m.def("given_back", []() {
    std::lock_guard<std::mutex> hold(gone_lock);
    return std::exchange(gone, {});
  });
}
