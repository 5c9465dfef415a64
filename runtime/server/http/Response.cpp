#include "runtime/server/http/Response.h"

#include "runtime/server/http/Characters.h"

#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>

namespace moe::server::http {

std::string_view reasonOf(int status) {
  switch (status) {
  case 100:
    return "Continue";
  case 200:
    return "OK";
  case 201:
    return "Created";
  case 202:
    return "Accepted";
  case 204:
    return "No Content";
  case 301:
    return "Moved Permanently";
  case 302:
    return "Found";
  case 304:
    return "Not Modified";
  case 400:
    return "Bad Request";
  case 401:
    return "Unauthorized";
  case 403:
    return "Forbidden";
  case 404:
    return "Not Found";
  case 405:
    return "Method Not Allowed";
  case 408:
    return "Request Timeout";
  case 409:
    return "Conflict";
  case 413:
    return "Content Too Large";
  case 415:
    return "Unsupported Media Type";
  case 417:
    return "Expectation Failed";
  case 422:
    return "Unprocessable Content";
  case 429:
    return "Too Many Requests";
  case 431:
    return "Request Header Fields Too Large";
  case 500:
    return "Internal Server Error";
  case 501:
    return "Not Implemented";
  case 503:
    return "Service Unavailable";
  case 505:
    return "HTTP Version Not Supported";
  default:
    return "Unknown";
  }
}

namespace {
void appendHeader(std::string &out, std::string_view name, std::string_view value) {
  if (!isToken(name))
    return;
  out += name;
  out += ": ";
  for (char c : value)
    out += isControl(c) ? ' ' : c;
  out += "\r\n";
}

// RFC 9110 asks for it. Made once a second.
void appendDate(std::string &out) {
  thread_local time_t made = -1;
  thread_local std::array<char, 64> text;
  thread_local size_t length = 0;
  if (const time_t now = std::time(nullptr); now != made) {
    // strftime would write the names in the language of the locale.
    static constexpr const char *kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
    static constexpr const char *kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                              "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    tm t = {};
    gmtime_r(&now, &t);
    length = size_t(std::snprintf(
        text.data(), text.size(), "date: %s, %02d %s %d %02d:%02d:%02d GMT\r\n", kDays[t.tm_wday],
        t.tm_mday, kMonths[t.tm_mon], t.tm_year + 1900, t.tm_hour, t.tm_min, t.tm_sec));
    made = now;
  }
  out.append(text.data(), length);
}

bool isOurs(std::string_view name) {
  for (std::string_view ours :
       {"date", "content-type", "content-length", "transfer-encoding", "connection"})
    if (equalsIgnoringCase(name, ours))
      return true;
  return false;
}
} // namespace

void appendHead(std::string &out, const ResponseHead &head, const Headers &headers) {
  out += "HTTP/1.1 ";
  out += std::to_string(head.status);
  out += ' ';
  out += reasonOf(head.status);
  out += "\r\n";
  appendDate(out);
  if (!head.contentType.empty())
    appendHeader(out, "content-type", head.contentType);
  if (head.length && head.status != 204 && head.status != 304)
    appendHeader(out, "content-length", std::to_string(*head.length));
  if (!head.length && !head.untilClose)
    appendHeader(out, "transfer-encoding", "chunked");
  if (!head.keepAlive)
    appendHeader(out, "connection", "close");
  else if (!head.http11)
    appendHeader(out, "connection", "keep-alive");
  for (const auto &[name, value] : headers)
    if (!isOurs(name))
      appendHeader(out, name, value);
  out += "\r\n";
}

void appendChunk(std::string &out, std::string_view data) {
  if (data.empty())
    return;
  std::array<char, 16> size;
  const auto end = std::to_chars(size.data(), size.data() + size.size(), data.size(), 16).ptr;
  out.append(size.data(), end);
  out += "\r\n";
  out += data;
  out += "\r\n";
}

void appendLastChunk(std::string &out) { out += "0\r\n\r\n"; }

} // namespace moe::server::http
