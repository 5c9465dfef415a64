// Reads from Exif the one thing that changes a picture: which way is up.
#ifndef MOE_TOOLS_MOE_MEDIA_EXIF_H
#define MOE_TOOLS_MOE_MEDIA_EXIF_H

#include "tools/moe-media/Decode.h"

namespace moe {

// Of a block of Exif, with or without the "Exif\0\0" before its TIFF header. AsItIs where the block
// is damaged, or says nothing.
Orientation exifOrientation(FileBytes exif);

} // namespace moe

#endif
