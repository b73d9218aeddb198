// Found before protobuf's own header in the tsan configuration. With ThreadSanitizer the class of map
// fields has two more members, and Debian's libprotobuf, compiled without it, reads others in their
// place. So that header alone is read as if this were no such build. What it includes comes first.
#ifndef TESSERA_TESTS_TSAN_PROTOBUF_MAP_FIELD_H_
#define TESSERA_TESTS_TSAN_PROTOBUF_MAP_FIELD_H_

#include <google/protobuf/arena.h>
#include <google/protobuf/generated_message_reflection.h>
#include <google/protobuf/generated_message_util.h>
#include <google/protobuf/map.h>
#include <google/protobuf/map_entry.h>
#include <google/protobuf/message.h>
#include <google/protobuf/unknown_field_set.h>

#include <atomic>
#include <functional>

#pragma push_macro("__SANITIZE_THREAD__")
#undef __SANITIZE_THREAD__
#include_next <google/protobuf/map_field.h>
#pragma pop_macro("__SANITIZE_THREAD__")

#endif  // TESSERA_TESTS_TSAN_PROTOBUF_MAP_FIELD_H_
