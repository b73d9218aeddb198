"""CUDA sources, compiled by nvcc into objects of ordinary libraries."""

# Hopper's own instructions need sm_90a; the others are plain. PTX of the newest serves later cards.
_ARCHITECTURES = [
    "arch=compute_80,code=sm_80",
    "arch=compute_89,code=sm_89",
    "arch=compute_90a,code=sm_90a",
    "arch=compute_90,code=compute_90",
]

def cuda_library(name, cuda_srcs, srcs = [], hdrs = [], host_hdrs = [], textual = [], deps = [], visibility = None):
    """A cc_library of C++ and CUDA sources. It is built only where somebody who needs it is.

    Args:
      name: name of the library.
      cuda_srcs: .cu files.
      srcs: .cc files.
      hdrs: headers for others.
      host_hdrs: the same, but no .cu file reads them or is compiled again for them.
      textual: headers of the .cu files alone.
      deps: as everywhere; .cu files see of them only CUDA's own headers.
      visibility: as everywhere.
    """
    headers = hdrs + textual
    objects = []
    for src in cuda_srcs:
        out = src[:-len(".cu")] + ".cu.pic.o"
        objects.append(out)
        native.genrule(
            name = out + "_nvcc",
            srcs = [src] + headers,
            outs = [out],
            cmd = "/usr/local/cuda/bin/nvcc -std=c++20 -O3 -lineinfo -I. " +
                  "-Xcompiler -fPIC " + " ".join(["-gencode " + a for a in _ARCHITECTURES]) +
                  " -c $(location " + src + ") -o $@",
            message = "Compiling CUDA source " + src,
            tags = ["manual"],
        )
    native.cc_library(
        name = name,
        srcs = srcs + objects,
        hdrs = hdrs + host_hdrs,
        textual_hdrs = textual,
        # Programs link the runtime once, and no shared library of ours needs it then.
        linkstatic = True,
        tags = ["manual"],
        deps = deps + ["@cuda//:cuda"],
        visibility = visibility,
    )
