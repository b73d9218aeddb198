#include "gateway/http/target.h"

#include "gtest/gtest.h"

namespace tessera::http {
namespace {

TEST(TargetTest, DropsWhatIsNotThePath) {
  EXPECT_EQ(PathOf("/v1/models?x=1#y"), "/v1/models");
  EXPECT_EQ(PathOf("http://host:80/v1/models?x"), "/v1/models");
  EXPECT_EQ(PathOf("http://host"), "/");
  EXPECT_EQ(PathOf("/a?u=http://b/c"), "/a");
}

TEST(TargetTest, DecodesEscapesAndLeavesBrokenOnes) {
  EXPECT_EQ(PathOf("/v1/models/a%2Fb%20c"), "/v1/models/a/b c");
  EXPECT_EQ(PathOf("/100%"), "/100%");
  EXPECT_EQ(PathOf("/%4"), "/%4");
  EXPECT_EQ(PathOf("/%zz%41"), "/%zzA");
}

TEST(TargetTest, SplitsAndDecodesTheQuery) {
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(QueryOf("/v1/chunks"), Pairs());
  EXPECT_EQ(QueryOf("/v1/chunks?"), Pairs());
  EXPECT_EQ(QueryOf("/v1/chunks?limit=20&after=a%2Fb+c%26d#x?y=1"),
            (Pairs{{"limit", "20"}, {"after", "a/b c&d"}}));
  EXPECT_EQ(QueryOf("http://host?a&&b=&=c&a=1=2&%zz=%"),
            (Pairs{{"a", ""}, {"b", ""}, {"", "c"}, {"a", "1=2"}, {"%zz", "%"}}));
}

}  // namespace
}  // namespace tessera::http
