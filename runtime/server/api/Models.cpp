#include "runtime/server/api/Models.h"

#include <algorithm>

namespace moe::server::api {

void Models::put(std::shared_ptr<const ServedModel> model) {
  const std::lock_guard lock(mutex);
  for (auto &other : models)
    if (other->name == model->name) {
      other.swap(model); // the old one is destroyed after the lock, if nothing else holds it
      return;
    }
  models.push_back(std::move(model));
}

void Models::remove(const std::string &name) {
  std::shared_ptr<const ServedModel> removed; // as above
  const std::lock_guard lock(mutex);
  const auto at = std::find_if(models.begin(), models.end(),
                               [&](const auto &model) { return model->name == name; });
  if (at == models.end())
    return;
  removed = std::move(*at);
  models.erase(at);
}

std::shared_ptr<const ServedModel> Models::find(const std::string &name) const {
  const std::lock_guard lock(mutex);
  for (const auto &model : models)
    if (name.empty() || model->name == name)
      return model;
  for (const auto &model : models)
    if (std::find(model->aliases.begin(), model->aliases.end(), name) != model->aliases.end())
      return model;
  return nullptr;
}

std::vector<std::shared_ptr<const ServedModel>> Models::all() const {
  const std::lock_guard lock(mutex);
  return models;
}

} // namespace moe::server::api
