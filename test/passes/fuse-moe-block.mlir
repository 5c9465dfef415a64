// RUN: moe-opt %s --moe-fuse-moe-block --moe-drop-unused-weights --split-input-file | FileCheck %s

// The shared expert keeps weights of its own. The experts of this checkpoint are fused and stored
// inputs first: one source a weight, of which gate and up take turns expert by expert.
// CHECK: moe.weight @l.norm
// CHECK-NEXT: moe.weight @l.router
// CHECK-NEXT: moe.weight @l.moe.shared_gate_up : tensor<8x8xbf16> from
// CHECK-SAME: [#moe.source<"sg", [0, 0], [4, 8]>, #moe.source<"su", [0, 0], [4, 8]>]
// CHECK-NEXT: moe.weight @l.moe.shared_down : tensor<8x4xbf16> from
// CHECK-SAME: [#moe.source<"sd", [0, 0], [8, 4]>]
// CHECK-NEXT: moe.weight @l.moe.gate_up : tensor<2x8x8xbf16> from
// CHECK-SAME: [#moe.source<"gu", [0, 0, 0], [2, 8, 4], true>, #moe.source<"gu", [0, 0, 4], [2, 8, 4], true>] along 1{{$}}
// CHECK-NEXT: moe.weight @l.moe.down : tensor<2x8x4xbf16> from
// CHECK-SAME: [#moe.source<"d", [0, 0, 0], [2, 4, 8], true>]
// CHECK-LABEL: func.func @fused_experts
// CHECK-SAME: (%[[H:.*]]: tensor<?x8xf32>)
// CHECK-DAG: %[[NORM:.*]] = moe.load_weight @l.norm
// CHECK-DAG: %[[ROUTER:.*]] = moe.load_weight @l.router
// CHECK-DAG: %[[SHARED_GATE_UP:.*]] = moe.load_weight @l.moe.shared_gate_up
// CHECK-DAG: %[[GATE_UP:.*]] = moe.load_weight @l.moe.gate_up
// CHECK-DAG: %[[SHARED_DOWN:.*]] = moe.load_weight @l.moe.shared_down
// CHECK-DAG: %[[DOWN:.*]] = moe.load_weight @l.moe.down
// CHECK-NEXT: %[[Y:.*]] = moe.moe_block %[[H]], %[[NORM]], %[[ROUTER]], %[[SHARED_GATE_UP]], %[[GATE_UP]], %[[SHARED_DOWN]], %[[DOWN]] top 1 eps
// CHECK-NEXT: return %[[Y]]
moe.weight @l.norm : tensor<8xbf16> from [#moe.source<"n", [0], [8]>]
moe.weight @l.router : tensor<2x8xbf16> from [#moe.source<"r", [0, 0], [2, 8]>]
moe.weight @l.shared.gate : tensor<4x8xbf16> from [#moe.source<"sg", [0, 0], [4, 8]>]
moe.weight @l.shared.up : tensor<4x8xbf16> from [#moe.source<"su", [0, 0], [4, 8]>]
moe.weight @l.shared.down : tensor<8x4xbf16> from [#moe.source<"sd", [0, 0], [8, 4]>]
moe.weight @l.experts.gate : tensor<2x4x8xbf16> from [#moe.source<"gu", [0, 0, 0], [2, 8, 4], true>]
moe.weight @l.experts.up : tensor<2x4x8xbf16> from [#moe.source<"gu", [0, 0, 4], [2, 8, 4], true>]
moe.weight @l.experts.down : tensor<2x8x4xbf16> from [#moe.source<"d", [0, 0, 0], [2, 4, 8], true>]
func.func @fused_experts(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @l.norm : tensor<8xbf16>
  %wr = moe.load_weight @l.router : tensor<2x8xbf16>
  %sg = moe.load_weight @l.shared.gate : tensor<4x8xbf16>
  %su = moe.load_weight @l.shared.up : tensor<4x8xbf16>
  %sd = moe.load_weight @l.shared.down : tensor<8x4xbf16>
  %eg = moe.load_weight @l.experts.gate : tensor<2x4x8xbf16>
  %eu = moe.load_weight @l.experts.up : tensor<2x4x8xbf16>
  %ed = moe.load_weight @l.experts.down : tensor<2x8x4xbf16>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xbf16>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xbf16> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xbf16> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xbf16> -> tensor<?x8xf32>
  %l = moe.linear %n, %wr : tensor<?x8xf32>, tensor<2x8xbf16> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<2x4x8xbf16>, tensor<2x4x8xbf16>, tensor<2x8x4xbf16>
  %sum = moe.add %shared, %routed : tensor<?x8xf32>
  %y = moe.add %h, %sum : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

// Experts of a source each, a shared one of other elements, and another order of the sum.
// CHECK: moe.weight @moe.shared_gate_up : tensor<8x8xf32> from
// CHECK-SAME: [#moe.source<"sg", [0, 0], [4, 8]>, #moe.source<"su", [0, 0], [4, 8]>]
// CHECK: moe.weight @moe.shared_down : tensor<8x4xbf16> from
// CHECK-SAME: [#moe.source<"sd", [0, 0], [8, 4]>]
// CHECK: moe.weight @moe.gate_up : tensor<2x8x8xbf16> from
// CHECK-SAME: [#moe.source<"g.0", [0, 0], [4, 8]>, #moe.source<"u.0", [0, 0], [4, 8]>,
// CHECK-SAME: #moe.source<"g.1", [0, 0], [4, 8]>, #moe.source<"u.1", [0, 0], [4, 8]>]
// CHECK: moe.weight @moe.down : tensor<2x8x4xf32> from
// CHECK-SAME: [#moe.source<"d.0", [0, 0], [8, 4]>, #moe.source<"d.1", [0, 0], [8, 4]>]
// CHECK-LABEL: func.func @separate_experts
// CHECK: moe.moe_block
// CHECK-NEXT: return
moe.weight @norm : tensor<8xf32> from [#moe.source<"n", [0], [8]>]
moe.weight @router : tensor<2x8xf32> from [#moe.source<"r", [0, 0], [2, 8]>]
moe.weight @shared.gate : tensor<4x8xf32> from [#moe.source<"sg", [0, 0], [4, 8]>]
moe.weight @shared.up : tensor<4x8xf32> from [#moe.source<"su", [0, 0], [4, 8]>]
moe.weight @shared.down : tensor<8x4xbf16> from [#moe.source<"sd", [0, 0], [8, 4]>]
moe.weight @experts.gate : tensor<2x4x8xbf16> from [#moe.source<"g.0", [0, 0], [4, 8]>, #moe.source<"g.1", [0, 0], [4, 8]>]
moe.weight @experts.up : tensor<2x4x8xbf16> from [#moe.source<"u.0", [0, 0], [4, 8]>, #moe.source<"u.1", [0, 0], [4, 8]>]
moe.weight @experts.down : tensor<2x8x4xf32> from [#moe.source<"d.0", [0, 0], [8, 4]>, #moe.source<"d.1", [0, 0], [8, 4]>]
func.func @separate_experts(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wr = moe.load_weight @router : tensor<2x8xf32>
  %sg = moe.load_weight @shared.gate : tensor<4x8xf32>
  %su = moe.load_weight @shared.up : tensor<4x8xf32>
  %sd = moe.load_weight @shared.down : tensor<8x4xbf16>
  %eg = moe.load_weight @experts.gate : tensor<2x4x8xbf16>
  %eu = moe.load_weight @experts.up : tensor<2x4x8xbf16>
  %ed = moe.load_weight @experts.down : tensor<2x8x4xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %l = moe.linear %n, %wr : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 2 : tensor<?x2xf32> -> tensor<?x2xi32>, tensor<?x2xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x2xi32>,
      tensor<?x2xf32>, tensor<2x4x8xbf16>, tensor<2x4x8xbf16>, tensor<2x8x4xf32>
  %sum = moe.add %routed, %h : tensor<?x8xf32>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xbf16> -> tensor<?x8xf32>
  %y = moe.add %sum, %shared : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// -----

moe.weight @norm : tensor<8xf32> from [#moe.source<"n", [0], [8]>]
moe.weight @router : tensor<2x8xf32> from [#moe.source<"r", [0, 0], [2, 8]>]
moe.weight @shared.gate : tensor<4x8xf32> from [#moe.source<"sg", [0, 0], [4, 8]>]
moe.weight @shared.up : tensor<4x8xf32> from [#moe.source<"su", [0, 0], [4, 8]>]
moe.weight @shared.down : tensor<8x4xf32> from [#moe.source<"sd", [0, 0], [8, 4]>]
moe.weight @experts.gate : tensor<2x4x8xf32> from [#moe.source<"g", [0, 0, 0], [2, 4, 8]>]
moe.weight @experts.up : tensor<2x4x8xf32> from [#moe.source<"u", [0, 0, 0], [2, 4, 8]>]
moe.weight @experts.down : tensor<2x8x4xf32> from [#moe.source<"d", [0, 0, 0], [2, 8, 4]>]
moe.weight @packed.down : tensor<2x8x4xf32> from [#moe.source<"d", [0, 0, 0], [2, 8, 4]>] packed #moe.packing<matrix, f32>
moe.weight @wide.gate : tensor<2x6x8xf32> from [#moe.source<"wg", [0, 0, 0], [2, 6, 8]>]
moe.weight @wide.up : tensor<2x6x8xf32> from [#moe.source<"wu", [0, 0, 0], [2, 6, 8]>]
moe.weight @wide.down : tensor<2x8x6xf32> from [#moe.source<"wd", [0, 0, 0], [2, 8, 6]>]

// The routed experts are wider than the shared one.
// CHECK-LABEL: func.func @wide
// CHECK-NOT: moe.moe_block
// CHECK: moe.experts
func.func @wide(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wr = moe.load_weight @router : tensor<2x8xf32>
  %sg = moe.load_weight @shared.gate : tensor<4x8xf32>
  %su = moe.load_weight @shared.up : tensor<4x8xf32>
  %sd = moe.load_weight @shared.down : tensor<8x4xf32>
  %eg = moe.load_weight @wide.gate : tensor<2x6x8xf32>
  %eu = moe.load_weight @wide.up : tensor<2x6x8xf32>
  %ed = moe.load_weight @wide.down : tensor<2x8x6xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xf32> -> tensor<?x8xf32>
  %l = moe.linear %n, %wr : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<2x6x8xf32>, tensor<2x6x8xf32>, tensor<2x8x6xf32>
  %sum = moe.add %shared, %routed : tensor<?x8xf32>
  %y = moe.add %h, %sum : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// The chosen experts are wanted too.
// CHECK-LABEL: func.func @choice_used
// CHECK-NOT: moe.moe_block
// CHECK: moe.experts
func.func @choice_used(%h: tensor<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x1xi32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wr = moe.load_weight @router : tensor<2x8xf32>
  %sg = moe.load_weight @shared.gate : tensor<4x8xf32>
  %su = moe.load_weight @shared.up : tensor<4x8xf32>
  %sd = moe.load_weight @shared.down : tensor<8x4xf32>
  %eg = moe.load_weight @experts.gate : tensor<2x4x8xf32>
  %eu = moe.load_weight @experts.up : tensor<2x4x8xf32>
  %ed = moe.load_weight @experts.down : tensor<2x8x4xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xf32> -> tensor<?x8xf32>
  %l = moe.linear %n, %wr : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x8x4xf32>
  %sum = moe.add %shared, %routed : tensor<?x8xf32>
  %y = moe.add %h, %sum : tensor<?x8xf32>
  return %y, %e : tensor<?x8xf32>, tensor<?x1xi32>
}

// The norm is wanted too.
// CHECK-LABEL: func.func @norm_used
// CHECK-NOT: moe.moe_block
// CHECK: moe.experts
func.func @norm_used(%h: tensor<?x8xf32>) -> (tensor<?x8xf32>, tensor<?x8xf32>) {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wr = moe.load_weight @router : tensor<2x8xf32>
  %sg = moe.load_weight @shared.gate : tensor<4x8xf32>
  %su = moe.load_weight @shared.up : tensor<4x8xf32>
  %sd = moe.load_weight @shared.down : tensor<8x4xf32>
  %eg = moe.load_weight @experts.gate : tensor<2x4x8xf32>
  %eu = moe.load_weight @experts.up : tensor<2x4x8xf32>
  %ed = moe.load_weight @experts.down : tensor<2x8x4xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xf32> -> tensor<?x8xf32>
  %l = moe.linear %n, %wr : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x8x4xf32>
  %sum = moe.add %shared, %routed : tensor<?x8xf32>
  %y = moe.add %h, %sum : tensor<?x8xf32>
  return %y, %n : tensor<?x8xf32>, tensor<?x8xf32>
}

// The bytes of a weight that has a packing are fixed.
// CHECK-LABEL: func.func @packed
// CHECK-NOT: moe.moe_block
// CHECK: moe.experts
func.func @packed(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wr = moe.load_weight @router : tensor<2x8xf32>
  %sg = moe.load_weight @shared.gate : tensor<4x8xf32>
  %su = moe.load_weight @shared.up : tensor<4x8xf32>
  %sd = moe.load_weight @shared.down : tensor<8x4xf32>
  %eg = moe.load_weight @experts.gate : tensor<2x4x8xf32>
  %eu = moe.load_weight @experts.up : tensor<2x4x8xf32>
  %ed = moe.load_weight @packed.down : tensor<2x8x4xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xf32> -> tensor<?x8xf32>
  %l = moe.linear %n, %wr : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x8x4xf32>
  %sum = moe.add %shared, %routed : tensor<?x8xf32>
  %y = moe.add %h, %sum : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}

// The router sees the residual stream itself.
// CHECK-LABEL: func.func @raw_router
// CHECK-NOT: moe.moe_block
// CHECK: moe.experts
func.func @raw_router(%h: tensor<?x8xf32>) -> tensor<?x8xf32> {
  %norm = moe.load_weight @norm : tensor<8xf32>
  %wr = moe.load_weight @router : tensor<2x8xf32>
  %sg = moe.load_weight @shared.gate : tensor<4x8xf32>
  %su = moe.load_weight @shared.up : tensor<4x8xf32>
  %sd = moe.load_weight @shared.down : tensor<8x4xf32>
  %eg = moe.load_weight @experts.gate : tensor<2x4x8xf32>
  %eu = moe.load_weight @experts.up : tensor<2x4x8xf32>
  %ed = moe.load_weight @experts.down : tensor<2x8x4xf32>
  %n = moe.rms_norm %h, %norm eps 1.0e-5 : tensor<?x8xf32>, tensor<8xf32>
  %g = moe.linear %n, %sg : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %u = moe.linear %n, %su : tensor<?x8xf32>, tensor<4x8xf32> -> tensor<?x4xf32>
  %s = moe.swiglu %g, %u : tensor<?x4xf32>
  %shared = moe.linear %s, %sd : tensor<?x4xf32>, tensor<8x4xf32> -> tensor<?x8xf32>
  %l = moe.linear %h, %wr : tensor<?x8xf32>, tensor<2x8xf32> -> tensor<?x2xf32>
  %e, %sc = moe.route %l top 1 : tensor<?x2xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
  %routed = moe.experts %n, %e, %sc, %eg, %eu, %ed : tensor<?x8xf32>, tensor<?x1xi32>,
      tensor<?x1xf32>, tensor<2x4x8xf32>, tensor<2x4x8xf32>, tensor<2x8x4xf32>
  %sum = moe.add %shared, %routed : tensor<?x8xf32>
  %y = moe.add %h, %sum : tensor<?x8xf32>
  return %y : tensor<?x8xf32>
}
