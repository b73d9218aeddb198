#include "gateway/openai/controls.h"

#include "tests/gateway/openai/parse_request.h"

namespace tessera::openai {
namespace {

worker::v1::BlendOptions Blend(const std::string& object, http::Headers headers = {}) {
  return Parse(Endpoint::kCompletions, R"({"prompt": "hi", "tessera": )" + object + "}",
               std::move(headers))
      .blend;
}

// The header or field that an error names.
std::string Refused(const std::string& object, http::Headers headers = {}) {
  return RefusedParam(Endpoint::kCompletions, R"({"prompt": "hi", "tessera": )" + object + "}",
                      std::move(headers));
}

TEST(ControlsTest, ReadsTheBodysObject) {
  const auto blend = Blend(R"({"mode": "exact", "policy": "query_v+first", "recompute_ratio": 0,
                               "correction": false, "store": false, "report_rows": true})");
  EXPECT_EQ(blend.mode(), worker::v1::EXACT);
  EXPECT_EQ(blend.policy(), "query_v+first");
  EXPECT_TRUE(blend.has_recompute_ratio());
  EXPECT_EQ(blend.recompute_ratio(), 0.0f);
  EXPECT_TRUE(blend.has_correction());
  EXPECT_FALSE(blend.correction());
  EXPECT_TRUE(blend.has_store());
  EXPECT_FALSE(blend.store());
  EXPECT_TRUE(blend.report_rows());
  EXPECT_FALSE(Blend("{}").report_rows());
  EXPECT_EQ(Blend(R"({"mode": "auto"})").mode(), worker::v1::AUTO);
  EXPECT_EQ(Blend(R"({"mode": "blend"})").mode(), worker::v1::BLEND);
  EXPECT_EQ(Blend(R"({"mode": "off"})").mode(), worker::v1::OFF);
  EXPECT_FALSE(Blend(R"({"mode": null, "store": null})").has_store());
  for (const char* policy : {"query_v", "query", "hkvd_v", "hkvd_k", "first_k", "none", "full",
                             "random", "query+first"}) {
    EXPECT_EQ(Blend(std::string(R"({"policy": ")") + policy + "\"}").policy(), policy);
  }
}

TEST(ControlsTest, ReadsHeaders) {
  const auto blend = Blend("{}", {{"x-tessera-mode", "off"},
                                  {"x-tessera-policy", "hkvd_v"},
                                  {"x-tessera-recompute-ratio", "0.25"},
                                  {"x-tessera-correction", "true"},
                                  {"x-tessera-store", "false"},
                                  {"x-tessera-report-rows", "true"}});
  EXPECT_TRUE(blend.report_rows());
  EXPECT_EQ(blend.mode(), worker::v1::OFF);
  EXPECT_EQ(blend.policy(), "hkvd_v");
  EXPECT_EQ(blend.recompute_ratio(), 0.25f);
  EXPECT_TRUE(blend.correction());
  EXPECT_TRUE(blend.has_store());
  EXPECT_FALSE(blend.store());
}

TEST(ControlsTest, TheBodyWins) {
  const auto blend = Blend(R"({"mode": "exact", "store": true, "recompute_ratio": null})",
                           {{"x-tessera-mode", "blend"},
                            {"x-tessera-store", "false"},
                            {"x-tessera-recompute-ratio", "1"}});
  EXPECT_EQ(blend.mode(), worker::v1::EXACT);
  EXPECT_TRUE(blend.store());
  EXPECT_EQ(blend.recompute_ratio(), 1.0f);
  const auto salt = [](const std::string& fields, http::Headers headers) {
    return Parse(Endpoint::kCompletions, R"({"prompt": "hi")" + fields + "}", std::move(headers))
        .cache_salt;
  };
  EXPECT_EQ(salt("", {{"x-tessera-cache-salt", "h"}}), "h");
  EXPECT_EQ(salt(R"(, "cache_salt": "b")", {{"x-tessera-cache-salt", "h"}}), "b");
  EXPECT_EQ(salt(R"(, "cache_salt": null)", {{"x-tessera-cache-salt", "h"}}), "h");
}

TEST(ControlsTest, BadValuesNameTheField) {
  EXPECT_EQ(Refused("[]"), "tessera");
  EXPECT_EQ(Refused(R"({"mode": "fast"})"), "tessera.mode");
  EXPECT_EQ(Refused(R"({"mode": 1})"), "tessera.mode");
  EXPECT_EQ(Refused(R"({"policy": "best"})"), "tessera.policy");
  EXPECT_EQ(Refused(R"({"policy": "first"})"), "tessera.policy");
  EXPECT_EQ(Refused(R"({"policy": "query_v+"})"), "tessera.policy");
  EXPECT_EQ(Refused(R"({"policy": ""})"), "tessera.policy");
  EXPECT_EQ(Refused(R"({"recompute_ratio": 1.1})"), "tessera.recompute_ratio");
  EXPECT_EQ(Refused(R"({"recompute_ratio": -0.1})"), "tessera.recompute_ratio");
  EXPECT_EQ(Refused(R"({"recompute_ratio": "a"})"), "tessera.recompute_ratio");
  EXPECT_EQ(Refused(R"({"correction": "on"})"), "tessera.correction");
  EXPECT_EQ(Refused(R"({"store": 1})"), "tessera.store");
  EXPECT_EQ(Refused(R"({"report_rows": 1})"), "tessera.report_rows");
  EXPECT_EQ(Refused(R"({"ratio": 0.5})"), "tessera.ratio");
}

TEST(ControlsTest, BadValuesNameTheHeaderEvenIfTheBodyWins) {
  EXPECT_EQ(Refused("{}", {{"x-tessera-mode", "fast"}}), "X-Tessera-Mode");
  EXPECT_EQ(Refused(R"({"mode": "auto"})", {{"x-tessera-mode", "fast"}}), "X-Tessera-Mode");
  EXPECT_EQ(Refused("{}", {{"x-tessera-policy", "true"}}), "X-Tessera-Policy");
  EXPECT_EQ(Refused("{}", {{"x-tessera-recompute-ratio", "nan"}}), "X-Tessera-Recompute-Ratio");
  EXPECT_EQ(Refused("{}", {{"x-tessera-recompute-ratio", "2"}}), "X-Tessera-Recompute-Ratio");
  EXPECT_EQ(Refused("{}", {{"x-tessera-recompute-ratio", "15%"}}), "X-Tessera-Recompute-Ratio");
  EXPECT_EQ(Refused("{}", {{"x-tessera-correction", "1"}}), "X-Tessera-Correction");
  EXPECT_EQ(Refused("{}", {{"x-tessera-store", "no"}}), "X-Tessera-Store");
  EXPECT_EQ(Refused("{}", {{"x-tessera-cache-salt", "\xff"}}), "X-Tessera-Cache-Salt");
}

}  // namespace
}  // namespace tessera::openai
