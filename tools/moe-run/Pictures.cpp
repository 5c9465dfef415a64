// Files of pictures are read by their bytes; their decoders are in moe-media.
#include "tools/moe-run/Pictures.h"

#include "runtime/vision/MediaProcess.h"
#include "runtime/vision/Video.h"
#include "tools/moe-run/Files.h"

#include <charconv>

namespace moe {
namespace {

// Of pixels as they are, with a header.
constexpr int64_t kMostPictureBytes = kMaxPicturePixels * 3 + 4096;

struct RawName {
  int32_t width, height;
  std::string path;
};

// "640x480:PATH".
std::optional<RawName> rawNameOf(const std::string &name) {
  RawName raw{};
  const char *end = name.data() + name.size();
  auto [x, error] = std::from_chars(name.data(), end, raw.width);
  if (error != std::errc() || x == end || *x != 'x')
    return std::nullopt;
  auto [colon, otherError] = std::from_chars(x + 1, end, raw.height);
  if (otherError != std::errc() || colon == end || *colon != ':')
    return std::nullopt;
  raw.path.assign(colon + 1, end);
  return raw;
}

template <typename T> Result<T> named(const std::string &name, Result<T> result) {
  if (result)
    return result;
  return Error{result.error().code, name + ": " + result.error().message};
}

std::span<const std::byte> bytesOf(const std::string &text) {
  return std::as_bytes(std::span(text));
}

Result<Picture> readPictureFile(const std::string &name) {
  const std::optional<RawName> raw = rawNameOf(name);
  if (!raw) {
    MOE_ASSIGN(file, readAll(name, kMostPictureBytes));
    return named(name, readPicture(bytesOf(file)));
  }
  MOE_TRY(named(name, checkPictureSize(raw->width, raw->height)));
  MOE_ASSIGN(file, readAll(raw->path, kMostPictureBytes));
  Picture picture{raw->width, raw->height, std::vector<uint8_t>(file.begin(), file.end())};
  MOE_TRY(named(name, checkPicture(picture)));
  return picture;
}

} // namespace

Result<Tiles> readTiles(const std::string &name, const VisionFormat &format) {
  MOE_ASSIGN(picture, readPictureFile(name));
  return cutTiles(picture, format);
}

Result<std::vector<ReadMedia>> readMedia(std::span<const MediaFile> files,
                                         const VisionFormat &format) {
  std::vector<ReadMedia> media;
  for (const MediaFile &file : files) {
    ReadMedia &read = media.emplace_back();
    if (!file.isVideo) {
      MOE_ASSIGN(tiles, readTiles(file.name, format));
      read.frames.push_back({"", std::move(tiles)});
      continue;
    }
    MOE_ASSIGN(bytes, readAll(file.name, kMaxVideoFileBytes));
    MOE_ASSIGN(frames, named(file.name, readVideo(bytesOf(bytes))));
    for (const VideoFrame &frame : frames) {
      MOE_ASSIGN(tiles, cutTiles(frame.picture, format, 1));
      read.frames.push_back({timeLabel(frame.seconds), std::move(tiles)});
    }
  }
  return media;
}

namespace {

// The pictures of media, and what stands for one of them in a prompt: with labels before frames.
std::vector<int32_t> takeFrames(ReadMedia &media, const VisionFormat &format,
                                const Tokenizer *tokenizer, std::vector<Tiles> &pictures) {
  std::vector<int32_t> tokens;
  for (ReadMedia::Frame &frame : media.frames) {
    if (tokenizer)
      tokenizer->encode(frame.label, tokens, /*parseSpecial=*/false);
    tokens.push_back(format.image);
    pictures.push_back(std::move(frame.tiles));
  }
  return tokens;
}

constexpr std::string_view kPlaceholder = "<image>";

// A prompt of text, with VisionFormat::image where pictures stand.
Result<std::vector<int32_t>> textWithPlaces(PromptOptions prompt, std::vector<ReadMedia> &media,
                                            const VisionFormat &format, const Opened &opened,
                                            std::vector<Tiles> &pictures) {
  if (prompt.file) {
    MOE_ASSIGN(text, readAll(*prompt.file));
    prompt.text = text;
    prompt.file.reset();
  }
  const Tokenizer *tokenizer = opened.tokenizer ? &*opened.tokenizer : nullptr;
  if (tokenizer) {
    const std::string_view token = tokenizer->bytes(format.image);
    for (size_t at = 0; (at = prompt.text->find(kPlaceholder, at)) != std::string::npos;
         at += token.size())
      prompt.text->replace(at, kPlaceholder.size(), token);
  }
  MOE_ASSIGN(ids, promptTokens(prompt, opened));
  const auto places = size_t(std::count(ids.begin(), ids.end(), format.image));
  if (places && places != media.size())
    return Error{
        Code::InvalidArgument,
        std::to_string(media.size()) + " pictures and films were given, and the prompt has " +
            std::to_string(places) + " places for them: write " + std::string(kPlaceholder) +
            " once for each, or nowhere, to have all of them before the text"};
  std::vector<int32_t> tokens;
  size_t next = 0;
  const auto add = [&] {
    const auto taken = takeFrames(media[next++], format, tokenizer, pictures);
    tokens.insert(tokens.end(), taken.begin(), taken.end());
  };
  const bool hasBos = !ids.empty() && tokenizer->addBos() && ids[0] == tokenizer->bos();
  for (size_t i = 0; i <= ids.size(); ++i) {
    if (places == 0 && i == size_t(hasBos))
      while (next < media.size())
        add();
    if (i == ids.size())
      break;
    if (ids[i] == format.image)
      add();
    else
      tokens.push_back(ids[i]);
  }
  return tokens;
}

} // namespace

Result<PromptWithPictures> promptWithPictures(const PromptOptions &prompt,
                                              std::span<const MediaFile> files,
                                              const Opened &opened) {
  PromptWithPictures result;
  if (files.empty()) {
    MOE_ASSIGN(tokens, promptTokens(prompt, opened));
    if (opened.plan.index().vision()) { // tokens of pictures would be refused: there are none
      MOE_ASSIGN(format, planVision(opened.plan));
      MOE_TRY(findImages(tokens, {}, format));
    }
    result.tokens = std::move(tokens);
    return result;
  }
  MOE_ASSIGN(format, planVision(opened.plan));
  MOE_ASSIGN(media, readMedia(files, format));
  if (prompt.tokenFile) {
    MOE_ASSIGN(tokens, promptTokens(prompt, opened));
    for (ReadMedia &each : media)
      takeFrames(each, format, nullptr, result.pictures);
    MOE_ASSIGN(positions, findImages(tokens, result.pictures, format));
    result.tokens = std::move(tokens);
    result.positions = std::move(positions);
    return result;
  }
  MOE_ASSIGN(ids, textWithPlaces(prompt, media, format, opened, result.pictures));
  MOE_ASSIGN(placed, placeImages(ids, result.pictures, format));
  result.tokens = std::move(placed.tokens);
  result.positions = std::move(placed.positions);
  return result;
}

Status setPictures(Session &session, int32_t sequence, const PromptWithPictures &prompt,
                   const Opened &opened) {
  if (prompt.pictures.empty())
    return ok();
  MOE_ASSIGN(format, planVision(opened.plan));
  MOE_TRY(checkImagesFit(session, int64_t(prompt.tokens.size()), prompt.pictures, format));
  MOE_ASSIGN(spans, encodeImages(session, prompt.pictures, prompt.positions));
  return session.setImages(sequence, spans);
}

} // namespace moe
