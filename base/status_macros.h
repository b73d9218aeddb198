// RETURN_IF_ERROR and ASSIGN_OR_RETURN for absl::Status, which Abseil 20220623 does not have.
#ifndef TESSERA_BASE_STATUS_MACROS_H_
#define TESSERA_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define TESSERA_CONCAT_INNER(a, b) a##b
#define TESSERA_CONCAT(a, b) TESSERA_CONCAT_INNER(a, b)

// Evaluates an absl::Status and returns it from this function when it is not OK.
#define RETURN_IF_ERROR(expression)                               \
  do {                                                            \
    absl::Status tessera_status = (expression);                   \
    if (!tessera_status.ok()) return tessera_status;              \
  } while (false)

// Evaluates an absl::StatusOr<T>; assigns its value to `left`, or returns its status.
#define ASSIGN_OR_RETURN(left, expression) \
  TESSERA_ASSIGN_OR_RETURN(TESSERA_CONCAT(tessera_or_, __LINE__), left, expression)

#define TESSERA_ASSIGN_OR_RETURN(result, left, expression) \
  auto result = (expression);                              \
  if (!result.ok()) return std::move(result).status();     \
  left = std::move(result).value()

#endif  // TESSERA_BASE_STATUS_MACROS_H_
