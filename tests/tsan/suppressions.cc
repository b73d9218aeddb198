// What ThreadSanitizer cannot see in libraries that are compiled without it. Nothing of ours stands
// here: a pattern that names a function or file of this repository, or a library that calls back
// into it (libgrpc++), would hide a race.
extern "C" const char* __tsan_default_suppressions() {
  // Memory that these libraries allocate, copy and free, guarded by atomics that are not seen.
  return "called_from_lib:libgrpc.so\n"
         "called_from_lib:libgrpc++.so\n"
         "called_from_lib:libgpr.so\n"
         "called_from_lib:libupb.so\n"
         "called_from_lib:librocksdb.so\n"
         "called_from_lib:libabsl_status.so\n"
         "called_from_lib:libabsl_cord.so\n"
         "called_from_lib:libabsl_graphcycles_internal.so\n"
         "called_from_lib:libabsl_random_internal_pool_urbg.so\n"
         // A status's message: its references are counted in there.
         "race:libabsl_status.so\n";
}
