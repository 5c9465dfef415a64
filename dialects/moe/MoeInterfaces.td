// Interfaces of moe ops.
#ifndef MOE_DIALECTS_MOE_MOEINTERFACES_TD
#define MOE_DIALECTS_MOE_MOEINTERFACES_TD

include "mlir/IR/OpBase.td"

def Moe_WeightUser : OpInterface<"WeightUser"> {
  let cppNamespace = "::moe";
  let description = [{
    An op that reads weights. What each is for is a fact of the op, which says it once: the packing
    of weights, their lowering and calibration ask it here.
  }];
  let methods = [
    InterfaceMethod<"The operands that are weights, in the order of the operands.",
                    "::llvm::SmallVector<::moe::WeightUse>", "getWeightUses">];
}

#endif
