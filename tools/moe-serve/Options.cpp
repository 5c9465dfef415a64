#include "tools/moe-serve/Options.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace moe {

Result<uint64_t> parseBytes(const std::string &text) {
  double value = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit(end, text.data() + text.size());
  int shift = -1;
  if (unit.empty())
    shift = 0;
  else if (unit.size() == 1 || (unit.size() == 2 && (unit[1] == 'B' || unit[1] == 'b')))
    for (const auto &[letters, bits] : {std::pair("kK", 10), {"mM", 20}, {"gG", 30}, {"tT", 40}})
      if (std::string_view(letters).find(unit[0]) != std::string_view::npos)
        shift = bits;
  const double bytes = shift < 0 ? -1 : std::ldexp(value, shift);
  if (failure != std::errc() || !(bytes >= 1 && bytes < 0x1p60))
    return Error{Code::InvalidArgument,
                 "'" + text + "' is no number of bytes; expected one as 512M or 8G"};
  return uint64_t(bytes);
}

Result<std::vector<NamedPlan>> namedPlans(const std::vector<std::string> &plans,
                                          const std::vector<std::string> &aliases) {
  std::vector<NamedPlan> named;
  for (const std::string &text : plans) {
    const size_t equals = text.find('=');
    NamedPlan plan;
    if (equals != std::string::npos && text.find('/') > equals) {
      plan = {text.substr(0, equals), text.substr(equals + 1), {}};
    } else {
      plan.path = text;
      plan.name = text.substr(text.rfind('/') + 1); // npos + 1 is 0
      if (plan.name.ends_with(".plan"))
        plan.name.resize(plan.name.size() - 5);
    }
    if (plan.name.empty() || plan.path.empty())
      return Error{Code::InvalidArgument, "'" + text + "': expected PLAN or NAME=PLAN"};
    if (std::any_of(named.begin(), named.end(),
                    [&](const NamedPlan &other) { return other.name == plan.name; }))
      return Error{Code::InvalidArgument,
                   "two plans have the name '" + plan.name + "'; give one as NAME=" + plan.path};
    named.push_back(std::move(plan));
  }
  for (const std::string &alias : aliases) {
    const size_t equals = alias.find('=');
    const auto plan = std::find_if(named.begin(), named.end(), [&](const NamedPlan &p) {
      return p.name == alias.substr(equals + 1); // npos + 1 is 0
    });
    if (equals == 0 || equals == std::string::npos || plan == named.end())
      return Error{Code::InvalidArgument,
                   "--alias " + alias + ": expected ALIAS=NAME with the name of a plan"};
    plan->aliases.push_back(alias.substr(0, equals));
  }
  return named;
}

} // namespace moe
