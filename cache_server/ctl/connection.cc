#include "cache_server/ctl/connection.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "cache_server/client/channel.h"

namespace tessera::ctl {
namespace {

constexpr uint32_t kEntriesPerPage = 1000;

}  // namespace

Connection::OpenCall::OpenCall(const Connection& connection, absl::Duration timeout)
    : interrupt_(connection.interrupt_) {
  if (timeout < absl::InfiniteDuration()) {
    context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  }
  AddToken(connection.token_, &context_);
  if (interrupt_ != nullptr) interrupt_->Add(&context_);
}

Connection::OpenCall::~OpenCall() {
  if (interrupt_ != nullptr) interrupt_->Remove(&context_);
}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Make(const CacheAddress& address,
                                                             absl::Duration timeout,
                                                             Interrupt* interrupt) {
  std::unique_ptr<Connection> connection(new Connection(address, timeout, interrupt));
  ASSIGN_OR_RETURN(connection->token_, ReadToken(address));
  ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, MakeChannel(address));
  connection->stub_ = cache::v1::KvCache::NewStub(channel);
  return connection;
}

absl::Status Connection::Explain(const grpc::Status& status) const {
  const std::string said = absl::StrReplaceAll(status.error_message(), {{"\n", " "}});
  switch (status.error_code()) {
    case grpc::StatusCode::OK:
      return absl::OkStatus();
    case grpc::StatusCode::UNAVAILABLE:
      return absl::UnavailableError(
          absl::StrCat(address_.address, " does not serve: ", said,
                       "; is a cache server there, and are --server and --ca right?"));
    case grpc::StatusCode::DEADLINE_EXCEEDED:
      return absl::DeadlineExceededError(absl::StrCat(address_.address, " took longer than ",
                                                      absl::FormatDuration(timeout_),
                                                      "; give it more with --timeout"));
    case grpc::StatusCode::UNAUTHENTICATED:
      return absl::UnauthenticatedError(absl::StrCat(address_.address, " wants its token (", said,
                                                     "): name the file with --token_file"));
    case grpc::StatusCode::UNIMPLEMENTED:
      return absl::UnimplementedError(
          absl::StrCat(address_.address,
                       " does not know this call: it is an older cache server, "
                       "or another program"));
    default:
      return absl::Status(static_cast<absl::StatusCode>(status.error_code()), said);
  }
}

absl::Status Connection::List(
    cache::v1::ListRequest request,
    const std::function<bool(const cache::v1::ListResponse&)>& page) const {
  if (request.page_size() == 0) request.set_page_size(kEntriesPerPage);
  do {
    ASSIGN_OR_RETURN(cache::v1::ListResponse response, Call(&Stub::List, request));
    request.set_page_token(response.next_page_token());
    if (!page(response)) return absl::OkStatus();
  } while (!request.page_token().empty());
  return absl::OkStatus();
}

}  // namespace tessera::ctl
