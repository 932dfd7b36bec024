// A CUDA driver for tests on a machine without a GPU: libcuda.so.1 with "device" memory on the heap.
//
// It is strict where a real driver is merely unlucky. Work put on a stream waits until something synchronises with it,
// so a missing event or an early read gives wrong results every time, not once a week. Copies are checked against the
// live allocations, asynchronous ones must use pinned memory, and every call needs a current context. `fake_fail`
// makes a call fail, `fake_live` counts what has not been freed. Kernels come from a library compiled for the CPU
// (FAKE_KERNELS). Unknown functions do not exist.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

// The little of cuda.h that is wanted, so that no CUDA toolkit is.
enum CUresult {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
};
enum { COMPUTE_CAPABILITY_MAJOR = 75, COMPUTE_CAPABILITY_MINOR = 76 };
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUmod_st *CUmodule;
typedef void *CUfunction;

struct CUctx_st {};
struct CUstream_st {
    std::vector<std::function<CUresult()>> work;
    size_t done = 0;
    std::recursive_mutex running;  // held while work runs; `mutex` is not, as work may want Python's own lock
};
struct CUevent_st { CUstream stream = nullptr; size_t upto = 0; };
struct CUmod_st {};

static std::mutex mutex;
static CUctx_st primary;
static int retained = 0;
static thread_local std::vector<CUcontext> current;
static std::map<char *, size_t> device, pinned;
static std::set<CUstream> streams;
static std::set<CUevent> events;
static std::set<CUmodule> modules;
static std::map<std::string, std::pair<int, int>> faults;  // function -> calls to let pass, result afterwards
static CUresult sticky = CUDA_SUCCESS;

static const char *env(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}
static size_t total_memory() { return strtoull(env("FAKE_GPU_MEMORY", "8589934592"), nullptr, 10); }
static size_t used_memory() {
    size_t sum = 0;
    for (auto &block : device) sum += block.second;
    return sum;
}
static bool inside(const std::map<char *, size_t> &blocks, const void *address, size_t bytes) {
    auto next = blocks.upper_bound((char *)address);
    if (next == blocks.begin()) return false;
    --next;
    return (char *)address + bytes <= next->first + next->second;
}
static CUresult advance(CUstream stream, size_t upto) {
    std::lock_guard<std::recursive_mutex> running(stream->running);
    for (;;) {
        std::function<CUresult()> work;
        {
            std::lock_guard<std::mutex> guard(mutex);
            if (stream->done >= upto) return CUDA_SUCCESS;
            work = stream->work[stream->done++];
        }
        CUresult result = work();
        if (result != CUDA_SUCCESS) return sticky = result;
    }
}
static size_t queued(CUstream stream) {
    std::lock_guard<std::mutex> guard(mutex);
    return stream->work.size();
}
static CUresult finish(CUstream stream) { return advance(stream, queued(stream)); }
static CUresult finish_all() {
    std::set<CUstream> all;
    {
        std::lock_guard<std::mutex> guard(mutex);
        all = streams;
    }
    for (auto stream : all)
        if (CUresult result = finish(stream)) return result;
    return CUDA_SUCCESS;
}
static CUresult add(CUstream stream, std::function<CUresult()> work) {
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    stream->work.push_back(std::move(work));
    return CUDA_SUCCESS;
}
static CUresult enter(const char *function, bool needs_context) {
    auto fault = faults.find(function);
    if (fault != faults.end() && fault->second.first-- <= 0) return (CUresult)fault->second.second;
    if (sticky) return sticky;
    return needs_context && current.empty() ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}
#define ENTER(needs_context)                             \
    std::unique_lock<std::mutex> guard(mutex);           \
    if (CUresult result = enter(__func__, needs_context)) return result

extern "C" {
void fake_fail(const char *function, int result, int after) { faults[function] = {after, result}; }
void fake_reset() { faults.clear(); sticky = CUDA_SUCCESS; }
int fake_live() { return device.size() + pinned.size() + streams.size() + events.size() + modules.size() + retained; }
int fake_enqueue(CUstream stream, int (*call)(void *), void *argument) {
    std::lock_guard<std::mutex> guard(mutex);
    return add(stream, [=] { return (CUresult)call(argument); });
}
int fake_is_device(const void *address, size_t bytes) { return inside(device, address, bytes); }

CUresult cuInit(unsigned) {
    ENTER(false);
    return atoi(env("FAKE_GPU_COUNT", "1")) ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE;
}
CUresult cuDriverGetVersion(int *version) { *version = 13000; return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult error, const char **text) {
    *text = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY"
          : error == CUDA_ERROR_ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
          : error == CUDA_ERROR_NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
          : "CUDA_ERROR";
    return CUDA_SUCCESS;
}
CUresult cuGetErrorString(CUresult, const char **text) { *text = "as the fake driver was told"; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { ENTER(false); *count = atoi(env("FAKE_GPU_COUNT", "1")); return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *gpu, int ordinal) {
    ENTER(false);
    *gpu = ordinal;
    return ordinal == 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE;
}
CUresult cuDeviceGetName(char *name, int length, CUdevice) {
    ENTER(false);
    snprintf(name, length, "%s", env("FAKE_GPU_NAME", "Orin"));
    return CUDA_SUCCESS;
}
CUresult cuDeviceGetAttribute(int *value, int attribute, CUdevice) {
    ENTER(false);
    const char *capability = env("FAKE_GPU_CAPABILITY", "8.7");
    if (attribute == COMPUTE_CAPABILITY_MAJOR) *value = atoi(capability);
    else if (attribute == COMPUTE_CAPABILITY_MINOR) *value = atoi(strchr(capability, '.') + 1);
    else return CUDA_ERROR_INVALID_VALUE;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice) {
    ENTER(false);
    ++retained;
    *context = &primary;
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice) { ENTER(false); --retained; return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent_v2(CUcontext context) { ENTER(false); current.push_back(context); return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent_v2(CUcontext *context) {
    std::lock_guard<std::mutex> guard(mutex);  // works after a sticky error, as the real one does
    if (current.empty()) return CUDA_ERROR_INVALID_CONTEXT;
    *context = current.back();
    current.pop_back();
    return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *context) {
    ENTER(false);
    *context = current.empty() ? nullptr : current.back();
    return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice *gpu) { ENTER(true); *gpu = 0; return CUDA_SUCCESS; }
CUresult cuCtxSynchronize() { ENTER(true); guard.unlock(); return finish_all(); }
CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER(true);
    *total = total_memory();
    *free = *total - used_memory();
    return CUDA_SUCCESS;
}
CUresult cuMemAlloc_v2(CUdeviceptr *address, size_t bytes) {
    ENTER(true);
    if (!bytes) return CUDA_ERROR_INVALID_VALUE;
    if (used_memory() + bytes > total_memory()) return CUDA_ERROR_OUT_OF_MEMORY;
    char *block = (char *)malloc(bytes);
    memset(block, 0xA5, bytes);  // nobody may count on zeros
    device[block] = bytes;
    *address = (CUdeviceptr)block;
    return CUDA_SUCCESS;
}
CUresult cuMemFree_v2(CUdeviceptr address) {
    ENTER(true);
    guard.unlock();
    finish_all();
    guard.lock();
    if (!device.erase((char *)address)) return CUDA_ERROR_INVALID_VALUE;
    free((void *)address);
    return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void **address, size_t bytes, unsigned) {
    ENTER(true);
    *address = malloc(bytes);
    memset(*address, 0x5A, bytes);
    pinned[(char *)*address] = bytes;
    return CUDA_SUCCESS;
}
CUresult cuMemAllocHost_v2(void **address, size_t bytes) { return cuMemHostAlloc(address, bytes, 0); }
CUresult cuMemFreeHost(void *address) {
    ENTER(true);
    guard.unlock();
    finish_all();
    guard.lock();
    if (!pinned.erase((char *)address)) return CUDA_ERROR_INVALID_VALUE;
    free(address);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    ENTER(true);
    if (!inside(device, (void *)to, bytes) || !inside(pinned, from, bytes)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    return add(stream, [=] { memcpy((void *)to, from, bytes); return CUDA_SUCCESS; });
}
CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER(true);
    if (!inside(device, (void *)from, bytes) || !inside(pinned, to, bytes)) return CUDA_ERROR_ILLEGAL_ADDRESS;
    return add(stream, [=] { memcpy(to, (void *)from, bytes); return CUDA_SUCCESS; });
}
CUresult cuStreamCreate(CUstream *stream, unsigned) {
    ENTER(true);
    streams.insert(*stream = new CUstream_st);
    return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
    ENTER(true);
    if (!streams.erase(stream)) return CUDA_ERROR_INVALID_HANDLE;
    return CUDA_SUCCESS;  // the object is kept: events may still point at it
}
CUresult cuStreamSynchronize(CUstream stream) {
    ENTER(true);
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    guard.unlock();
    return finish(stream);
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
    ENTER(true);
    CUevent_st recorded = *event;
    return add(stream, [=] { return recorded.stream ? advance(recorded.stream, recorded.upto) : CUDA_SUCCESS; });
}
CUresult cuEventCreate(CUevent *event, unsigned) { ENTER(true); events.insert(*event = new CUevent_st); return CUDA_SUCCESS; }
CUresult cuEventDestroy_v2(CUevent event) {
    ENTER(true);
    if (!events.erase(event)) return CUDA_ERROR_INVALID_HANDLE;
    delete event;
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
    ENTER(true);
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    event->stream = stream;
    event->upto = stream->work.size();
    return CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
    ENTER(true);
    CUevent_st recorded = *event;
    guard.unlock();
    return recorded.stream ? advance(recorded.stream, recorded.upto) : CUDA_SUCCESS;
}
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned, int *, void **) {
    ENTER(true);
    if (memcmp(image, "\177ELF", 4)) return CUDA_ERROR_INVALID_IMAGE;  // a cubin is an ELF file
    modules.insert(*module = new CUmod_st);
    return CUDA_SUCCESS;
}
CUresult cuModuleLoadData(CUmodule *module, const void *image) { return cuModuleLoadDataEx(module, image, 0, 0, 0); }
CUresult cuModuleUnload(CUmodule module) { ENTER(true); modules.erase(module); delete module; return CUDA_SUCCESS; }
CUresult cuModuleGetFunction(CUfunction *function, CUmodule, const char *name) {
    ENTER(true);
    static void *kernels = dlopen(env("FAKE_KERNELS", ""), RTLD_NOW);
    *function = kernels ? (CUfunction)dlsym(kernels, (std::string("launch_") + name).c_str()) : nullptr;
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuFuncSetBlockShape(CUfunction, int, int, int) { ENTER(true); return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned, CUstream stream, void **parameters, void **extra) {
    ENTER(true);
    if (bx * by * bz == 0 || bx * by * bz > 1024 || gx * gy * gz == 0) return CUDA_ERROR_INVALID_VALUE;
    if (!streams.count(stream)) return CUDA_ERROR_INVALID_HANDLE;
    guard.unlock();
    if (CUresult result = finish(stream)) return result;  // the parameters die with this call, so run it now
    unsigned shape[6] = {gx, gy, gz, bx, by, bz};
    // pycuda packs the parameters into a buffer: extra is {1, the buffer, 2, its size, 0}.
    ((void (*)(unsigned *, void **, char *))function)(shape, parameters, extra ? (char *)extra[1] : nullptr);
    return CUDA_SUCCESS;
}
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice gpu) {
    CUresult result = cuDeviceGetAttribute(major, COMPUTE_CAPABILITY_MAJOR, gpu);
    return result ? result : cuDeviceGetAttribute(minor, COMPUTE_CAPABILITY_MINOR, gpu);
}
CUresult cuGetExportTable(const void **, const void *) { return CUDA_ERROR_NOT_FOUND; }  // NVRTC asks for one
static CUresult address_of(const char *symbol, void **function) {
    Dl_info self;
    dladdr((void *)fake_live, &self);
    void *library = dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD);
    *function = dlsym(library, (std::string(symbol) + "_v2").c_str());
    if (!*function) *function = dlsym(library, symbol);
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuGetProcAddress_v2(const char *symbol, void **function, int, uint64_t, int *found) {
    CUresult result = address_of(symbol, function);
    if (found) *found = result ? 1 : 0;
    return result;
}
}
