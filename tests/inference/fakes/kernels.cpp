// The CUDA kernels of edge-tracker compiled for the CPU, for the fake driver: every thread of the grid in turn.
#include <cmath>
#include <cstddef>
#include <utility>

struct Index { unsigned x, y, z; };
static thread_local Index gridDim, blockDim, blockIdx, threadIdx;
#define __global__
#define __device__
#include KERNELS

template <typename... A, std::size_t... I>
static void run(void (*kernel)(A...), const unsigned *shape, void **parameters, std::index_sequence<I...>) {
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    Index &b = blockIdx, &t = threadIdx;
    for (b.z = 0; b.z < gridDim.z; ++b.z)
        for (b.y = 0; b.y < gridDim.y; ++b.y)
            for (b.x = 0; b.x < gridDim.x; ++b.x)
                for (t.z = 0; t.z < blockDim.z; ++t.z)
                    for (t.y = 0; t.y < blockDim.y; ++t.y)
                        for (t.x = 0; t.x < blockDim.x; ++t.x) kernel(*(A *)parameters[I]...);
}
// The parameters come as addresses, or packed into a buffer, each at a multiple of its alignment.
template <typename... A>
static void launch(void (*kernel)(A...), const unsigned *shape, void **parameters, char *packed) {
    constexpr std::size_t sizes[] = {sizeof(A)...}, aligned[] = {alignof(A)...};
    void *addresses[sizeof...(A)];
    for (std::size_t i = 0, at = 0; packed && i < sizeof...(A); at += sizes[i++])
        addresses[i] = packed + (at = (at + aligned[i] - 1) / aligned[i] * aligned[i]);
    run(kernel, shape, packed ? addresses : parameters, std::index_sequence_for<A...>{});
}

extern "C" void launch_crop_resize(const unsigned *shape, void **parameters, char *packed) {
    launch(crop_resize, shape, parameters, packed);
}
