#include "runtime/server/api/Endpoints.h"

#include "runtime/server/api/Sha256.h"

#include <ctime>
#include <random>

namespace moe::server::api {

Check findModel(const Json &body, const Models &models, std::shared_ptr<const ServedModel> &model) {
  std::string name;
  const Field field{"model", &name};
  MOE_CHECK(readFields(body, {&field, 1}));
  model = models.find(name);
  if (model)
    return std::nullopt;
  if (name.empty())
    return Problem{503, "no model is loaded", {}, {}, std::chrono::seconds(1)};
  return Problem{404,
                 "the model '" + name.substr(0, 128) +
                     "' does not exist; GET /v1/models lists "
                     "those that do",
                 "model",
                 "model_not_found",
                 {}};
}

uint64_t saltOf(std::string_view key, std::string_view salt) {
  if (key.empty() && salt.empty())
    return 0;
  const Sha256 hash =
      sha256(std::to_string(key.size()) + ":" + std::string(key) + std::string(salt));
  uint64_t value = 0;
  for (int i = 0; i < 8; ++i)
    value = value << 8 | hash[size_t(i)];
  return value;
}

std::string randomId(const char *prefix) {
  thread_local std::mt19937_64 random(uint64_t(std::random_device{}()) << 32 |
                                      std::random_device{}());
  constexpr std::string_view kAlphabet =
      "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  std::uniform_int_distribution<size_t> any(0, kAlphabet.size() - 1);
  std::string id = prefix;
  for (int i = 0; i < 24; ++i)
    id += kAlphabet[any(random)];
  return id;
}

Head::Head(const char *prefix, const ServedModel &model)
    : id(randomId(prefix)), model(model.name), fingerprint(model.hash),
      created(int64_t(std::time(nullptr))) {}

} // namespace moe::server::api
