// Crops of a frame, resized and laid out as a model's input. One thread makes one pixel of one crop.
//
// frame     rows of 3-byte pixels, `pitch` bytes apart
// boxes     per crop left, top, right, bottom: whole pixels, inside the frame, at least one pixel
// masks     the crops' masks, one byte a pixel, one after the other; zero hides a pixel
// mask_at   where each crop's mask begins, or -1
// fill      what hidden pixels become, channel 0 in the lowest byte
// out       (crops, height, width, 3), or (crops, 3, height, width) if `planar`; of float if `real`, else of bytes
// reverse   whether the model wants the channels in the other order
// mean, std of the tensor's channels; used if `real`
//
// Bilinear as cv2.resize makes it, in its fixed-point arithmetic: pixel centres at half integers, weights of 11 bits,
// borders repeated.

// Where output pixel `d` of `to` lies among `from` input pixels: the pixel before it, and the weight of the one after,
// in 1/2048. In OpenCV's float the whole and the fraction share 24 bits, hence the detour.
static __device__ int place(int d, int from, int to, int *weight) {
    const int half = (2 * d + 1) * from - to;  // of 2 * to
    const int whole = half >= 0 ? half / (2 * to) : -1;
    const float at = (float)whole + (float)(half - whole * 2 * to) / (float)(2 * to);
    *weight = (int)rintf((at - (float)whole) * 2048.0f);
    return whole;
}

extern "C" __global__ void crop_resize(const unsigned char *frame, int pitch, const int *boxes,
                                       const unsigned char *masks, const long long *mask_at, unsigned fill, void *out,
                                       int height, int width, int planar, int real, int reverse, float mean0,
                                       float mean1, float mean2, float std0, float std1, float std2) {
    const int x = blockIdx.x * blockDim.x + threadIdx.x;
    const int y = blockIdx.y * blockDim.y + threadIdx.y;
    const int n = blockIdx.z;
    if (x >= width || y >= height) return;

    const int left = boxes[4 * n], top = boxes[4 * n + 1];
    const int w = boxes[4 * n + 2] - left, h = boxes[4 * n + 3] - top;
    int right, below;
    int x0 = place(x, w, width, &right);
    const int y0 = place(y, h, height, &below);
    if (x0 < 0 || x0 >= w - 1) {  // OpenCV does this to columns only; to rows it makes a difference of rounding
        x0 = x0 < 0 ? 0 : w - 1;
        right = 0;
    }
    const int xs[2] = {x0, x0 + 1 < w ? x0 + 1 : x0};
    const int ys[2] = {y0 < 0 ? 0 : y0, y0 + 1 < h ? y0 + 1 : h - 1};
    const unsigned char *mask = mask_at[n] < 0 ? nullptr : masks + mask_at[n];
    int level[3] = {2, 2, 2};
    for (int i = 0; i < 2; ++i) {
        int row[3] = {0, 0, 0};
        for (int j = 0; j < 2; ++j) {
            const bool hidden = mask && !mask[(long long)ys[i] * w + xs[j]];
            const unsigned char *pixel = frame + (long long)(top + ys[i]) * pitch + 3 * (left + xs[j]);
            for (int c = 0; c < 3; ++c)
                row[c] += (j ? right : 2048 - right) * (hidden ? (int)((fill >> (8 * c)) & 255) : (int)pixel[c]);
        }
        for (int c = 0; c < 3; ++c) level[c] += ((i ? below : 2048 - below) * (row[c] >> 4)) >> 16;
    }

    const float mean[3] = {mean0, mean1, mean2}, std[3] = {std0, std1, std2};
    const long long area = (long long)height * width, at = (long long)y * width + x;
    for (int c = 0; c < 3; ++c) {
        const long long where = n * 3 * area + (planar ? c * area + at : 3 * at + c);
        const int value = level[reverse ? 2 - c : c] >> 2;
        if (real) ((float *)out)[where] = ((float)value - mean[c]) / std[c];
        else ((unsigned char *)out)[where] = (unsigned char)value;
    }
}
