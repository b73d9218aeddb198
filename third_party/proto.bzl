"""Protocol buffers and gRPC stubs by the system's protoc."""

def cc_grpc_library(name, src, visibility = None):
    """A cc_library with the messages and the gRPC stubs of one .proto file.

    Args:
      name: name of the library.
      src: the .proto file, in this package.
      visibility: as everywhere.
    """
    stem = src[:-len(".proto")]
    outs = [stem + ext for ext in (".pb.h", ".pb.cc", ".grpc.pb.h", ".grpc.pb.cc")]
    native.genrule(
        name = name + "_gen",
        srcs = [src],
        outs = outs,
        cmd = "protoc -I. --cpp_out=$(GENDIR) --grpc_out=$(GENDIR)" +
              " --plugin=protoc-gen-grpc=/usr/bin/grpc_cpp_plugin $(SRCS)",
        message = "Generating C++ from " + src,
    )
    native.cc_library(
        name = name,
        srcs = [o for o in outs if o.endswith(".cc")],
        hdrs = [o for o in outs if o.endswith(".h")],
        # Generated code is not ours to keep free of warnings.
        copts = ["-w"],
        visibility = visibility,
        deps = ["//third_party/system:grpc"],
    )

def cc_proto_library(name, src, imports = [], deps = [], visibility = None):
    """A cc_library with the messages alone of one .proto file.

    Args:
      name: name of the library.
      src: the .proto file, in this package.
      imports: the .proto files that it imports, Google's excluded.
      deps: the libraries of those.
      visibility: as everywhere.
    """
    stem = src[:-len(".proto")]
    native.genrule(
        name = name + "_gen",
        srcs = [src] + imports,
        outs = [stem + ".pb.h", stem + ".pb.cc"],
        cmd = "protoc -I. --cpp_out=$(GENDIR) $(location " + src + ")",
        message = "Generating C++ from " + src,
    )
    native.cc_library(
        name = name,
        srcs = [stem + ".pb.cc"],
        hdrs = [stem + ".pb.h"],
        # Generated code is not ours to keep free of warnings.
        copts = ["-w"],
        visibility = visibility,
        deps = deps + ["//third_party/system:protobuf"],
    )
