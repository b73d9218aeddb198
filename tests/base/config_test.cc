#include "base/config/config.h"

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/config/option_value.h"
#include "base/config/options.h"
#include "base/config/print.h"
#include "gmock/gmock.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "proto/config.pb.h"
#include "tests/base/config_loading.h"

namespace tessera::config {
namespace {

using google::protobuf::util::MessageDifferencer;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

TEST(ConfigTest, DefaultsAreWhatIsDeclared) {
  Gateway gateway{{}, {}, {"--model_dir=/m"}, {}, {}};
  ASSERT_EQ(gateway.Error(), "");
  EXPECT_EQ(gateway.config.listen(), "0.0.0.0:8000");
  EXPECT_THAT(gateway.config.workers(), ElementsAre("127.0.0.1:7601"));
  EXPECT_EQ(gateway.config.blend_separator(), " # # ");
  EXPECT_EQ(gateway.config.blend_join(), "\\n\\n");
  EXPECT_EQ(gateway.config.max_body_bytes(), 16u << 20);
  EXPECT_EQ(gateway.config.request_timeout(), 600'000u);
  EXPECT_TRUE(gateway.config.guard_metrics());
  EXPECT_EQ(gateway.OriginOf("listen").source, Origin::Source::kDefault);
  Cache cache;
  ASSERT_EQ(cache.Error(), "");
  EXPECT_EQ(cache.config.ram_bytes(), uint64_t{4} << 30);
  EXPECT_EQ(cache.config.evict_from(), 0.9);
  Worker worker{{}, {}, {"--model=/m"}, {}, {}};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.config.recompute_ratio(), 0.15);
}

// What is written for people is never missing, and bounds are values (or SetOption would end us).
TEST(ConfigTest, EveryOptionOfEveryProgramIsDocumentedAndUsable) {
  for (int i = 0; i < GatewayConfig::descriptor()->file()->message_type_count(); ++i) {
    const auto& type = *GatewayConfig::descriptor()->file()->message_type(i);
    EXPECT_FALSE(ProgramOf(type).summary().empty());
    for (int j = 0; j < type.field_count(); ++j) {
      const auto& field = *type.field(j);
      EXPECT_GT(OptionOf(field).doc().size(), 10u) << field.full_name();
      EXPECT_EQ(OptionOf(field).doc().back(), '.') << field.full_name();
      const std::unique_ptr<google::protobuf::Message> message(
          google::protobuf::MessageFactory::generated_factory()->GetPrototype(&type)->New());
      SetDefaults(message.get());
      EXPECT_TRUE(OptionOf(field).required() ||
                  SetOption(FormatOption(*message, field), field, message.get()).ok())
          << field.full_name();
      EXPECT_THAT(HelpText(type), HasSubstr(absl::StrCat("\n  --", field.name(), "=")));
    }
  }
}

TEST(ConfigTest, EachSourceGoesOverTheOnesBeforeIt) {
  Worker worker;
  worker.files["w.yaml"] = "model: /file\nmax_len: 1\nqueue: 1\nchunk_size: 16\nthreads: 1\n";
  worker.files["lmcache.yaml"] = "chunk_size: 32\nenable_blending: false\n";
  worker.environment = {"TESSERA_WORKER_CONFIG=w.yaml",
                        "LMCACHE_CONFIG_FILE=lmcache.yaml",
                        "LMCACHE_BLEND_CHECK_LAYERS=2",
                        "TESSERA_WORKER_CHECK_LAYER=3",
                        "TESSERA_WORKER_QUEUE=2",
                        "TESSERA_WORKER_MAX_LEN=2",
                        "LMCACHE_BLEND_RECOMPUTE_RATIOS=.3",
                        "PATH=/bin"};
  worker.arguments = {"--max_len", "3", "--max_len=4"};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.config.model(), "/file");
  EXPECT_EQ(worker.config.threads(), 1u);
  EXPECT_EQ(worker.config.chunk_size(), 32u);
  EXPECT_FALSE(worker.config.blend());
  EXPECT_EQ(worker.config.recompute_ratio(), 0.3);
  EXPECT_EQ(worker.config.check_layer(), 3u);
  EXPECT_EQ(worker.config.queue(), 2u);
  EXPECT_EQ(worker.config.max_len(), 4u);
  EXPECT_EQ(worker.OriginOf("threads").place, "w.yaml:5");
  EXPECT_EQ(worker.OriginOf("chunk_size").place, "lmcache.yaml:1: chunk_size");
  EXPECT_EQ(worker.OriginOf("recompute_ratio").place, "LMCACHE_BLEND_RECOMPUTE_RATIOS");
  EXPECT_EQ(worker.OriginOf("queue").place, "TESSERA_WORKER_QUEUE");
  EXPECT_EQ(worker.OriginOf("max_len").source, Origin::Source::kFlag);
  const auto& type = *WorkerConfig::descriptor();
  for (const char* given : {"threads", "chunk_size", "recompute_ratio", "queue", "max_len"}) {
    EXPECT_TRUE(IsGiven(worker.loaded, type, given)) << given;
  }
  EXPECT_FALSE(IsGiven(worker.loaded, type, "policy"));
  worker.files["other.yaml"] = "model: /other\n";
  worker.arguments = {"--config=other.yaml"};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.config.model(), "/other");
}

TEST(ConfigTest, YamlSetsOptionsOfEveryKind) {
  Gateway gateway = GatewayFile(
      "# comment\nlisten: 127.0.0.1:0\nworkers: [a:1, \"b:2\"]\ncors_origins: 'https://x, *'\n"
      "blend_separator: \"\\n---\\n\"\nblend_keep_separator: True\nmax_body_bytes: 1.5MiB\n"
      "max_header_bytes: 2048\nidle_timeout: 1m30s\nmax_queued: 0\ncache: ''\n");
  ASSERT_EQ(gateway.Error(), "");
  EXPECT_EQ(gateway.config.listen(), "127.0.0.1:0");
  EXPECT_THAT(gateway.config.workers(), ElementsAre("a:1", "b:2"));
  EXPECT_THAT(gateway.config.cors_origins(), ElementsAre("https://x", "*"));
  EXPECT_EQ(gateway.config.blend_separator(), "\n---\n");
  EXPECT_TRUE(gateway.config.blend_keep_separator());
  EXPECT_EQ(gateway.config.max_body_bytes(), 1572864u);
  EXPECT_EQ(gateway.config.max_header_bytes(), 2048u);
  EXPECT_EQ(gateway.config.idle_timeout(), 90'000u);
  EXPECT_EQ(gateway.config.max_queued(), 0u);
  EXPECT_EQ(gateway.config.cache(), "");
  Worker worker{{{"w", "model: m\ncorrection: true\nsink: none\n"}}, {}, {"--config=w"}, {}, {}};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.config.correction(), "true");
}

TEST(ConfigTest, AnUnknownFieldNamesItselfItsLineAndTheClosest) {
  EXPECT_EQ(GatewayFile("worker: a:1\n").Error(),
            "g.yaml:2: no option 'worker'; the closest is 'workers'");
  EXPECT_EQ(GatewayFile("\nAPI_key: sk-secret\n").Error(),
            "g.yaml:3: no option 'API_key'; the closest is 'api_keys_file'");
  Gateway gateway = GatewayFile("");
  gateway.environment = {"TESSERA_GATEWAY_MAX_QUEUE=1", "TESSERA_GATEWAY_SERVICE_HOST=10.0.0.1",
                         "TESSERA_GATEWAY_PORT_8000_TCP=tcp://10.0.0.1:8000", "TESSERA_MODELS=x",
                         "TESSERA_GATEWAY_listen=x"};
  EXPECT_EQ(gateway.Error(),
            "no option 'TESSERA_GATEWAY_MAX_QUEUE' in the environment; the closest is "
            "TESSERA_GATEWAY_MAX_QUEUED\n"
            "no option 'TESSERA_GATEWAY_listen' in the environment; the closest is "
            "TESSERA_GATEWAY_LISTEN");
}

TEST(ConfigTest, CommandLinesInEveryForm) {
  Gateway gateway{{}, {}, {}, {}, {}};
  gateway.arguments = {"--model-dir",          "/m",
                       "-listen=x:1",          "--noguard_metrics",
                       "--vllm_metric_names",  "--workers=a:1, b:2,",
                       "--blend_separator=--", "--log_level",
                       "debug",                "--idle_timeout=0.5s"};
  ASSERT_EQ(gateway.Error(), "");
  EXPECT_EQ(gateway.config.model_dir(), "/m");
  EXPECT_EQ(gateway.config.listen(), "x:1");
  EXPECT_FALSE(gateway.config.guard_metrics());
  EXPECT_TRUE(gateway.config.vllm_metric_names());
  EXPECT_THAT(gateway.config.workers(), ElementsAre("a:1", "b:2"));
  EXPECT_EQ(gateway.config.blend_separator(), "--");
  EXPECT_EQ(gateway.config.idle_timeout(), 500u);
  EXPECT_EQ(gateway.config.log_level(), "debug");
  gateway.arguments = {"--model_dir=/m", "--lisen=x", "sk-secret",
                       "--threads",      "--",        "--noworkers"};
  EXPECT_EQ(gateway.Error(),
            "no option '--lisen'; the closest is --listen\n"
            "argument 3 is no option: write --name=value\n"
            "--threads has no value: write --threads=value\n"
            "no option '--'; the closest is --help\n"
            "no option '--noworkers'; the closest is --workers");
}

struct BadValue {
  const char* yaml;
  const char* error;  // a part of it
};

TEST(ConfigTest, ValuesAreTypedAndChecked) {
  for (const BadValue& bad : std::vector<BadValue>{
           {"threads: two", "threads: 'two' is not a whole number, 0 or more: give one"},
           {"threads: '2'", "'2' is text: take the quotes away"},
           {"threads: 1.5", "'1.5' is not a whole number"},
           {"threads: -1", "'-1' is not a whole number"},
           {"threads: 0", "'0' is out of range: give 1 to 256"},
           {"threads: 99999999999999999999", "is not a whole number"},
           {"threads: [2]", "a list stands there: give one value"},
           {"threads: {a: 2}", "something nested stands there: give NUMBER"},
           {"threads:", "no value stands there"},
           {"threads: ~", "no value stands there"},
           {"listen: 8000", "'8000' is no text in YAML: put it in quotes, as \"8000\""},
           {"listen: true", "'true' is no text in YAML"},
           {"cache: ~", "no value stands there"},
           {"guard_metrics: 'true'", "'true' is no bool: give true or false, without quotes"},
           {"guard_metrics: 1", "'1' is no bool"},
           {"idle_timeout: 5", "'5' is not a time with its unit, such as 500ms, 15s or 1m30s"},
           {"idle_timeout: -5s", "is not a time"},
           {"idle_timeout: inf", "is not a time"},
           {"idle_timeout: 1us", "is not a time"},
           {"idle_timeout: 48h", "out of range: give 1ms to 24h"},
           {"max_body_bytes: 4 gigs", "is not a number of bytes, such as 65536, 512MB or 4GiB"},
           {"max_body_bytes: 4G", "is not a number of bytes"},
           {"max_body_bytes: '65536'", "is text: take the quotes away"},
           {"max_body_bytes: 2GiB", "out of range: give 1KiB to 1GiB"},
           {"workers: [a, [b]]", "something nested stands there: give TEXT,..."},
           {"workers: [a, 1]", "'1' is no text in YAML"},
           {"workers: ['a,b']", "'a,b' is no value of a list"},
           {"listen: \"a\\0b\"", "the value is not UTF-8, or has a zero byte"},
       }) {
    const std::string error = GatewayFile(bad.yaml).Error();
    EXPECT_THAT(error, testing::StartsWith("g.yaml:2: "));
    EXPECT_THAT(error, HasSubstr(bad.error)) << bad.yaml;
  }
  Cache cache;
  cache.arguments = {"--evict_from=0",
                     "--admission=some",
                     "--flush_interval=1ms",
                     "--lease=nan",
                     "--max_keys_per_call=4294967296",
                     "--evict_from=nan"};
  EXPECT_EQ(cache.Error(),
            "--evict_from: '0' is out of range: give more than 0 and at most 1\n"
            "--admission: 'some' is none of the choices: give all, second_sighting, pinned\n"
            "--flush_interval: '1ms' is out of range: give 100ms to 24h\n"
            "--lease: 'nan' is not a time with its unit, such as 500ms, 15s or 1m30s: give one\n"
            "--max_keys_per_call: '4294967296' is out of range: give 256 to 1000000\n"
            "--evict_from: 'nan' is not a number, such as 0.5: give one");
}

TEST(ConfigTest, YamlThatIsNoConfigurationIsRefused) {
  for (const BadValue& bad : std::vector<BadValue>{
           {"threads: 2\nlisten: a:1\nthreads: 3",
            "g.yaml:4: 'threads' is there twice, first on line 2: take one away"},
           {"cache: &a x\nlisten: y", "g.yaml:2: '&' makes an anchor"},
           {"cache: *a", "g.yaml:2: "},
           {"cache: !!str 12", "g.yaml:2: '!' makes a tag"},
           {"cache: !secret x", "g.yaml:2: '!' makes a tag"},
           {"---\nthreads: 3", "a second document begins"},
           {"cache: [a", "not YAML"},
           {"cache: 'a", "not YAML"},
           {"cache: 'a\nthreads: 2\n", "g.yaml:2: the quote has no end"},
           {"listen: éé\r\ncache: 'a\n", "g.yaml:3: the quote has no end"},
           {"cache: 'it''s\n", "g.yaml:2: the quote has no end"},
           {"cache: \"a\\\"\n", "g.yaml:2: the quote has no end"},
           {"cache: 'a'\n'b", "not YAML"},
           {"cache: 'a' b", "not YAML"},
           {"workers: [a,\n", "not YAML"},
           {"workers: [a]]\n", "not YAML"},
           {"{cache: a\n", "not YAML"},
           {"cache: a: b\n", "not YAML"},
           {"\tthreads: 2", "not YAML"},
           {"{a: b}: 2", "a value has no name"},
           {"cache: \xff", "not UTF-8"},
           {"x: [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]", "g.yaml:2: nested deeper than 16"},
       }) {
    EXPECT_THAT(GatewayFile(bad.yaml).Error(), HasSubstr(bad.error)) << bad.yaml;
  }
  Worker worker{{{"w", "- a\n- b: [c]\n"}}, {}, {"--config=w", "--model=m"}, {}, {}};
  EXPECT_EQ(worker.Error(),
            "w:1: a list stands where options are expected: write 'name: value' lines");
  worker.files["w"] = "just text\n";
  EXPECT_EQ(worker.Error(), "w:1: a value without a name: write 'name: value'");
  worker.files["w"] = std::string((1 << 20) + 1, '#');
  EXPECT_THAT(worker.Error(), HasSubstr("larger than 1 MiB"));
  worker.files["w"] = "x: " + std::string(100'000, '[');
  EXPECT_THAT(worker.Error(), HasSubstr("w:1: "));
  worker.files["w"] = "\xef\xbb\xbf\"queue\": 7 # é\r\nmodel_name: 'it''s \"é'\r\nsink: \"bos\"";
  EXPECT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.config.model_name(), "it's \"é");
  EXPECT_EQ(worker.config.queue(), 7u);
  worker.files["w"] = "# nothing\n";
  EXPECT_EQ(worker.Error(), "");
  worker.files.clear();
  EXPECT_EQ(worker.Error(), "--config: no w");
}

TEST(ConfigTest, AllMistakesAreSaidAtOnce) {
  Gateway gateway = GatewayFile("threads: two\nwrong: 1\nmax_queued: -1\n");
  gateway.environment = {"TESSERA_GATEWAY_THREADS=x"};
  gateway.arguments.push_back("--max_queued=y");
  EXPECT_EQ(gateway.Error(),
            "g.yaml:2: threads: 'two' is not a whole number, 0 or more: give one\n"
            "g.yaml:3: no option 'wrong'; the closest is 'workers'\n"
            "g.yaml:4: max_queued: '-1' is not a whole number, 0 or more: give one\n"
            "TESSERA_GATEWAY_THREADS: 'x' is not a whole number, 0 or more: give one\n"
            "--max_queued: 'y' is not a whole number, 0 or more: give one");
}

TEST(ConfigTest, NobodyReadsAThousandMistakes) {
  std::string yaml;
  for (int i = 0; i < 1000; ++i) absl::StrAppend(&yaml, "wrong_", i, ": 1\n");
  EXPECT_THAT(GatewayFile(yaml).Error(), testing::EndsWith("\nand 950 more mistakes"));
}

TEST(ConfigTest, ARequiredOptionIsMissedWhenItIsToServe) {
  Worker worker;
  EXPECT_EQ(worker.Error(),
            "--model is required: Hugging Face folder: config.json and *.safetensors in bf16 or "
            "f32.");
  worker.arguments = {"--model="};
  EXPECT_THAT(worker.Error(), HasSubstr("--model is required"));
  worker.arguments = {"--print-config"};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_THAT(PrintedConfig(worker.config, worker.loaded),
              HasSubstr("# from: default (required)\n# model: \"\"\n"));
  worker.arguments = {"--help", "--no_such"};
  ASSERT_EQ(worker.Error(), "");
  EXPECT_EQ(worker.loaded.wish, LoadedConfig::Wish::kHelp);
}

TEST(ConfigTest, WhatIsPrintedGivesTheSameConfiguration) {
  Gateway gateway = GatewayFile("request_timeout: 1500ms\nmax_body_bytes: 1000001\n");
  gateway.environment = {"TESSERA_GATEWAY_BLEND_JOIN=\x01\"\\é\u2028\U0010ffff\n#: '",
                         "TESSERA_GATEWAY_CORS_ORIGINS=https://a,*"};
  gateway.arguments.insert(gateway.arguments.end(), {"--api_keys_file=true", "--workers="});
  ASSERT_EQ(gateway.Error(), "");
  const std::string printed = PrintedConfig(gateway.config, gateway.loaded);
  EXPECT_THAT(printed, HasSubstr("\n# from: file g.yaml:2\nrequest_timeout: 1500ms\n"));
  EXPECT_THAT(printed, HasSubstr("\n# from: flag --api_keys_file\napi_keys_file: \"true\"\n"));
  EXPECT_THAT(printed, HasSubstr("\n# from: environment TESSERA_GATEWAY_CORS_ORIGINS\n"));
  Gateway again{{{"p", printed}}, {}, {"--config=p"}, {}, {}};
  ASSERT_EQ(again.Error(), "");
  EXPECT_TRUE(MessageDifferencer::Equals(gateway.config, again.config)) << printed;
  EXPECT_THAT(again.config.workers(), IsEmpty());
}

TEST(ConfigTest, WhatIsPrintedIsSafeWhateverAPathIs) {
  const std::string path = "a\nthreads: 99\n\xff.yaml";
  Worker worker{{{path, "model: m\n"}}, {}, {absl::StrCat("--config=", path)}, {}, {}};
  ASSERT_EQ(worker.Error(), "");
  Worker again{{{"p", PrintedConfig(worker.config, worker.loaded)}}, {}, {"--config=p"}, {}, {}};
  ASSERT_EQ(again.Error(), "");
  EXPECT_TRUE(MessageDifferencer::Equals(worker.config, again.config));
}

}  // namespace
}  // namespace tessera::config
