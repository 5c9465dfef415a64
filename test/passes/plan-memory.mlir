// RUN: moe-opt %s --plan-memory | FileCheck %s

plan.kernel @copy device "cpu" operands 2

// A chain reuses two places, however long it is; sizes are rounded up to 64.
// CHECK-LABEL: plan.program @chain {{.*}} arena 256 {
// CHECK: plan.alloc 100 at 0
// CHECK: plan.alloc 100 at 128
// CHECK: plan.alloc 100 at 0
// CHECK: plan.alloc 100 at 128
plan.program @chain device "cpu" tokens 1 rows 1 scratch 0 {
  %in = plan.input tokens
  %a = plan.alloc 100
  %b = plan.alloc 100
  %c = plan.alloc 100
  %d = plan.alloc 100
  plan.call @copy(%in, %a)
  plan.call @copy(%a, %b)
  plan.call @copy(%b, %c)
  plan.call @copy(%c, %d)
}

// A buffer that lives throughout, as the residual stream does, is never under another.
// CHECK-LABEL: plan.program @residual {{.*}} arena 320 {
// CHECK: plan.alloc 64 at 256
// CHECK: plan.alloc 128 at 0
// CHECK: plan.alloc 128 at 128
plan.program @residual device "cpu" tokens 1 rows 1 scratch 0 {
  %h = plan.alloc 64
  %a = plan.alloc 128
  %b = plan.alloc 128
  plan.call @copy(%h, %a)
  plan.call @copy(%a, %b)
  plan.call @copy(%b, %h)
}

// The smallest gap that fits is taken: @small goes between, not behind.
// CHECK-LABEL: plan.program @gap {{.*}} arena 640 {
// CHECK: plan.alloc 256 at 0
// CHECK: plan.alloc 192 at 256
// CHECK: plan.alloc 192 at 448
// CHECK: plan.alloc 64 at 256
plan.program @gap device "cpu" tokens 1 rows 1 scratch 0 {
  %long = plan.alloc 256
  %short = plan.alloc 192
  %other = plan.alloc 192
  plan.call @copy(%long, %short)
  plan.call @copy(%short, %other)
  %small = plan.alloc 64
  plan.call @copy(%other, %small)
  plan.call @copy(%small, %long)
}

// What nothing uses needs no place, and offsets of an earlier run do not matter.
// CHECK-LABEL: plan.program @again {{.*}} arena 64 {
// CHECK-NEXT: plan.alloc 64 at 0
// CHECK-NEXT: plan.call
plan.program @again device "cpu" tokens 1 rows 1 scratch 0 arena 4096 {
  %a = plan.alloc 64 at 1024
  %unused = plan.alloc 64 at 2048
  plan.call @copy(%a, %a)
}

// CHECK-LABEL: plan.program @empty {{.*}} arena 0 {
plan.program @empty device "cpu" tokens 1 rows 1 scratch 0 {
}

// On a GPU places are multiples of 256.
plan.kernel @copy.cuda device "cuda" operands 2
// CHECK-LABEL: plan.program @cuda {{.*}} arena 768 {
// CHECK-NEXT: plan.alloc 300 at 0
// CHECK-NEXT: plan.alloc 4 at 512
plan.program @cuda device "cuda" tokens 1 rows 1 scratch 0 {
  %a = plan.alloc 300
  %b = plan.alloc 4
  plan.call @copy.cuda(%a, %b) blocks 1
}
