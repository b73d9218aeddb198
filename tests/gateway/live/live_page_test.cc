// The live page's files, over the whole gateway.
#include "gateway/live/live_page.h"

#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gateway/access/api_keys.h"
#include "tests/gateway/openai/api_fixture.h"

namespace tessera::openai {
namespace {

// Where the page's own text says src="..." or href="...".
std::vector<std::string> LinksOf(const std::string& html) {
  std::vector<std::string> links;
  for (const char* const attribute : {"src=\"", "href=\""}) {
    for (size_t at = html.find(attribute); at != std::string::npos;
         at = html.find(attribute, at + 1)) {
      const size_t first = html.find('"', at) + 1;
      links.push_back(html.substr(first, html.find('"', first) - first));
    }
  }
  return links;
}

class LivePageTest : public ApiFixture {
 protected:
  void SetUp() override {
    ApiFixture::SetUp();
    ApiOptions options;
    options.access.keys = *ApiKeys::Parse("alice key-of-alice\n");
    options.live_page = &page_;
    StartGateway(std::move(options));
  }

  const LivePage page_;
};

TEST_F(LivePageTest, IsServedWithoutAKey) {
  const ClientResponse response = Call("GET", "/");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "text/html; charset=utf-8");
  EXPECT_EQ(response.headers.at("x-content-type-options"), "nosniff");
  const std::string& policy = response.headers.at("content-security-policy");
  EXPECT_TRUE(absl::StrContains(policy, "default-src 'none'"));
  EXPECT_FALSE(absl::StrContains(policy, "unsafe"));
  EXPECT_TRUE(absl::StrContains(response.body, "<!doctype html>")) << response.body;
  // What it fetches still wants one.
  EXPECT_EQ(Call("GET", "/cluster").status, 401);
}

TEST_F(LivePageTest, EveryFileThatItNamesIsThere) {
  int scripts = 0, styles = 0;
  for (const std::string& link : LinksOf(Call("GET", "/").body)) {
    if (link.starts_with("#")) continue;
    ASSERT_TRUE(link.starts_with("/live/")) << link;
    const ClientResponse response = Call("GET", link);
    EXPECT_EQ(response.status, 200) << link;
    scripts += response.headers.at("content-type") == "text/javascript; charset=utf-8";
    styles += response.headers.at("content-type") == "text/css; charset=utf-8";
  }
  EXPECT_EQ(scripts, 1);  // it imports the others
  EXPECT_EQ(styles, 1);
}

TEST_F(LivePageTest, ABrowserThatHasItGetsNothing) {
  const ClientResponse first = Call("GET", "/");
  const std::string& etag = first.headers.at("etag");
  EXPECT_EQ(first.headers.at("cache-control"), "no-cache");
  for (const std::string& tag : {etag, absl::StrCat("W/", etag), absl::StrCat("\"x\", ", etag)}) {
    const ClientResponse again = Call("GET", "/", {}, absl::StrCat("If-None-Match: ", tag, "\r\n"));
    EXPECT_EQ(again.status, 304) << tag;
    EXPECT_TRUE(again.body.empty());
    EXPECT_EQ(again.headers.at("etag"), etag);
  }
  EXPECT_EQ(Call("GET", "/", {}, "If-None-Match: \"x\"\r\n").status, 200);
  EXPECT_NE(Call("GET", "/live/live.css").headers.at("etag"), etag);
}

TEST_F(LivePageTest, OtherPathsAndMethods) {
  EXPECT_EQ(Call("POST", "/").headers.at("allow"), "GET, HEAD");
  TestClient client(server_->port());
  ASSERT_TRUE(client.SendRequest("HEAD", "/"));
  EXPECT_EQ(client.Receive(/*head_only=*/true)->status, 200);
  for (const char* path : {"/live", "/live/", "/live/index.html", "/live/../settings.cc",
                           "/live/BUILD", "/index.html"}) {
    EXPECT_EQ(Call("GET", path).status, 401) << path;
    EXPECT_EQ(Call("GET", path, {}, "Authorization: Bearer key-of-alice\r\n").status, 404) << path;
  }
}

TEST_F(LivePageTest, ItMayBeSwitchedOff) {
  StartGateway();
  EXPECT_EQ(Call("GET", "/").status, 404);
  EXPECT_EQ(Call("GET", "/live/live.css").status, 404);
}

}  // namespace
}  // namespace tessera::openai
