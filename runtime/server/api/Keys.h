// Who may use the server: named secret keys from a file.
#ifndef MOE_RUNTIME_SERVER_API_KEYS_H
#define MOE_RUNTIME_SERVER_API_KEYS_H

#include "runtime/Status.h"
#include "runtime/server/api/Sha256.h"
#include "runtime/server/http/Server.h"

#include <optional>
#include <string>
#include <vector>

namespace moe::server::api {

// Holds the keys' hashes alone. None at all: everybody may.
class Keys {
public:
  // Lines "name:key"; empty ones and those that start with # say nothing. Error: InvalidArgument,
  // with the number of the line and never its text, for a line of another form, a key of fewer than
  // 8 bytes, and a name or a key that is there twice.
  static Result<Keys> parse(std::string_view text);
  // IoError, also for a file that others than its owner may read: it should have mode 0600.
  static Result<Keys> read(const std::string &path);

  bool empty() const { return keys.empty(); }
  // The name of the key that a request shows as "Authorization: Bearer KEY" or "x-api-key: KEY";
  // nothing if it is none of these. The time that it takes does not depend on the keys.
  std::optional<std::string> nameOf(const http::HttpRequest &request) const;

private:
  struct Key {
    std::string name;
    Sha256 hash;
  };
  std::vector<Key> keys;
};

} // namespace moe::server::api

#endif
