// Leaks that LeakSanitizer finds in Debian's libraries, whoever uses them.
extern "C" const char* __lsan_default_suppressions() {
  // c-ares keeps ten bytes of every host name that gRPC resolves.
  return "leak:libcares.so\n"
         // gRPC keeps the slice buffer of a TLS connection that ends while bytes wait in it.
         "leak:gpr_realloc\n";
}
