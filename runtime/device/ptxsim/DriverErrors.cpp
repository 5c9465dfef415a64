// The words of errors.
#include "runtime/device/ptxsim/DriverCalls.h"

namespace moe::ptxsim {

using namespace cuda;

namespace {

struct ErrorText {
  CUresult code;
  const char *name, *text;
};
constexpr ErrorText kErrors[] = {
    {CUresult::success, "CUDA_SUCCESS", "no error"},
    {CUresult::invalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUresult::outOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUresult::notInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUresult::invalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUresult::invalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUresult::noBinaryForGpu, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {CUresult::invalidPtx, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUresult::unsupportedPtxVersion, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the PTX was compiled with an unsupported toolchain"},
    {CUresult::invalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUresult::notFound, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUresult::notReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUresult::illegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS",
     "an illegal memory access was encountered"},
    {CUresult::launchOutOfResources, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CUresult::illegalInstruction, "CUDA_ERROR_ILLEGAL_INSTRUCTION",
     "an illegal instruction was encountered"},
    {CUresult::launchFailed, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUresult(720), "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks"},
    {CUresult::notSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {CUresult::streamCaptureUnsupported, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUresult::streamCaptureInvalidated, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUresult::invalidClusterSize, "CUDA_ERROR_INVALID_CLUSTER_SIZE", "cluster misconfiguration"},
    {CUresult::unknown, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

CUresult errorText(CUresult code, const char **text, const char *ErrorText::*field) {
  for (const ErrorText &error : kErrors)
    if (error.code == code) {
      *text = error.*field;
      return CUresult::success;
    }
  *text = nullptr;
  return CUresult::invalidValue;
}

CUresult getErrorName(CUresult code, const char **text) {
  return errorText(code, text, &ErrorText::name);
}

CUresult getErrorString(CUresult code, const char **text) {
  std::lock_guard lock(process().mutex);
  if (CUctx_st *context = process().context.get())
    if (auto found = context->details.find(code); found != context->details.end()) {
      *text = found->second.c_str();
      return CUresult::success;
    }
  return errorText(code, text, &ErrorText::text);
}

} // namespace

void fillErrors(DriverApi &api) {
  api.cuGetErrorName = getErrorName;
  api.cuGetErrorString = getErrorString;
}

} // namespace moe::ptxsim
