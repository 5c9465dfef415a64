// The plan dialect: what a plan file will hold.
#ifndef MOE_DIALECTS_PLAN_PLANDIALECT_TD
#define MOE_DIALECTS_PLAN_PLANDIALECT_TD

include "mlir/IR/OpBase.td"
include "mlir/IR/AttrTypeBase.td"
include "mlir/IR/EnumAttr.td"

def Plan_Dialect : Dialect {
  let name = "plan";
  let cppNamespace = "::moe::plan";
  let summary = "buffers with offsets, and kernel calls in order: what the plan file will hold";
  let description = [{
    A module holds packed tensors (`plan.tensor`), cache pools (`plan.pool`), kernels
    (`plan.kernel`) and, for each device and token bucket, one program (`plan.program`) whose body
    names buffers and calls kernels on them. Devices share nothing but the model: each has its own
    tensors and pools.
  }];
  let useDefaultTypePrinterParser = 1;
  let useDefaultAttributePrinterParser = 1;
}

class Plan_Type<string name, string mnemonic_> : TypeDef<Plan_Dialect, name> {
  let mnemonic = mnemonic_;
}

def Plan_Buffer : Plan_Type<"Buffer", "buffer"> {
  let summary = "bytes that a kernel reads or writes";
}

def Plan_InputName : I32EnumAttr<"InputName", "an input of a step", [
    I32EnumAttrCase<"Tokens", 0, "tokens">,
    I32EnumAttrCase<"Positions", 1, "positions">,
    I32EnumAttrCase<"Sequences", 2, "sequences">,
    I32EnumAttrCase<"Rows", 3, "rows">,
    I32EnumAttrCase<"GlobalTable", 4, "global_table">,
    I32EnumAttrCase<"ChunkedTable", 5, "chunked_table">,
    I32EnumAttrCase<"Sampling", 6, "sampling">]> {
  let cppNamespace = "::moe::plan";
  let genSpecializedAttr = 0;
}

#endif
