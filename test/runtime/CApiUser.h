/* A program in C that generates with runtime/moe.h, called by a test. */
#ifndef MOE_TEST_RUNTIME_CAPIUSER_H
#define MOE_TEST_RUNTIME_CAPIUSER_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Writes what follows `prompt`, at most `tokens` tokens, to `answer`. Returns null, or what failed.
 */
const char *completeInC(const char *path, const char *prompt, int tokens, const char *stop,
                        char *answer, size_t capacity);

#ifdef __cplusplus
}
#endif

#endif
