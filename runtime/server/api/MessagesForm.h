// How /v1/messages and /v1/responses answer: one choice, as a list of texts and calls.
#ifndef MOE_RUNTIME_SERVER_API_MESSAGESFORM_H
#define MOE_RUNTIME_SERVER_API_MESSAGESFORM_H

#include "runtime/server/api/Answer.h"

namespace moe::server::api {

std::unique_ptr<Form> makeMessagesForm(const ServedModel &model);

// `echoed`: members of the request that the response repeats, as JSON without its braces.
std::unique_ptr<Form> makeResponsesForm(std::shared_ptr<const ServedModel> model,
                                        std::string echoed, bool logprobs);

// An event with a name, as both send them.
void appendNamedEvent(std::string &out, std::string_view name, std::string_view data);

} // namespace moe::server::api

#endif
