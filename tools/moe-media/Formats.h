// Which formats this build reads.
#ifndef MOE_TOOLS_MOE_MEDIA_FORMATS_H
#define MOE_TOOLS_MOE_MEDIA_FORMATS_H

namespace moe {

#ifdef MOE_MEDIA_GIF
inline constexpr bool kReadsGif = true;
#define MOE_MEDIA_GIF_NAME ", GIF"
#else
inline constexpr bool kReadsGif = false;
#define MOE_MEDIA_GIF_NAME ""
#endif
#ifdef MOE_MEDIA_AVIF
inline constexpr bool kReadsAvif = true;
#define MOE_MEDIA_AVIF_NAME ", AVIF"
#else
inline constexpr bool kReadsAvif = false;
#define MOE_MEDIA_AVIF_NAME ""
#endif
inline constexpr const char *kTypes = "JPEG, PNG, WebP" MOE_MEDIA_GIF_NAME MOE_MEDIA_AVIF_NAME;

} // namespace moe

#endif
