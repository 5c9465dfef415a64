// Streams, what is captured of them, and events.
#include "runtime/device/ptxsim/DriverCalls.h"

namespace moe::ptxsim {

using namespace cuda;

namespace {

CUresult streamCreate(CUstream *stream, unsigned) {
  return inContext([&](CUctx_st &context) {
    auto fresh = std::make_unique<CUstream_st>();
    *stream = fresh.get();
    context.streams.emplace(*stream, std::move(fresh));
    return CUresult::success;
  });
}

CUresult streamDestroy(CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.streams, stream))
      return CUresult::invalidHandle;
    CUresult result = context.finish(stream);
    for (auto &[handle, event] : context.events)
      if (event->stream == stream)
        event->stream = nullptr;
    context.streams.erase(stream);
    return result;
  });
}

CUresult streamSynchronize(CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knowsStream(context, stream))
      return CUresult::invalidHandle;
    if (stream && stream->capture)
      return requireNoCapture(context);
    return stream ? context.finish(stream) : context.finishAll();
  });
}

CUresult streamBeginCapture(CUstream stream, StreamCaptureMode) {
  return inContext([&](CUctx_st &context) {
    if (!stream || !knows(context.streams, stream))
      return CUresult::streamCaptureUnsupported;
    if (stream->capture)
      return CUresult::invalidValue;
    stream->capture = std::make_unique<CUgraph_st>();
    stream->invalidated = false;
    return CUresult::success;
  });
}

CUresult streamEndCapture(CUstream stream, CUgraph *graph) {
  return inContext([&](CUctx_st &context) {
    *graph = nullptr;
    if (!stream || !knows(context.streams, stream) || !stream->capture)
      return CUresult::invalidValue;
    auto captured = std::move(stream->capture);
    if (stream->invalidated)
      return CUresult::streamCaptureInvalidated;
    *graph = captured.get();
    context.graphs.emplace(*graph, std::move(captured));
    return CUresult::success;
  });
}

CUresult graphInstantiate(CUgraphExec *exec, CUgraph graph, unsigned long long) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.graphs, graph))
      return CUresult::invalidHandle;
    auto fresh = std::make_unique<CUgraphExec_st>();
    fresh->work = graph->work;
    *exec = fresh.get();
    context.executables.emplace(*exec, std::move(fresh));
    return CUresult::success;
  });
}

CUresult graphLaunch(CUgraphExec exec, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.executables, exec) || !knowsStream(context, stream))
      return CUresult::invalidHandle;
    for (const Work &work : exec->work)
      if (CUresult result = context.enqueue(stream, work); result != CUresult::success)
        return result;
    return CUresult::success;
  });
}

CUresult graphExecDestroy(CUgraphExec exec) {
  return inContext([&](CUctx_st &context) {
    return context.executables.erase(exec) ? CUresult::success : CUresult::invalidHandle;
  });
}

CUresult graphDestroy(CUgraph graph) {
  return inContext([&](CUctx_st &context) {
    return context.graphs.erase(graph) ? CUresult::success : CUresult::invalidHandle;
  });
}

CUresult eventCreate(CUevent *event, unsigned flags) {
  return inContext([&](CUctx_st &context) {
    auto fresh = std::make_unique<CUevent_st>();
    fresh->timed = !(flags & kEventDisableTiming);
    *event = fresh.get();
    context.events.emplace(*event, std::move(fresh));
    return CUresult::success;
  });
}

CUresult eventRecord(CUevent event, CUstream stream) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, event) || !knowsStream(context, stream))
      return CUresult::invalidHandle;
    event->recorded = true;
    event->stream = stream;
    return context.enqueue(stream, Record{event});
  });
}

// Finishes all that the event's stream holds, which is more than what came before the event.
CUresult eventSynchronize(CUevent event) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, event))
      return CUresult::invalidHandle;
    return event->recorded && event->stream ? context.finish(event->stream) : CUresult::success;
  });
}

CUresult eventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, start) || !knows(context.events, end) || !start->recorded ||
        !end->recorded || !start->timed || !end->timed)
      return CUresult::invalidHandle;
    for (CUevent event : {start, end})
      if (event->stream && !event->stream->queue.empty())
        return CUresult::notReady;
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
    return CUresult::success;
  });
}

CUresult eventDestroy(CUevent event) {
  return inContext([&](CUctx_st &context) {
    if (!knows(context.events, event))
      return CUresult::invalidHandle;
    CUresult result = context.finishAll(); // it may yet be recorded
    context.events.erase(event);
    return result;
  });
}

} // namespace

void fillStreams(DriverApi &api) {
  api.cuStreamCreate = streamCreate;
  api.cuStreamDestroy = streamDestroy;
  api.cuStreamSynchronize = streamSynchronize;
  api.cuStreamBeginCapture = streamBeginCapture;
  api.cuStreamEndCapture = streamEndCapture;
  api.cuGraphInstantiateWithFlags = graphInstantiate;
  api.cuGraphLaunch = graphLaunch;
  api.cuGraphExecDestroy = graphExecDestroy;
  api.cuGraphDestroy = graphDestroy;
  api.cuEventCreate = eventCreate;
  api.cuEventRecord = eventRecord;
  api.cuEventSynchronize = eventSynchronize;
  api.cuEventElapsedTime = eventElapsedTime;
  api.cuEventDestroy = eventDestroy;
}

} // namespace moe::ptxsim
